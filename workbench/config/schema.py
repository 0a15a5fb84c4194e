"""What a study is made of: frozen dataclasses, with units in their names.

Two families live here. `Config` and its parts are what a researcher writes (Hydra composes them,
`workbench.config.compose` builds them, and Hydra ends there). `Stage` is what the planner makes of
them: one piece of one training trajectory, complete enough to be run from its directory alone.

Every class validates itself when it is made: `__post_init__` raises `ValueError` quoting the value,
does no I/O and changes nothing. Only the standard library is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.config.plain import (
    check_above,
    check_at_least,
    check_choice,
    check_name,
    exact_weights,
    from_dict,
    to_dict,
)

__all__ = ["Config", "Stage", "exact_weights", "from_dict", "to_dict"]

MLPS = ("swiglu", "gelu")
NORMS = ("rmsnorm", "layernorm")
POSITIONS = ("rope", "learned", "none")
PRECISIONS = ("fp32", "bf16")
ATTENTIONS = ("sdpa", "flash_attn")
DECAYS = ("constant", "cosine", "linear", "sqrt")
SPANS = ("phase", "budget")
SOURCE_KINDS = ("python_prose", "python_code", "python_headers", "jsonl", "parquet", "text", "huggingface")
TOKENIZER_KINDS = ("bpe", "file")
DEVICES = ("auto", "cpu", "cuda")
KV_HEADS = ("multi_head", "multi_query")
PARALLELS = ("replicate", "shard")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder with Llama 2's architecture, and the switches that ablations turn."""

    name: str
    """Short name, used in figures and run names."""
    num_layers: int
    """Transformer blocks."""
    width: int
    """Residual stream's width (hidden size)."""
    num_heads: int
    """Query heads; `width` is divided among them."""
    num_kv_heads: int
    """Key-value heads: `num_heads` for multi-head, 1 for multi-query, between for grouped-query."""
    mlp_width: int
    """Hidden width of the feed-forward block."""
    vocab_size: int
    """Rows of the embedding; must equal the tokenizer's."""
    context_tokens: int
    """Sequence length in tokens."""
    mlp: str = "swiglu"
    """`swiglu` (three matrices) or `gelu` (two)."""
    norm: str = "rmsnorm"
    """`rmsnorm` or `layernorm` (with gain, without bias)."""
    position: str = "rope"
    """`rope`, `learned` (an added table) or `none`."""
    tie_embeddings: bool = False
    """The output head shares the embedding's weights."""
    qk_norm: bool = False
    """Normalise queries and keys per head before the rotation."""
    rope_theta: float = 10000.0
    """RoPE's base."""
    norm_eps: float = 1e-5
    """Added to the mean square (or variance) in every norm."""

    def __post_init__(self) -> None:
        """Refuse impossible shapes."""
        for name in ("num_layers", "width", "num_heads", "num_kv_heads", "mlp_width", "vocab_size", "context_tokens"):
            check_at_least(f"model.{name}", getattr(self, name), 1)
        check_choice("model.mlp", self.mlp, MLPS)
        check_choice("model.norm", self.norm, NORMS)
        check_choice("model.position", self.position, POSITIONS)
        if self.width % self.num_heads:
            raise ValueError(f"model.width={self.width} is not divisible by model.num_heads={self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model.num_heads={self.num_heads} is not divisible by model.num_kv_heads={self.num_kv_heads}"
            )
        if self.position == "rope" and self.head_width % 2:
            raise ValueError(f"model.position='rope' needs an even head width, not {self.head_width}")
        check_above("model.rope_theta", self.rope_theta, 0)
        check_above("model.norm_eps", self.norm_eps, 0)

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.num_heads

    @property
    def is_llama(self) -> bool:
        """Whether Hugging Face's `LlamaForCausalLM` can represent this model."""
        return (self.mlp, self.norm, self.position, self.qk_norm) == ("swiglu", "rmsnorm", "rope", False)


