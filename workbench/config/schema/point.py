"""One sweep point, complete."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.config.plain import check_above, check_at_least, check_choice, check_name
from workbench.config.schema.begin import InitConfig, KindSettings
from workbench.config.schema.cluster import ClusterConfig
from workbench.config.schema.data import DataConfig, TokenizerConfig
from workbench.config.schema.machine import BudgetConfig, CheckpointConfig, NumericsConfig, ResourcesConfig
from workbench.config.schema.model import ModelConfig, VariantConfig
from workbench.config.schema.published_cost import PublishedCost
from workbench.config.schema.recipe import PRECISIONS, EvaluationConfig, OptimizerConfig, RecipeConfig

ANALYSES = (
    "token_scaling",
    "isoflop",
    "repetition",
    "continual",
    "ablation",
    "sweep",
    "tuning",
    "transfer",
    "seeds",
    "extend",
    "duplicates",
)


@dataclass(frozen=True)
class TrackingConfig:
    """Publishing of results to MLflow."""

    uri: str | None = None
    """MLflow tracking URI; None for SQLite at `<outputs>/mlflow.db`."""
    publish: bool = True
    """Whether to publish while running; otherwise `workbench publish` does it later."""
    timeout_seconds: float = 20.0
    """A tracking server that does not answer within this time counts as down."""

    def __post_init__(self) -> None:
        """Refuse a timeout of 0."""
        check_above("tracking.timeout_seconds", self.timeout_seconds, 0)


@dataclass(frozen=True)
class PathsConfig:
    """Paths of the outputs."""

    outputs: str
    """Root folder of all outputs; relative to the project's root."""

    def __post_init__(self) -> None:
        """Refuse a name that cannot be written in UTF-8."""
        try:
            self.outputs.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"paths.outputs={self.outputs!r} holds bytes that are not UTF-8: rename the folder"
            ) from None


