"""One optimizer step.

Shapes: B sequences of this process, M sequences of a micro-batch, T predicted tokens a sequence, S sources.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from workbench.train.distributed import World
from workbench.train.optimizer import set_learning_rate

LossFunction = Callable[[torch.Tensor], torch.Tensor]
"""Maps tokens (M, T+1) to the loss of each predicted token (M, T), in nats."""


@dataclass(frozen=True)
class StepResult:
    """What one step measured."""

    loss: float
    """Mean over the global batch's tokens, in nats."""
    source_losses: list[float | None]
    """The same by source; None for a source without a sequence in this batch."""
    gradient_norm: float
    """Global norm before clipping."""


class NonFiniteLossError(Exception):
    """The loss or its gradient is not a finite number; the weights were not touched."""

    def __init__(self, step: int, loss: float, gradient_norm: float, sequences: range) -> None:
        super().__init__(
            f"step {step}: loss {loss}, gradient norm {gradient_norm}, on sequences "
            f"[{sequences.start}, {sequences.stop}) of the stream"
        )


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Context for the forward pass: nothing for fp32, bfloat16 autocast for bf16."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def train_step(
    model: nn.Module,
    loss_function: LossFunction,
    optimizer: torch.optim.Optimizer,
    tokens_BT1: torch.Tensor,
    sources_B: torch.Tensor,
    *,
    num_sources: int,
    learning_rate: float,
    clip_norm: float,
    precision: str,
    micro_batch_sequences: int | None = None,
    world: World = World(),  # noqa: B008  (frozen)
    step: int = 0,
    sequences: range = range(0),
) -> StepResult:
    """Forward, backward, clip and update on one global batch.

    Parameters
    ----------
    model, loss_function, optimizer
        What is trained, its loss a token, and what updates it.
    tokens_BT1
        This process's token ids, int64 of shape (B, T+1).
    sources_B
        Index of each sequence's source, int64 of shape (B,).
    num_sources
        Number of sources, S.
    learning_rate, clip_norm
        Of this step.
    precision
        `fp32` or `bf16`.
    micro_batch_sequences
        Sequences a forward pass; None takes all at once.
    world
        This process among all.
    step, sequences
        Named in the error.

    Raises
    ------
    NonFiniteLossError
        Loss or gradient norm is not finite.
    """
    global_tokens = tokens_BT1.shape[0] * (tokens_BT1.shape[1] - 1) * world.size
    sums_2S = torch.zeros(2, num_sources, dtype=torch.float64, device=tokens_BT1.device)
    size = micro_batch_sequences or tokens_BT1.shape[0]
    for micro_MT1, micro_sources_M in zip(tokens_BT1.split(size), sources_B.split(size), strict=True):
        with autocast(precision, tokens_BT1.device):
            loss_MT = loss_function(micro_MT1)
        (loss_MT.sum() / global_tokens).backward()
        sums_2S[0].index_add_(0, micro_sources_M, loss_MT.detach().double().sum(1))
        sums_2S[1].index_add_(0, micro_sources_M, torch.full_like(micro_sources_M, loss_MT.shape[1]).double())
    world.sum_gradients_(model)
    losses_S, tokens_S = world.sum_(sums_2S).tolist()
    loss = sum(losses_S) / global_tokens
    norm = _clip_gradients(model, clip_norm)
    if not (_is_finite(loss) and _is_finite(norm)):
        optimizer.zero_grad(set_to_none=True)
        raise NonFiniteLossError(step, loss, norm, sequences)
    set_learning_rate(optimizer, learning_rate)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    by_source = [total / count if count else None for total, count in zip(losses_S, tokens_S, strict=True)]
    return StepResult(loss, by_source, norm)


def _clip_gradients(model: nn.Module, clip_norm: float) -> float:
    """Scale the gradients to a norm of `clip_norm` at the most; give the norm that they had."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()


def _is_finite(value: float) -> bool:
    return value - value == 0.0
