"""Settings and stage of an average: which checkpoints, and how much each counts."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.plain import check_at_least, check_choice
from workbench.config.schema import KindSettings, Stage, identity

WEIGHTINGS = ("uniform", "exponential")


@dataclass(frozen=True)
class Settings(KindSettings):
    """Average checkpoints of the stage before, evenly spaced up to its end.

    References
    ----------
    Kaddour 2022, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight Averaging",
    arXiv:2209.14981 (uniform); Morales-Brotons et al. 2024, "Exponential Moving Average of Weights in Deep Learning",
    arXiv:2411.18704.
    """

    kind: str = "average"
    """Name of the kind."""
    checkpoints: int = 5
    """How many, the stage's end among them."""
    span: float = 0.2
    """Share of the stage's tokens, before its end, over which they are spread."""
    weighting: str = "uniform"
    """`uniform`, or `exponential`: each counts `decay` times as much as the one after it."""
    decay: float = 0.5
    """`exponential`: ratio of the weights of two neighbours."""

    def __post_init__(self) -> None:
        """Refuse averages of one."""
        check_choice("weighting", self.weighting, WEIGHTINGS)
        check_at_least("checkpoints", self.checkpoints, 2)
        for name in ("span", "decay"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must lie in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class Spec(Stage):
    """The average of its parent's checkpoint and of `inputs`, which are the parent stage's earlier ones."""

    kind: str = identity(default="average")
    """Name of its kind."""
    weights: list[float] = identity()
    """How much each counts: the inputs', first to last, and the parent's; they sum to one."""
    data: str = identity()
    """Name of the prepared data."""

    @property
    def data_fingerprint(self) -> str:
        """Name of the prepared data."""
        return self.data
