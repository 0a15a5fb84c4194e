"""Settings and stage of further training at a longer context."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.plain import check_above, check_at_least, check_choice
from workbench.config.schema import TrainingStage, identity
from workbench.config.schema.recipe import DECAYS
from workbench.kinds.rescale import spec as rescale


@dataclass(frozen=True, kw_only=True)
class Settings(rescale.Settings):
    """Give the model of the stage before a longer context, and train it further there.

    References
    ----------
    Chen et al. 2023, arXiv:2306.15595, section 3.3: 1000 steps at a constant rate after a short warm-up; Peng et al. 2023,
    arXiv:2309.00071, section 4.1: 400 steps.
    """

    kind: str = "extend"
    """Name of the kind."""
    tokens: int
    """Further training, rounded to whole steps; 0 trains nothing and leaves the rescaled model alone."""
    learning_rate: float | None = None
    """Peak; None takes the optimizer's own, or its rule of size."""
    warmup_tokens: int = 0
    """Linear warm-up from zero."""
    decay: str = "constant"
    """After it: `constant`, `cosine`, `linear` or `sqrt`, to the end."""
    final_ratio: float = 0.1
    """Ratio of the learning rate at the end of the decay to the peak."""
    batch_sequences: int | None = None
    """Sequences per step; None takes as many as have the recipe's tokens per step, and at least one."""

    def __post_init__(self) -> None:
        """Refuse schedules that do not fit."""
        super().__post_init__()
        check_at_least("tokens", self.tokens, 0)
        check_above("learning_rate", self.learning_rate, 0)
        check_at_least("warmup_tokens", self.warmup_tokens, 0)
        check_choice("decay", self.decay, DECAYS)
        check_at_least("final_ratio", self.final_ratio, 0)
        check_at_least("batch_sequences", self.batch_sequences, 1)
        if self.tokens and self.warmup_tokens >= self.tokens:
            raise ValueError(f"warmup_tokens={self.warmup_tokens} is not below tokens={self.tokens}")


@dataclass(frozen=True, kw_only=True)
class Spec(TrainingStage):
    """Training of a rescaled model on sequences of the new context, with an optimizer of its own."""

    kind: str = identity(default="extend")
    """Name of its kind."""
