"""Configuration of low-rank adapters."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.config.plain import check_above, check_at_least, check_choice

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
QUANTIZE = ("none", "nf4")


@dataclass(frozen=True)
class LoraConfig:
    """Adapters that add a product of two narrow matrices to some of a model's (Hu et al., arXiv:2106.09685)."""

    rank: int = 16
    """Rows of A and columns of B."""
    alpha: float = 32.0
    """Their product is scaled by `alpha / rank`."""
    targets: list[str] = field(default_factory=lambda: list(LORA_TARGETS))
    """Matrices that get an adapter in every block, by their names in `transformers`' Llama."""
    rslora: bool = False
    """Scale by `alpha / sqrt(rank)` in place of `alpha / rank` (Kalajdzievski, arXiv:2312.03732)."""
    quantize: str = "none"
    """How the frozen matrices that have adapters are kept: `none` as they are, `nf4` in 4 bits (QLoRA, Dettmers et al.,
    arXiv:2305.14314), which needs the package `bitsandbytes`."""

    def __post_init__(self) -> None:
        """Refuse adapters without effect and targets that do not exist."""
        check_at_least("lora.rank", self.rank, 1)
        check_above("lora.alpha", self.alpha, 0)
        check_choice("lora.quantize", self.quantize, QUANTIZE)
        if not self.targets:
            raise ValueError(f"lora.targets is empty: name at least one of {', '.join(LORA_TARGETS)}")
        for name in self.targets:
            if name not in LORA_TARGETS:
                raise ValueError(f"lora.targets={self.targets!r}: {name!r} is not one of {', '.join(LORA_TARGETS)}")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"lora.targets={self.targets!r} names a matrix twice")

    @property
    def scale(self) -> float:
        """Factor of the product B A."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)
