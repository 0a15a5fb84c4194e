"""Configuration of the model, and of an ablation's variants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from workbench.config.plain import check_above, check_at_least, check_choice, check_name, exact_weights

MLPS = ("swiglu", "gelu")
NORMS = ("rmsnorm", "layernorm")
POSITIONS = ("rope", "learned", "none")
KV_HEADS = ("multi_head", "multi_query")
ATTENTION_BIASES = ("none", "qkv", "all")
PARAMETRISATIONS = ("standard", "mup", "complete_p")
ROPE_SCALINGS = ("none", "linear", "ntk", "yarn", "llama3")


@dataclass(frozen=True)
class RopeScaling:
    """How RoPE's frequencies are changed for more positions than a model was first trained on.

    References
    ----------
    `linear`: position interpolation, Chen et al., arXiv:2306.15595. `yarn`: Peng et al., arXiv:2309.00071, whose
    section 3.1 also describes `ntk`. `llama3`: as in Llama 3.1's published config.
    """

    kind: str = "none"
    """`none`, `linear` (every frequency over the factor), `ntk` (a larger base), `yarn` or `llama3` (both by frequency)."""
    factor: float = 1.0
    """How many times longer the context becomes."""
    original_context_tokens: int | None = None
    """Context before the extension; `yarn` and `llama3` need it."""
    low_freq_factor: float = 1.0
    """`llama3`: turns over the original context below which a frequency is divided by the factor."""
    high_freq_factor: float = 4.0
    """`llama3`: turns over the original context above which a frequency stays."""
    beta_fast: float = 32.0
    """`yarn`: turns over the original context above which a frequency stays."""
    beta_slow: float = 1.0
    """`yarn`: turns over the original context below which a frequency is divided by the factor."""
    truncate: bool = True
    """`yarn`: whether the ramp between the two begins and ends at whole features."""
    attention_factor: float | None = None
    """`yarn`: what cosines and sines are multiplied by; None takes 0.1 ln(factor) + 1."""

    def __post_init__(self) -> None:
        """Refuse what has no frequencies."""
        check_choice("model.rope_scaling.kind", self.kind, ROPE_SCALINGS)
        check_at_least("model.rope_scaling.factor", self.factor, 1)
        for name in ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor"):
            check_above(f"model.rope_scaling.{name}", getattr(self, name), 0)
        if self.kind in ("yarn", "llama3"):
            if self.original_context_tokens is None:
                raise ValueError(
                    f"model.rope_scaling.kind={self.kind!r} needs model.rope_scaling.original_context_tokens"
                )
            check_at_least("model.rope_scaling.original_context_tokens", self.original_context_tokens, 1)
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"model.rope_scaling.high_freq_factor={self.high_freq_factor} must be above "
                f"low_freq_factor={self.low_freq_factor}"
            )


class BaseShape(NamedTuple):
    """What a parametrisation compares a model's shape with."""

    width: int
    """Of the residual stream."""
    head_width: int
    """Of one attention head."""
    layers: int
    """Transformer blocks."""


@dataclass(frozen=True)
class ModelConfig:
    """A decoder with Llama 2's architecture, with switches for ablations."""

    name: str
    """Short name, used in figures and run names."""
    num_layers: int
    """Transformer blocks."""
    width: int
    """Width of the residual stream (hidden size)."""
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
    """Whether the output head shares the embedding's weights."""
    qk_norm: bool = False
    """Whether queries and keys are normalised per head before the rotation."""
    rope_theta: float = 10000.0
    """RoPE's base."""
    norm_eps: float = 1e-5
    """Added to the mean square (or variance) in every norm."""
    attention_bias: str = "none"
    """Biases of attention: `none`, `qkv` (Qwen 2) or `all` (queries, keys, values and output)."""
    mlp_bias: bool = False
    """Whether the feed-forward block's matrices have biases."""
    norm_bias: bool = False
    """Whether LayerNorm has a bias beside its gain."""
    parallel_residual: bool = False
    """Whether attention and feed-forward block read the same residual stream (GPT-NeoX), not one after the other."""
    rotary_share: float = 1.0
    """Share of each head's features that RoPE rotates, the first ones; a quarter in GPT-NeoX."""
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    """Change of RoPE's frequencies for a longer context."""
    parametrisation: str = "standard"
    """How initial values, multipliers and learning rates depend on the shape (`workbench.model.parametrisation`):
    `standard`, `mup` (by width, Tensor Programs V) or `complete_p` (by width and depth). The last two carry the best
    learning rate of a small model, the base, over to larger ones. A point needs the base's shape for them, and that rate
    as `optimizer.learning_rate`: the rule of size is refused, since it would lower the rate again."""
    base_width: int | None = None
    """`mup`, `complete_p`: width at which the model is as under `standard`. A point under them is refused without."""
    base_head_width: int | None = None
    """`mup`, `complete_p`: width of a head at which attention is as under `standard`; None is the model's own. What the
    base's heads would be cannot be known from one point, so that None is taken as it is there; a study whose points under
    the two have heads of several widths is refused without."""
    base_layers: int | None = None
    """`complete_p`: depth at which the model is as under `mup`. A point under it is refused without."""

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
        if not 0 < self.rotary_share <= 1:
            raise ValueError(f"model.rotary_share={self.rotary_share} must be above 0 and at most 1")
        if self.position == "rope" and (self.rotary_width % 2 or not self.rotary_width):
            of = "" if self.rotary_share == 1 else f" (model.rotary_share={self.rotary_share} of {self.head_width})"
            raise ValueError(f"model.position='rope' needs an even head width, not {self.rotary_width}{of}")
        if self.position != "rope" and self.rope_scaling.kind != "none":
            raise ValueError(f"model.rope_scaling.kind={self.rope_scaling.kind!r} needs model.position='rope'")
        check_choice("model.attention_bias", self.attention_bias, ATTENTION_BIASES)
        if self.norm_bias and self.norm != "layernorm":
            raise ValueError(f"model.norm_bias needs model.norm='layernorm', not {self.norm!r}")
        check_choice("model.parametrisation", self.parametrisation, PARAMETRISATIONS)
        for name in ("base_width", "base_head_width", "base_layers"):
            check_at_least(f"model.{name}", getattr(self, name), 1)
        check_above("model.rope_theta", self.rope_theta, 0)
        check_above("model.norm_eps", self.norm_eps, 0)

    @property
    def bases(self) -> BaseShape:
        """Shape at which the parametrisation's factors are 1; the model's own where none is given."""
        return BaseShape(
            self.base_width or self.width, self.base_head_width or self.head_width, self.base_layers or self.num_layers
        )

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.num_heads

    @property
    def rotary_width(self) -> int:
        """Features of a head that RoPE rotates."""
        return int(self.head_width * self.rotary_share)


@dataclass(frozen=True)
class VariantConfig:
    """One factor changed from a study's baseline; fields that are None keep the baseline's value."""

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
    """Source weights instead of `data.sources.*.weight`; empty keeps those. Refused with phases that set a mixture."""
    match_parameters: bool = True
    """Whether to choose the feed-forward width that keeps the parameters without embeddings within 1%."""

    def __post_init__(self) -> None:
        """Refuse switches that do not exist."""
        check_name("variant.name", self.name)
        for name, allowed in (("kv_heads", KV_HEADS), ("mlp", MLPS), ("norm", NORMS), ("position", POSITIONS)):
            if getattr(self, name) is not None:
                check_choice(f"variant.{name}", getattr(self, name), allowed)
        if self.mixture:
            exact_weights(self.mixture)
