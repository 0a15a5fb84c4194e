"""Configuration of training and evaluation: recipe, optimizer, suites."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.config.plain import check_above, check_at_least, check_choice, exact_weights

PRECISIONS = ("fp32", "bf16")
DECAYS = ("constant", "cosine", "linear", "sqrt")
SPANS = ("phase", "budget")
NON_FINITE = ("stop", "skip")
OPTIMIZERS = ("adamw", "muon")
DECAY_COUPLINGS = ("learning_rate", "independent")
RATE_ADJUSTMENTS = ("match_rms_adamw", "original")


@dataclass(frozen=True)
class PhaseConfig:
    """One phase of a recipe, as a share of the point's token budget."""

    name: str
    """Name of the phase, such as trunk, cooldown, basic, continual."""
    share: float
    """Share of the budget's tokens; the shares of a recipe sum to one."""
    decay: str = "constant"
    """Learning rate: `constant`, `cosine`, `linear`, or `sqrt` (1 - sqrt of the progress)."""
    span: str = "phase"
    """Span of the decay: this `phase`, or the whole `budget` (TinyLlama's cosine)."""
    final_ratio: float = 0.1
    """Ratio of the learning rate at the end of the decay to the peak."""
    batch_scale: int = 1
    """Global batch of this phase as a multiple of the recipe's (TinyLlama v1.1 cools down by 4)."""
    mixture: dict[str, float] | None = None
    """Source weights from this phase on; None keeps the previous ones."""
    ramp_tokens: int = 0
    """Tokens over which the weights change linearly from the previous ones to `mixture`; 0 in the first phase."""

    def __post_init__(self) -> None:
        """Refuse impossible shares, shapes and ramps."""
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
    """The phases that every sweep point goes through."""

    name: str
    """Short name: cosine, wsd, three_stage."""
    phases: list[PhaseConfig]
    """Phases in order."""
    warmup_tokens: int
    """Linear warm-up from zero, counted from the start of the chain."""
    batch_sequences: int
    """Global batch: sequences per optimizer step, whatever the number of devices."""
    milestones: list[int] = field(default_factory=list[int])
    """Tokens at which to keep and evaluate a checkpoint, in addition to the end of every phase."""
    log_milestones: int = 0
    """Further milestones: this many per factor of two, going down from each phase's end to the end of the warm-up."""
    tokens: int | None = None
    """Budget that the recipe was published with, for a study's file to take by `tokens: ${recipe.tokens}`. It sets nothing
    by itself."""

    def __post_init__(self) -> None:
        """Refuse phases whose shares do not add up."""
        if not self.phases:
            raise ValueError(f"recipe {self.name!r} has no phases")
        first = self.phases[0]
        if first.ramp_tokens:
            raise ValueError(
                f"recipe {self.name!r}: phase {first.name!r} is the first, so ramp_tokens={first.ramp_tokens} have no "
                "mixture to begin from: set them to 0"
            )
        total = sum(phase.share for phase in self.phases)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"recipe {self.name!r}: the phases' shares sum to {total!r}, not to 1")
        check_at_least("recipe.warmup_tokens", self.warmup_tokens, 0)
        check_at_least("recipe.batch_sequences", self.batch_sequences, 1)
        check_at_least("recipe.log_milestones", self.log_milestones, 0)
        check_at_least("recipe.tokens", self.tokens, 1)
        for tokens in self.milestones:
            check_at_least("recipe.milestones", tokens, 1)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, or Muon with AdamW beside it, with decoupled weight decay on matrices only.

    References
    ----------
    `muon`: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; `match_rms_adamw`: Liu et al., "Muon is
    Scalable for LLM Training", arXiv:2502.16982, section 2.2. `independent`: Wortsman et al., "Small-scale proxies for
    large-scale Transformer training instabilities", arXiv:2309.14322, section 3.2.1, after Loshchilov & Hutter,
    arXiv:1711.05101, algorithm 2. `z_loss`: Chowdhery et al., "PaLM", arXiv:2204.02311, section 5.
    """

    kind: str = "adamw"
    """`adamw`, or `muon`: Muon for the blocks' matrices, AdamW for embeddings, output head, gains and biases."""

    learning_rate: float | None = None
    """Peak learning rate; None takes the rule `base_learning_rate x (params / base_params)^-exponent`."""
    base_learning_rate: float = 4e-4
    """The rule's learning rate at `base_params`."""
    base_params: int = 968_976_384
    """The rule's reference size, in parameters without embeddings; by default TinyLlama's."""
    size_exponent: float = 0.3333
    """How fast the rule's learning rate falls with size."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Weight decay of tensors with two or more dimensions."""
    decay_coupling: str = "learning_rate"
    """What a step's decay is multiplied by, with w the weights, lambda `weight_decay`, eta the learning rate of the step
    and eta_peak the schedule's peak. `learning_rate`: w <- w - eta lambda w, as PyTorch's AdamW. `independent`:
    w <- w - (eta / eta_peak) lambda w, which follows the schedule's shape and does not depend on the peak; lambda is
    then of the order of 1e-4. The parametrisation's factors (`workbench.model.parametrisation`) enter the first alone."""
    clip_norm: float = 1.0
    """Global gradient norm to clip to."""
    momentum: float = 0.95
    """`muon`: decay of the momentum, an exponential mean of the gradients."""
    nesterov: bool = True
    """`muon`: whether a step takes the momentum as it would be after the same gradient again."""
    ns_steps: int = 5
    """`muon`: Newton-Schulz iterations that orthogonalise the momentum."""
    rate_adjustment: str = "match_rms_adamw"
    """`muon`: factor on the learning rate of a matrix of A rows and B columns. `match_rms_adamw`: 0.2 sqrt(max(A, B)),
    with which updates are as large as AdamW's usually are, so that one learning rate serves both. `original`:
    sqrt(max(1, A / B))."""
    z_loss: float = 0.0
    """Coefficient of the mean squared log partition function of the targets' softmax, added to the loss that is
    descended and not to the one that is reported; PaLM has 1e-4, 0 adds nothing."""
    non_finite: str = "stop"
    """At a loss or gradient that is not finite: `stop` the stage, or `skip` that step's update."""
    max_skips_in_a_row: int = 5
    """Updates in a row that `skip` may skip; one more stops the stage."""

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
        check_choice("optimizer.non_finite", self.non_finite, NON_FINITE)
        check_choice("optimizer.kind", self.kind, OPTIMIZERS)
        check_choice("optimizer.decay_coupling", self.decay_coupling, DECAY_COUPLINGS)
        if self.decay_coupling == "independent" and self.weight_decay >= 1:
            raise ValueError(
                f"optimizer.weight_decay={self.weight_decay!r} must be below 1 where "
                "optimizer.decay_coupling='independent': it is the share of a weight that goes at each step"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer.momentum={self.momentum!r} must lie in [0, 1)")
        check_at_least("optimizer.ns_steps", self.ns_steps, 1)
        check_choice("optimizer.rate_adjustment", self.rate_adjustment, RATE_ADJUSTMENTS)
        check_at_least("optimizer.z_loss", self.z_loss, 0)
        check_at_least("optimizer.max_skips_in_a_row", self.max_skips_in_a_row, 1)


@dataclass(frozen=True)
class SuiteConfig:
    """A set of lm-eval tasks that are scored and stored together."""

    name: str
    """Short name; results are files `<name>-<evaluation id>.json`."""
    tasks: list[str]
    """lm-eval task names."""
    include_path: str | None = None
    """Folder of task YAML files; `embedded` and `positions` are the project's own on held-out text, `conversations` on held-out
    conversations of a stage `sft`; None uses lm-eval's (needs the hub)."""
    num_fewshot: int | None = None
    """Examples before each question; None leaves it to each task."""
    limit: int | None = None
    """Most documents per task; None takes all."""
    conversations: str | None = None
    """Set by the planner for `include_path: conversations`: names the conversations."""
    batch_tokens: int = 4096
    """Padded tokens per forward pass, at most."""

    def __post_init__(self) -> None:
        """Refuse suites that would score nothing."""
        if not self.tasks:
            raise ValueError(f"evaluation suite {self.name!r} names no tasks")
        check_at_least(f"evaluation suite {self.name!r}: limit", self.limit, 1)
        check_at_least(f"evaluation suite {self.name!r}: num_fewshot", self.num_fewshot, 0)
        check_at_least(f"evaluation suite {self.name!r}: batch_tokens", self.batch_tokens, 1)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated at every milestone."""

    suites: dict[str, SuiteConfig] = field(default_factory=dict[str, SuiteConfig])
    """Suites by name; without any nothing is scored, and the tables show that."""
    precision: str = "fp32"
    """Arithmetic of the evaluation; part of the evaluation's id."""

    def __post_init__(self) -> None:
        """Refuse a precision that does not exist."""
        check_choice("evaluation.precision", self.precision, PRECISIONS)
