"""What others say that a training like a study's took, for `workbench plan` to print beside its own estimate."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.plain import check_above, check_at_least


@dataclass(frozen=True)
class PublishedCost:
    """A published cost of training one model, which scales with the tokens."""

    model: str
    """Name of the model it is of, as `model.name` has it; a plan's tokens of other models are left out."""
    gpu: str
    """GPU that it was measured on, such as A100-40G."""
    gpu_hours: float
    """GPU hours that `tokens` took."""
    tokens: int
    """Tokens that `gpu_hours` are of."""
    source: str
    """Where it was published."""

    def __post_init__(self) -> None:
        """Refuse a cost of nothing."""
        for name in ("model", "gpu", "source"):
            if not getattr(self, name).strip():
                raise ValueError(f"published_cost.{name}={getattr(self, name)!r} is empty: say what the cost is of")
        check_above("published_cost.gpu_hours", self.gpu_hours, 0)
        check_at_least("published_cost.tokens", self.tokens, 1)