@dataclass(frozen=True)
class SourceConfig:
    """One stream of documents and its share of the training tokens."""

    kind: str
    """`python_prose`, `python_code`, `python_headers` (this environment's own texts), or a reader: `jsonl`
    (also .zst), `parquet`, `text` (a folder of text files), `huggingface` (through `datasets`)."""
    weight: float = 1.0
    """Share of the training tokens, relative to the other sources'."""
    path: str = ""
    """File, glob or folder; for `huggingface` the data set's name. Relative paths start at the working
    directory. Unused by the `python_*` kinds."""
    text_field: str = "text"
    """Field (column) that holds the text."""
    subset: str | None = None
    """`huggingface`: configuration name of the data set."""
    split: str = "train"
    """`huggingface`: split to read."""
    revision: str | None = None
    """`huggingface`: commit or tag, part of the fingerprint."""
    max_bytes: int | None = None
    """Training text taken at the most, in UTF-8 bytes after filtering; None takes all there is."""
    heldout_bytes: int = 200_000
    """Held-out text aimed at, in UTF-8 bytes; it does not depend on `max_bytes`."""
    unique_tokens: int | None = None
    """Distinct training tokens used at the most; None uses all. Smaller budgets are nested in larger."""
    max_epochs: float | None = 1.0
    """How often a token may be seen; None allows any repetition."""

    def __post_init__(self) -> None:
        """Refuse what no reader could read."""
        check_choice("source kind", self.kind, SOURCE_KINDS)
        check_at_least("source weight", self.weight, 0)
        if not self.kind.startswith("python_") and not self.path:
            raise ValueError(f"a source of kind {self.kind!r} needs a path")
        check_at_least("source max_bytes", self.max_bytes, 1)
        check_at_least("source heldout_bytes", self.heldout_bytes, 0)
        check_at_least("source unique_tokens", self.unique_tokens, 1)
        check_above("source max_epochs", self.max_epochs, 0)


@dataclass(frozen=True)
class DataConfig:
    """The sources of a study and how they are split and filtered."""

    name: str
    """Short name, used in figures and run names."""
    sources: dict[str, SourceConfig]
    """Sources by name; the names appear in metrics (`heldout/<source>/bits_per_byte`)."""
    heldout_percent: float = 2.0
    """Files held out, in percent of all files, chosen by a hash of each file's content."""
    min_document_bytes: int = 200
    """Documents shorter than this are dropped."""
    unique_tokens: int | None = None
    """Distinct training tokens of all sources together, divided among them by their weights, so that all are
    repeated alike; None leaves each source its own. Smaller budgets are nested in larger."""
    overlap_lines: int = 5
    """Training text loses every run of this many non-blank lines (white space folded) that occurs in a
    held-out document."""

    def __post_init__(self) -> None:
        """Refuse an empty or one-sided split."""
        if not self.sources:
            raise ValueError("data.sources is empty: name at least one source")
        if not 0 < self.heldout_percent < 100:
            raise ValueError(f"data.heldout_percent={self.heldout_percent!r} must lie between 0 and 100")
        check_at_least("data.overlap_lines", self.overlap_lines, 1)
        check_at_least("data.min_document_bytes", self.min_document_bytes, 1)
        check_at_least("data.unique_tokens", self.unique_tokens, 1)
        if self.unique_tokens is not None and any(source.unique_tokens for source in self.sources.values()):
            raise ValueError(f"data.unique_tokens={self.unique_tokens} divides what a source's unique_tokens sets, too")
        for name in self.sources:
            check_name("data.sources", name)
        exact_weights({name: source.weight for name, source in self.sources.items()})


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes token ids."""

    kind: str = "bpe"
    """`bpe`: byte-level BPE trained on the training split; `file`: `path` as it is."""
    vocab_size: int = 4096
    """Number of token ids, special tokens included; a `file` must have exactly this many."""
    path: str | None = None
    """A `tokenizer.json` or a sentencepiece `tokenizer.model`."""
    train_bytes: int = 8_000_000
    """Training text the BPE is trained on, in bytes; independent of the sources' `max_bytes`."""

    def __post_init__(self) -> None:
        """Refuse a file without a path, and a vocabulary that cannot hold all bytes."""
        check_choice("tokenizer.kind", self.kind, TOKENIZER_KINDS)
        if self.kind == "file" and not self.path:
            raise ValueError("tokenizer.kind='file' needs tokenizer.path")
        check_at_least("tokenizer.vocab_size", self.vocab_size, 260 if self.kind == "bpe" else 2)
        check_at_least("tokenizer.train_bytes", self.train_bytes, 1)


