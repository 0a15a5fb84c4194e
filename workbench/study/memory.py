"""Peak memory of one training process, counted from the model's config and from what the code keeps.

Bytes of tensors that `workbench.train.step` holds at once: weights, gradients and AdamW's moments in fp32, and
what autograd keeps of a micro-batch. The allocator's fragments and the libraries' own memory are left out.

Shapes: N tokens of a micro-batch, D width, H query heads, G key-value heads, K head width, F hidden width of the
feed-forward block, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.schema import ModelConfig
from workbench.study.flops import count_parameters

FP32 = 4


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    parameters: int
    """Weights in fp32: all of them, or a share where they are sharded."""
    gradients: int
    """Gradients in fp32, likewise."""
    optimizer: int
    """AdamW's two moments in fp32, likewise."""
    activations: int
    """What the forward pass keeps of a micro-batch and what it holds besides at its end: copies of the weights in
    the precision they are multiplied in, gathered shards, the loss's own gradients."""
    total: int
    """Peak: the larger of a forward pass's end and of the update. Gradients of an only micro-batch come into being
    as its activations go, so the parts above may sum to more."""


def peak_memory(
    model: ModelConfig,
    *,
    micro_batch_sequences: int,
    precision: str,
    activation_checkpointing: bool,
    attention: str,
    parallel: str,
    processes: int,
    micro_batches: int = 1,
    device: str = "cuda",
) -> Memory:
    """Estimate the peak memory of one training process.

    Parameters
    ----------
    model
        Shapes.
    micro_batch_sequences
        Sequences of one forward pass.
    precision, activation_checkpointing, attention, parallel
        As the numerics say.
    processes
        Among which the model is shared out where `parallel` is `shard`.
    micro_batches
        Forward passes of this process a step; from the second on, gradients stand beside the activations.
    device
        `cuda` or `cpu`: they compute attention, norms and loss differently.
    """
    shares = processes if parallel == "shard" else 1
    parameters = FP32 * -(-count_parameters(model).total // shares)
    tokens = micro_batch_sequences * model.context_tokens
    size = 2 if precision == "bf16" else FP32
    block = _block_bytes(model, tokens, size)
    kept = model.num_layers * FP32 * tokens * model.width + block if activation_checkpointing else 0
    kept = kept or model.num_layers * block
    tables = FP32 * model.vocab_size * model.width
    activations = kept + 3 * FP32 * tokens * model.width + 2 * tables + _weight_copies(model, size, shares)
    optimizer = 2 * parameters
    at_forward = parameters + optimizer + activations + (parameters if micro_batches > 1 else 0)
    return Memory(parameters, parameters, optimizer, activations, max(at_forward, 2 * parameters + optimizer))


def _block_bytes(model: ModelConfig, tokens: int, size: int) -> int:
    """Count what autograd keeps of one block: two of the residual stream in fp32, the rest in the products' precision."""
    qkv = (2 * model.num_heads + 3 * model.num_kv_heads) * model.head_width
    hidden = (4 if model.mlp == "swiglu" else 2) * model.mlp_width
    return tokens * (2 * FP32 * model.width + size * (3 * model.width + qkv + hidden) + FP32 * model.num_heads)


def _weight_copies(model: ModelConfig, size: int, shares: int) -> int:
    """Count the copies of the blocks' matrices in bf16, which autocast keeps until the forward pass ends."""
    if size == FP32 or shares > 1:
        return 0
    return size * count_parameters(model).non_embedding
