"""One sweep point, complete."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.config.plain import check_above, check_at_least, check_choice, check_name
from workbench.config.schema.cluster import ClusterConfig
from workbench.config.schema.data import DataConfig, TokenizerConfig
from workbench.config.schema.machine import BudgetConfig, CheckpointConfig, NumericsConfig, ResourcesConfig
from workbench.config.schema.model import ModelConfig, VariantConfig
from workbench.config.schema.recipe import PRECISIONS, EvaluationConfig, OptimizerConfig, RecipeConfig

ANALYSES = ("token_scaling", "isoflop", "repetition", "continual", "ablation", "sweep", "seeds")


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
class PathsConfig:
    """Where everything goes."""

    outputs: str
    """Root of all output; relative paths start at the project's root."""

    def __post_init__(self) -> None:
        """Refuse a name that could stand in no file and no address."""
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
    analysis: str | None = None
    """Kind of analysis the study is for, which chooses its figures and fits: `token_scaling`, `isoflop`, `repetition`,
    `continual`, `ablation`, `sweep` or `seeds`; None chooses by what the points differ in."""
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
        if self.analysis is not None:
            check_choice("analysis", self.analysis, ANALYSES)
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
        phases = [phase.name for phase in self.recipe.phases if phase.mixture is not None]
        if self.variant.mixture and phases:
            raise ValueError(
                f"variant {self.variant.name!r} sets a mixture, but recipe phase {phases[0]!r} sets another in its "
                "place: take a recipe whose phases set none, or write the mixture into the phases"
            )
        if self.data.unique_tokens is not None:
            self._check_unique_tokens(self.data.unique_tokens, phases)

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
