"""Settings and stage of a longer context: how long, and how RoPE's frequencies are changed for it."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.plain import check_at_least, check_choice
from workbench.config.schema import KindSettings, Stage, identity

METHODS = ("none", "linear", "ntk", "yarn")


@dataclass(frozen=True, kw_only=True)
class Settings(KindSettings):
    """Give the model of the stage before a longer context; no weight changes.

    References
    ----------
    `linear`: position interpolation, Chen et al. 2023, arXiv:2306.15595. `yarn`: Peng et al. 2023, arXiv:2309.00071,
    whose section 3.1 also describes `ntk`.
    """

    kind: str = "rescale"
    """Name of the kind."""
    context_tokens: int
    """The new context, longer than the model's."""
    method: str
    """`none` (positions beyond the old context are turned as if they had been trained), `linear`, `ntk` or `yarn`; the
    factor is the ratio of the contexts."""

    def __post_init__(self) -> None:
        """Refuse methods that do not exist."""
        check_at_least("context_tokens", self.context_tokens, 1)
        check_choice("method", self.method, METHODS)


@dataclass(frozen=True, kw_only=True)
class Spec(Stage):
    """Its parent's weights in a model with another context, and other frequencies of RoPE."""

    kind: str = identity(default="rescale")
    """Name of its kind."""
    data: str = identity()
    """Name of the prepared data."""

    @property
    def data_fingerprint(self) -> str:
        """Name of the prepared data."""
        return self.data