@dataclass(frozen=True)
class PhaseConfig:
    """One stage of a recipe, as a share of the point's token budget."""

    name: str
    """Name of the stage, such as trunk, cooldown, basic, continual."""
    share: float
    """Share of the budget's tokens; the shares of a recipe sum to one."""
    decay: str = "constant"
    """Learning rate: `constant`, `cosine`, `linear`, or `sqrt` (1 - sqrt of the progress)."""
    span: str = "phase"
    """What the decay runs over: this `phase`, or the whole `budget` (TinyLlama's cosine)."""
    final_ratio: float = 0.1
    """Learning rate at the decay's end, as a ratio of the peak."""
    batch_scale: int = 1
    """Global batch of this phase as a multiple of the recipe's (TinyLlama v1.1 cools down by 4)."""
    mixture: dict[str, float] | None = None
    """Source weights from this phase on; None keeps those before."""
    ramp_tokens: int = 0
    """Tokens over which the weights move linearly from those before to `mixture`."""

    def __post_init__(self) -> None:
        """Refuse shares, shapes and ramps that mean nothing."""
        if not 0 < self.share <= 1:
            raise ValueError(f"recipe phase {self.name!r}: share={self.share!r} must lie in (0, 1]")
        check_choice(f"recipe phase {self.name!r}: decay", self.decay, DECAYS)
        check_choice(f"recipe phase {self.name!r}: span", self.span, SPANS)
        check_at_least(f"recipe phase {self.name!r}: final_ratio", self.final_ratio, 0)
        check_at_least(f"recipe phase {self.name!r}: batch_scale", self.batch_scale, 1)
        check_at_least(f"recipe phase {self.name!r}: ramp_tokens", self.ramp_tokens, 0)
        if self.mixture is not None:
            exact_weights(self.mixture)
        elif self.ramp_tokens:
            raise ValueError(f"recipe phase {self.name!r}: ramp_tokens={self.ramp_tokens} without a mixture")


