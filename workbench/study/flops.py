"""Parameters and floating-point operations of a model, counted from its config alone.

A multiplication and its addition are two operations. Only matrix products are counted, as PyTorch's
`FlopCounterMode` counts them; norms, rotations, softmax and the optimizer are a few percent and left
out (Muon's iterations are about 5 D over the tokens of a batch: 16% at a width of 64 and 2,048 tokens). Causal attention is counted in full (T scores per token), although half of them are masked.
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.schema import Config, ModelConfig


@dataclass(frozen=True)
class Parameters:
    """Sizes of a model, in parameters."""

    total: int
    """All parameters; tied embeddings counted once."""
    non_embedding: int
    """Without input embedding, output head and learned position table: the N of scaling laws."""


def block_matrices(config: ModelConfig) -> int:
    """Parameters of one block's matrices."""
    key_values = 2 * config.num_kv_heads * config.head_width
    attention = config.width * (config.width + key_values) + config.width * config.width
    matrices = 3 if config.mlp == "swiglu" else 2
    return attention + matrices * config.width * config.mlp_width


def _block_biases(config: ModelConfig) -> int:
    """Biases of one block's matrices."""
    qkv = config.width + 2 * config.num_kv_heads * config.head_width
    attention = {"none": 0, "qkv": qkv, "all": qkv + config.width}[config.attention_bias]
    rows = 2 if config.mlp == "swiglu" else 1
    return attention + (rows * config.mlp_width + config.width if config.mlp_bias else 0)


def count_parameters(config: ModelConfig) -> Parameters:
    """Count a model's parameters, equal to what `Transformer(config)` holds."""
    norms = 2 if config.norm_bias else 1
    gains = norms * (2 * config.width + (2 * config.head_width if config.qk_norm else 0))
    block = block_matrices(config) + _block_biases(config) + gains
    non_embedding = config.num_layers * block + norms * config.width
    tables = config.vocab_size * config.width * (1 if config.tie_embeddings else 2)
    positions = config.context_tokens * config.width if config.position == "learned" else 0
    return Parameters(total=non_embedding + tables + positions, non_embedding=non_embedding)


def forward_flops_per_token(config: ModelConfig) -> int:
    """FLOPs of one forward pass per token, at full context: `2 (block matrices + head) + 4 layers T D`.

    The last term is attention's two products of T x K matrices for each head. Looking up an embedding
    costs nothing.
    """
    matrices = config.num_layers * block_matrices(config) + config.vocab_size * config.width
    return 2 * matrices + 4 * config.num_layers * config.context_tokens * config.width


def training_flops_per_token(config: ModelConfig) -> int:
    """FLOPs of forward and backward per token: every product has two more in its backward.

    These are the model's operations, without what an implementation recomputes to save memory.
    """
    return 3 * forward_flops_per_token(config)


def approx_flops_6nd(config: ModelConfig, tokens: int) -> int:
    """Training FLOPs of the rule 6 N D, with N the parameters without embeddings.

    References
    ----------
    Kaplan et al., "Scaling laws for neural language models", arXiv:2001.08361, section 2.1.
    """
    return 6 * count_parameters(config).non_embedding * tokens


def budget_tokens(config: Config) -> float:
    """Training tokens of a point: `tokens`, or as many as `flops` allows; before rounding to whole steps.

    Raises
    ------
    ValueError
        The FLOPs do not suffice for the warm-up.
    """
    if config.flops is None:
        assert config.tokens is not None
        return float(config.tokens)
    tokens = config.flops / training_flops_per_token(config.model)
    if tokens <= config.recipe.warmup_tokens:
        raise ValueError(
            f"flops={config.flops:g} allows {tokens:.0f} tokens of {config.model.name}, not more than "
            f"recipe.warmup_tokens={config.recipe.warmup_tokens}"
        )
    return tokens
