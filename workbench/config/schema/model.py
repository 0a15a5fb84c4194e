"""Configuration of the model, and of an ablation's variants."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.config.plain import check_above, check_at_least, check_choice, check_name, exact_weights

MLPS = ("swiglu", "gelu")
NORMS = ("rmsnorm", "layernorm")
POSITIONS = ("rope", "learned", "none")
KV_HEADS = ("multi_head", "multi_query")


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