@dataclass(frozen=True)
class RecipeConfig:
    """The chain of phases that every sweep point goes through, in tokens."""

    name: str
    """Short name: cosine, wsd, three_stage."""
    phases: list[PhaseConfig]
    """Phases in order."""
    warmup_tokens: int
    """Linear warm-up from zero, counted from the start of the chain."""
    batch_sequences: int
    """Global batch: sequences an optimizer step, whatever the number of devices."""
    milestones: list[int] = field(default_factory=list[int])
    """Tokens at which to keep and evaluate a checkpoint; every phase's end is one anyhow."""
    log_milestones: int = 0
    """Further milestones: this many a factor of two, downwards from each phase's end to the warm-up's."""

    def __post_init__(self) -> None:
        """Refuse chains that do not add up."""
        if not self.phases:
            raise ValueError(f"recipe {self.name!r} has no phases")
        total = sum(phase.share for phase in self.phases)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"recipe {self.name!r}: the phases' shares sum to {total!r}, not to 1")
        check_at_least("recipe.warmup_tokens", self.warmup_tokens, 0)
        check_at_least("recipe.batch_sequences", self.batch_sequences, 1)
        check_at_least("recipe.log_milestones", self.log_milestones, 0)
        for tokens in self.milestones:
            check_at_least("recipe.milestones", tokens, 1)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, with decoupled weight decay on matrices alone."""

    learning_rate: float | None = None
    """Peak learning rate; None takes the rule of size, `base_learning_rate x (params / base_params)^-exponent`."""
    base_learning_rate: float = 4e-4
    """The rule's learning rate at `base_params`."""
    base_params: int = 968_976_384
    """The rule's size, in parameters without embeddings; TinyLlama's unless it is set."""
    size_exponent: float = 0.3333
    """How fast the rule's learning rate falls with size."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """On tensors of two dimensions and more."""
    clip_norm: float = 1.0
    """Global gradient norm that is clipped to."""

    def __post_init__(self) -> None:
        """Refuse rates that would not train."""
        check_above("optimizer.learning_rate", self.learning_rate, 0)
        check_above("optimizer.base_learning_rate", self.base_learning_rate, 0)
        check_above("optimizer.base_params", self.base_params, 0)
        check_at_least("optimizer.size_exponent", self.size_exponent, 0)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)!r} must lie in [0, 1)")
        check_above("optimizer.eps", self.eps, 0)
        check_at_least("optimizer.weight_decay", self.weight_decay, 0)
        check_above("optimizer.clip_norm", self.clip_norm, 0)


@dataclass(frozen=True)
class VariantConfig:
    """One factor changed against a study's baseline; what is None stays the baseline's."""

    name: str = "base"
    """Short name, used in tables and figures."""
    kv_heads: str | None = None
    """`multi_head` (a key-value head for each query head) or `multi_query` (one for all)."""
    mlp: str | None = None
    """As `model.mlp`."""
    norm: str | None = None
    """As `model.norm`."""
    position: str | None = None
    """As `model.position`."""
    mixture: dict[str, float] = field(default_factory=dict[str, float])
    """Source weights in place of `data.sources.*.weight`; empty keeps them."""
    match_parameters: bool = True
    """Give the feed-forward block the width that keeps the parameters without embeddings within 1%."""

    def __post_init__(self) -> None:
        """Refuse switches that do not exist."""
        check_name("variant.name", self.name)
        for name, allowed in (("kv_heads", KV_HEADS), ("mlp", MLPS), ("norm", NORMS), ("position", POSITIONS)):
            if getattr(self, name) is not None:
                check_choice(f"variant.{name}", getattr(self, name), allowed)
        if self.mixture:
            exact_weights(self.mixture)


@dataclass(frozen=True)
class SuiteConfig:
    """A set of lm-eval tasks that is scored and stored together."""

    name: str
    """Short name; results are files `<name>-<evaluation id>.json`."""
    tasks: list[str]
    """lm-eval task names."""
    include_path: str | None = None
    """Folder of task YAML files; `embedded` is the project's own; None uses lm-eval's (needs the hub)."""
    num_fewshot: int | None = None
    """Examples before each question; None leaves it to each task."""
    limit: int | None = None
    """Documents a task at the most; None takes all."""
    batch_tokens: int = 4096
    """Padded tokens a forward pass at the most."""

    def __post_init__(self) -> None:
        """Refuse suites that would score nothing."""
        if not self.tasks:
            raise ValueError(f"evaluation suite {self.name!r} names no tasks")
        check_at_least(f"evaluation suite {self.name!r}: limit", self.limit, 1)
        check_at_least(f"evaluation suite {self.name!r}: num_fewshot", self.num_fewshot, 0)
        check_at_least(f"evaluation suite {self.name!r}: batch_tokens", self.batch_tokens, 1)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is scored at every milestone."""

    suites: dict[str, SuiteConfig] = field(default_factory=dict[str, SuiteConfig])
    """Suites by name; none scores nothing, and the tables say so."""
    precision: str = "fp32"
    """Arithmetic of the evaluation, part of the evaluation's id."""

    def __post_init__(self) -> None:
        """Refuse a precision that does not exist."""
        check_choice("evaluation.precision", self.precision, PRECISIONS)