@dataclass(frozen=True)
class Config:
    """One sweep point, complete."""

    study: str
    """Name of the study, and of its MLflow experiment and folders."""
    tokens: int | None
    """Training budget of the point's recipe, in tokens, rounded to whole optimizer steps; None where `flops` sets it.
    0 trains nothing, and is for checkpoints from outside (`init`)."""
    model: ModelConfig
    """The model to train."""
    data: DataConfig
    """The data to train on."""
    tokenizer: TokenizerConfig
    """The tokenizer of the data."""
    recipe: RecipeConfig
    """The phases of the training."""
    optimizer: OptimizerConfig
    """The optimizer and its learning rate."""
    evaluation: EvaluationConfig
    """The suites that checkpoints are evaluated on."""
    tracking: TrackingConfig
    """Where results are published."""
    paths: PathsConfig
    """Where outputs are stored."""
    cluster: ClusterConfig = field(default_factory=lambda: ClusterConfig("none"))
    """The cluster to run on with `hydra/launcher=slurm`."""
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    """Resources of a job there; what is None the cluster's rule decides."""
    numerics: NumericsConfig = field(default_factory=NumericsConfig)
    """How the arithmetic is carried out."""
    variant: VariantConfig = field(default_factory=VariantConfig)
    """What an ablation changes from the baseline."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """How often resumable checkpoints are written."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """Limits on the cost of a launch."""
    init: InitConfig = field(default_factory=InitConfig)
    """The weights to begin from; those of a checkpoint bring its model and its tokenizer with them."""
    then: dict[str, KindSettings] = field(default_factory=dict[str, KindSettings])
    """Stages that come after the recipe's, in order, by name."""
    analysis: str | None = None
    """Kind of analysis the study is for, which chooses its figures and fits: `token_scaling`, `isoflop`, `repetition`,
    `continual`, `ablation`, `sweep`, `transfer`, `tuning`, `seeds`, `extend` or `duplicates`; None chooses by what the points
    differ in."""
    flops: float | None = None
    """Training budget in FLOPs of forward and backward (`workbench.study.flops`), instead of `tokens`."""
    published_cost: PublishedCost | None = None
    """What such a training took others, for `workbench plan` to print beside its estimate; None prints nothing."""
    precision: str = "fp32"
    """`fp32`, or `bf16` (autocast, master weights in fp32)."""
    seed: int = 0
    """Default of `seed_init` and `seed_data`."""
    seed_init: int = 0
    """Seed of the initial weights."""
    seed_data: int = 0
    """Seed of the data's order."""

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        check_name("study", self.study)
        check_choice("precision", self.precision, PRECISIONS)
        if self.analysis is not None:
            check_choice("analysis", self.analysis, ANALYSES)
        check_at_least("tokens", self.tokens, 1 if self.init.kind == "none" else 0)
        check_above("flops", self.flops, 0)
        if (self.tokens is None) == (self.flops is None):
            raise ValueError(f"tokens={self.tokens} and flops={self.flops}: set one budget, and the other to null")
        check_at_least("seed_init", self.seed_init, 0)
        check_at_least("seed_data", self.seed_data, 0)
        for name in self.then:
            check_name("then", name)
        # Checkpoints from outside often have more rows than their tokenizers have ids.
        padded = self.init.kind != "none" and self.model.vocab_size > self.tokenizer.vocab_size
        if self.model.vocab_size != self.tokenizer.vocab_size and not padded:
            raise ValueError(
                f"model.vocab_size={self.model.vocab_size} is not tokenizer.vocab_size={self.tokenizer.vocab_size}"
            )
        given = next((name for name, source in self.data.sources.items() if source.kind == "tokens"), None)
        if given is not None and self.tokenizer.kind != "file":
            raise ValueError(
                f"data.sources.{given}.kind='tokens' needs the tokenizer that its files were made with: set tokenizer.kind=file "
                f"and tokenizer.path, not tokenizer.kind={self.tokenizer.kind!r}"
            )
        self._check_parametrisation()
        if self.optimizer.kind == "muon" and self.numerics.parallel != "replicate":
            raise ValueError(
                "optimizer.kind='muon' needs whole matrices, which numerics.parallel="
                f"{self.numerics.parallel!r} divides among processes: "
                "set numerics.parallel=replicate, or optimizer.kind=adamw"
            )
        if self.tokens and self.recipe.warmup_tokens >= self.tokens:
            raise ValueError(f"recipe.warmup_tokens={self.recipe.warmup_tokens} is not below tokens={self.tokens}")
        mixtures = {f"recipe phase {phase.name!r}": phase.mixture for phase in self.recipe.phases}
        for where, mixture in {**mixtures, f"variant {self.variant.name!r}": self.variant.mixture}.items():
            unknown = set(mixture or {}) - set(self.data.sources)
            if unknown:
                raise ValueError(
                    f"{where} mixes in {sorted(unknown)}, but data.sources are {sorted(self.data.sources)}"
                )
        phases = [phase.name for phase in self.recipe.phases if phase.mixture is not None]
        if self.variant.mixture and phases:
            raise ValueError(
                f"variant {self.variant.name!r} sets a mixture, but recipe phase {phases[0]!r} replaces it: "
                "take a recipe whose phases set none, or write the mixture into the phases"
            )
        if self.data.unique_tokens is not None:
            self._check_unique_tokens(self.data.unique_tokens, phases)

    def _check_parametrisation(self) -> None:
        """Refuse a parametrisation that carries a rate over to other sizes without its base, or at a rate that falls with size."""
        named = f"model.parametrisation={self.model.parametrisation!r}"
        needed = {"standard": (), "mup": ("base_width",), "complete_p": ("base_width", "base_layers")}
        absent = [f"model.{name}" for name in needed[self.model.parametrisation] if getattr(self.model, name) is None]
        if absent:
            settings = " ".join(f"{name}=..." for name in absent)
            raise ValueError(
                f"{named} without {' and '.join(absent)} would make each size its own base, which is 'standard': name the "
                f"shape whose rate carries over ({settings})"
            )
        rule = self.optimizer.learning_rate is None and self.optimizer.size_exponent != 0
        if rule and self.model.parametrisation != "standard":
            raise ValueError(
                f"{named} with optimizer.learning_rate=null would lower the rate twice, since the rule of size "
                f"(optimizer.size_exponent={self.optimizer.size_exponent}) lowers it as well: give the base's best rate as "
                "optimizer.learning_rate=..., or set optimizer.size_exponent=0"
            )

    def _check_unique_tokens(self, unique_tokens: int, phases: list[str]) -> None:
        """Refuse to divide distinct tokens by weights that are not those of the whole training."""
        own = "set data.sources.<source>.unique_tokens instead"
        if phases:
            raise ValueError(
                f"data.unique_tokens={unique_tokens} is divided by one mixture, but recipe phase {phases[0]!r} sets "
                f"another: {own}"
            )
        weights = self.variant.mixture or {name: source.weight for name, source in self.data.sources.items()}
        without = sorted(name for name in self.data.sources if not weights.get(name))
        if without:
            raise ValueError(
                f"data.unique_tokens={unique_tokens} gives nothing to {without}, whose weight is 0: take them out of "
                f"data.sources, or {own}"
            )