@dataclass(frozen=True)
class NumericsConfig:
    """How the arithmetic is carried out; outside a stage's id, recorded with it."""

    device: str = "auto"
    """`cpu`, `cuda`, or `auto` (cuda where there is one)."""
    threads: int = 1
    """CPU threads a stage; one and two give different last bits."""
    micro_batch_sequences: int | None = None
    """Sequences a forward pass; None takes the whole global batch."""
    attention: str = "sdpa"
    """`sdpa`, or `flash_attn` (package and GPU needed)."""
    compile: bool = False
    """Use `torch.compile`; where the machine lacks what it needs, training is eager and says so."""
    parallel: str = "replicate"
    """Among several processes: `replicate` (plain data parallelism), or `shard` (FSDP2, `fully_shard`)."""
    activation_checkpointing: bool = False
    """Keep only each block's input and compute the rest again in the backward pass."""

    def __post_init__(self) -> None:
        """Refuse what no machine could do."""
        check_choice("numerics.device", self.device, DEVICES)
        check_choice("numerics.attention", self.attention, ATTENTIONS)
        check_choice("numerics.parallel", self.parallel, PARALLELS)
        check_at_least("numerics.threads", self.threads, 1)
        check_at_least("numerics.micro_batch_sequences", self.micro_batch_sequences, 1)


@dataclass(frozen=True)
class ResourcesConfig:
    """What a stage's job asks a cluster for, where it is not left to the cluster's rule; outside a stage's id."""

    processes: int | None = None
    """Processes a stage, one a GPU (or, without GPUs, one a share of the cores); None leaves it to the rule."""
    nodes: int | None = None
    """Nodes they are spread over, evenly; None leaves it to the rule."""
    cpus_per_process: int | None = None
    """CPU cores of each process; None leaves it to the rule."""
    memory_bytes: int | None = None
    """Memory of each node; None leaves it to the rule."""
    minutes: int | None = None
    """Time limit of one job; a stage that takes longer is requeued. None leaves it to the rule."""

    def __post_init__(self) -> None:
        """Refuse requests that no cluster could grant."""
        for name in ("processes", "nodes", "cpus_per_process", "memory_bytes", "minutes"):
            check_at_least(f"resources.{name}", getattr(self, name), 1)
        if self.processes is not None and self.nodes is not None and self.processes % self.nodes:
            raise ValueError(f"resources.processes={self.processes} is not divisible by resources.nodes={self.nodes}")


@dataclass(frozen=True)
class ClusterConfig:
    """A Slurm cluster as one partition of it looks to a study."""

    name: str
    """Short name, used in tables."""
    partition: str | None = None
    """Slurm's partition; None takes the cluster's default."""
    account: str | None = None
    """Account the time is charged to; None takes the user's default."""
    qos: str | None = None
    """Quality of service; None takes the user's default."""
    constraint: str | None = None
    """Node features asked for, as `sbatch --constraint` takes them."""
    cpus_per_node: int = 2
    """CPU cores of a node."""
    memory_bytes_per_node: int | None = None
    """Memory of a node; None asks for none, which takes the cluster's default."""
    gpus_per_node: int = 0
    """GPUs of a node; 0 trains on the CPU."""
    gpu_kind: str | None = None
    """Kind of GPU as the cluster's `--gres` names it (`a100`); None asks for any."""
    gpu_memory_bytes: int | None = None
    """Memory of one GPU; None leaves micro-batch and number of GPUs to the config."""
    max_nodes: int = 1
    """Nodes one job may have."""
    time_limit_minutes: int = 60
    """Longest time limit of a job; a stage that takes longer is requeued under the same job id."""
    signal_seconds: int = 120
    """The job is told this long before its limit, and has that long to write a checkpoint."""
    max_array_tasks: int = 1000
    """Elements of one job array at the most (Slurm's MaxArraySize)."""
    array_parallelism: int | None = None
    """Elements of one array that run at once; None leaves it to the scheduler."""
    max_submit: int | None = None
    """Jobs a user may have queued (MaxSubmitJobs); None asks Slurm by trying."""
    setup: list[str] = field(default_factory=list[str])
    """Shell lines run on the node before the job: modules, environment variables."""
    python: str | None = None
    """Python to run on the nodes; None takes the one that launches."""
    submit_from_node: bool = False
    """The cluster allows `sbatch` on compute nodes: evaluations are submitted as checkpoints land."""
    rule: str = "fewest_gpus"
    """Rule of `workbench.study.resources` that turns size, tokens and speed into a job's resources: `fewest_gpus`,
    or `within_time_limit` (as many more as keep a stage within one job)."""
    tokens_per_second: dict[str, float] = field(default_factory=dict[str, float])
    """Measured training speed of one GPU (or process) by model name; several are taken to be as many times as fast.
    What is not named is estimated from FLOPs."""
    flops_per_second: float | None = None
    """Training FLOPs a second of one GPU (or process), for models not named above; None gives no estimate."""
    price_per_gpu_hour: float | None = None
    """Price of one GPU hour (of one node hour where there are no GPUs); None states no cost."""
    currency: str = "USD"
    """Of the price."""
    evaluation_gpus: int = 0
    """GPUs of an evaluation job."""
    evaluation_cpus: int = 1
    """CPU cores of an evaluation job."""
    evaluation_memory_bytes: int | None = None
    """Memory of an evaluation job; None takes the cluster's default."""
    evaluation_minutes: int = 60
    """Time limit of an evaluation job."""
    sbatch: dict[str, str] = field(default_factory=dict[str, str])
    """Further `sbatch` options by their long names, without dashes."""

    def __post_init__(self) -> None:
        """Refuse a cluster without room."""
        for name in ("cpus_per_node", "max_nodes", "time_limit_minutes", "max_array_tasks", "array_parallelism"):
            check_at_least(f"cluster.{name}", getattr(self, name), 1)
        for name in ("signal_seconds", "max_submit", "evaluation_cpus", "evaluation_minutes"):
            check_at_least(f"cluster.{name}", getattr(self, name), 1)
        check_at_least("cluster.gpus_per_node", self.gpus_per_node, 0)
        check_at_least("cluster.evaluation_gpus", self.evaluation_gpus, 0)
        for name in ("memory_bytes_per_node", "gpu_memory_bytes", "evaluation_memory_bytes"):
            check_at_least(f"cluster.{name}", getattr(self, name), 1)
        for model, speed in self.tokens_per_second.items():
            check_above(f"cluster.tokens_per_second.{model}", speed, 0)
        check_above("cluster.flops_per_second", self.flops_per_second, 0)
        check_at_least("cluster.price_per_gpu_hour", self.price_per_gpu_hour, 0)
        for name in ("time_limit_minutes", "evaluation_minutes"):
            if self.signal_seconds >= 60 * getattr(self, name):
                raise ValueError(
                    f"cluster.signal_seconds={self.signal_seconds} is not below cluster.{name}={getattr(self, name)}: "
                    "a job would be told to leave before it begins"
                )


@dataclass(frozen=True)
class CheckpointConfig:
    """When resumable state goes to disk; outside a stage's id."""

    interval_seconds: float = 120.0
    """Wall time between checkpoints that are not milestones; work lost at worst when killed."""
    keep_last: int = 2
    """Checkpoints kept that are neither milestones nor branch points."""

    def __post_init__(self) -> None:
        """Refuse a policy that could not resume."""
        check_above("checkpoint.interval_seconds", self.interval_seconds, 0)
        check_at_least("checkpoint.keep_last", self.keep_last, 1)


@dataclass(frozen=True)
class TrackingConfig:
    """Where results are published."""

    uri: str | None = None
    """MLflow tracking URI; None is SQLite at `<outputs>/mlflow.db`."""
    publish: bool = True
    """Publish while running; without it `workbench publish` does so later."""
    timeout_seconds: float = 20.0
    """A tracking server that is silent for longer counts as down."""

    def __post_init__(self) -> None:
        """Refuse a server that would have no time to answer."""
        check_above("tracking.timeout_seconds", self.timeout_seconds, 0)


@dataclass(frozen=True)
class BudgetConfig:
    """What a launch may cost; `run` refuses a plan above it."""

    max_flops: float | None = None
    """Training FLOPs still to be done; None sets no bound."""
    max_hours: float | None = None
    """Estimated hours of this machine still to be spent; None sets no bound."""
    max_gpu_hours: float | None = None
    """Estimated GPU hours of the cluster still to be spent; None sets no bound."""
    max_cost: float | None = None
    """Estimated cost in the cluster's currency; None sets no bound."""

    def __post_init__(self) -> None:
        """Refuse negative budgets."""
        for name in ("max_flops", "max_hours", "max_gpu_hours", "max_cost"):
            check_at_least(f"budget.{name}", getattr(self, name), 0)


@dataclass(frozen=True)
class PathsConfig:
    """Where everything goes."""

    outputs: str
    """Root of all output; relative paths start at the project's root."""


@dataclass(frozen=True)
class Config:
    """One sweep point, complete."""

    study: str
    """Name of the study; its MLflow experiment and its folders are called so."""
    tokens: int | None
    """Training budget of the point, in tokens, rounded to whole optimizer steps; None where `flops` sets it."""
    model: ModelConfig
    """What is trained."""
    data: DataConfig
    """On what."""
    tokenizer: TokenizerConfig
    """Cut into which tokens."""
    recipe: RecipeConfig
    """Through which phases."""
    optimizer: OptimizerConfig
    """By which updates."""
    evaluation: EvaluationConfig
    """Scored how."""
    tracking: TrackingConfig
    """Published where."""
    paths: PathsConfig
    """Stored where."""
    cluster: ClusterConfig = field(default_factory=lambda: ClusterConfig("none"))
    """Run on which cluster, where `hydra/launcher=slurm` is asked for."""
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    """With which resources there, where the cluster's rule is not to decide."""
    numerics: NumericsConfig = field(default_factory=NumericsConfig)
    """Computed how."""
    variant: VariantConfig = field(default_factory=VariantConfig)
    """Changed against the baseline how."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Made resumable how often."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """At what cost at the most."""
    flops: float | None = None
    """Training budget in FLOPs of forward and backward (`workbench.study.flops`), in place of `tokens`."""
    precision: str = "fp32"
    """`fp32`, or `bf16` (autocast, master weights in fp32)."""
    seed: int = 0
    """What `seed_init` and `seed_data` are unless they are set apart."""
    seed_init: int = 0
    """Seed of the initial weights."""
    seed_data: int = 0
    """Seed of the data's order."""

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other."""
        check_name("study", self.study)
        check_choice("precision", self.precision, PRECISIONS)
        check_at_least("tokens", self.tokens, 1)
        check_above("flops", self.flops, 0)
        if (self.tokens is None) == (self.flops is None):
            raise ValueError(f"tokens={self.tokens} and flops={self.flops}: set one budget, and the other to null")
        check_at_least("seed_init", self.seed_init, 0)
        check_at_least("seed_data", self.seed_data, 0)
        if self.model.vocab_size != self.tokenizer.vocab_size:
            raise ValueError(
                f"model.vocab_size={self.model.vocab_size} is not tokenizer.vocab_size={self.tokenizer.vocab_size}"
            )
        if self.tokens is not None and self.recipe.warmup_tokens >= self.tokens:
            raise ValueError(f"recipe.warmup_tokens={self.recipe.warmup_tokens} is not below tokens={self.tokens}")
        mixtures = {f"recipe phase {phase.name!r}": phase.mixture for phase in self.recipe.phases}
        for where, mixture in {**mixtures, f"variant {self.variant.name!r}": self.variant.mixture}.items():
            unknown = set(mixture or {}) - set(self.data.sources)
            if unknown:
                raise ValueError(
                    f"{where} mixes in {sorted(unknown)}, but data.sources are {sorted(self.data.sources)}"
                )


# --------------------------------------------------------------------------- what the planner makes


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the tokens since the start of the chain."""

    peak: float
    """Learning rate between warm-up and decay."""
    warmup_tokens: int
    """Linear warm-up from zero."""
    decay: str = "constant"
    """Shape of the decay."""
    decay_start_tokens: int = 0
    """Tokens at which the decay begins."""
    decay_tokens: int = 0
    """Length of the decay; 0 for `constant`."""
    final_ratio: float = 1.0
    """Learning rate at the decay's end over the peak."""


@dataclass(frozen=True)
class MixtureSegment:
    """Source weights from one sequence of the chain on."""

    start_sequence: int
    """First sequence of the chain this segment governs."""
    weights: dict[str, float]
    """Weights once the ramp is over."""
    ramp_sequences: int = 0
    """Sequences over which the weights move linearly from the segment's before."""


@dataclass(frozen=True)
class StreamSource:
    """One source of a stream."""

    unique_tokens: int | None = None
    """Distinct tokens at the most; None takes all in the store."""
    max_epochs: float | None = 1.0
    """Repetition allowed; None allows any."""


@dataclass(frozen=True)
class StreamConfig:
    """All that sequence `i` of a chain is computed from."""

    data_fingerprint: str
    """Names the prepared store, `<outputs>/data/<fingerprint>`."""
    context_tokens: int
    """Predicted tokens a sequence; a sequence has one token more."""
    seed: int
    """Seed of the order."""
    sources: dict[str, StreamSource]
    """Sources by name."""
    mixture: list[MixtureSegment]
    """Weights along the chain; the first segment starts at 0."""


@dataclass(frozen=True)
class Parent:
    """The checkpoint a stage begins from."""

    stage: str
    """Id of the parent's trajectory."""
    tokens: int
    """Tokens since the start of the chain at which it branches off."""


@dataclass(frozen=True)
class Stage:
    """One piece of a training trajectory: identity first, targets and circumstances after.

    The id (`workbench.study.identity.stage_id`) hashes the fields from `parent` to `seed_init`.
    """

    parent: Parent | None
    """Checkpoint to begin from; None begins from initial weights."""
    model: ModelConfig
    """Its `name` is a label and outside the id."""
    stream: StreamConfig
    """Training data."""
    batch_sequences: int
    """Sequences an optimizer step."""
    schedule: Schedule
    """Learning rate."""
    optimizer: OptimizerConfig
    """Only the fields the arithmetic uses are in the id, not the rule that gave the peak."""
    precision: str
    """`fp32` or `bf16`."""
    seed_init: int
    """Seed of the initial weights; 0 where there is a parent."""
    name: str = ""
    """Phase's name: a label."""
    end_tokens: int = 0
    """Target: tokens since the start of the chain at which this stage may stop."""
    milestones: list[int] = field(default_factory=list[int])
    """Targets: tokens whose checkpoints are kept and evaluated, `end_tokens` among them."""
    branch_points: list[int] = field(default_factory=list[int])
    """Targets: tokens whose checkpoints are kept because another stage begins there."""
    numerics: NumericsConfig = field(default_factory=NumericsConfig)
    """How the arithmetic is carried out."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When state goes to disk."""
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    """What its job asks a cluster for."""

    @property
    def batch_tokens(self) -> int:
        """Tokens an optimizer step."""
        return self.batch_sequences * self.stream.context_tokens

    @property
    def start_tokens(self) -> int:
        """Tokens since the start of the chain at which the stage begins."""
        return self.parent.tokens if self.parent else 0
