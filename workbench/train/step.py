"""One optimizer step.

The host hands the device all of a step's work without waiting for it, the decision whether to update included, and
reads what was measured from one small tensor at the end (`HostCopy`).

Shapes: B sequences of this process, M sequences of a micro-batch, T predicted tokens a sequence, S sources.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from workbench.model.batch import Batch
from workbench.train.distributed import World
from workbench.train.gradient_sums import GradientSums
from workbench.train.optimizer import set_learning_rate, step_if_
from workbench.train.shares import is_share, reduce_gradients_after

LossFunction = Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]
"""Maps a micro-batch to the sum of its targets' losses times their weights, with its gradient, and to each target's loss
(M, T), in nats."""


@dataclass(frozen=True)
class StepResult:
    """What one step measured."""

    loss: float
    """Mean over the global batch's targets, by their weights, in nats."""
    source_losses: list[float | None]
    """The same by source; None for a source without a sequence in this batch."""
    gradient_norm: float
    """Global norm before clipping."""
    skipped: bool = False
    """Whether loss or gradient were not finite, and nothing was updated."""


class NonFiniteLossError(Exception):
    """The loss or its gradient is not a finite number; the weights were not touched."""

    def __init__(self, step: int, loss: float, gradient_norm: float, sequences: range, note: str = "") -> None:
        super().__init__(
            f"step {step}: loss {loss}, gradient norm {gradient_norm}, on sequences "
            f"[{sequences.start}, {sequences.stop}) of the stream{note}"
        )


class HostCopy:
    """Numbers on their way from the device to the host; the device goes on meanwhile.

    Parameters
    ----------
    numbers
        A tensor of one dimension.
    """

    def __init__(self, numbers: torch.Tensor) -> None:
        self._host = torch.empty_like(numbers, device="cpu", pin_memory=numbers.is_cuda)
        self._host.copy_(numbers, non_blocking=True)
        self._copied = torch.cuda.current_stream(numbers.device).record_event() if numbers.is_cuda else None

    def read(self) -> list[float]:
        """Wait until they are here; the one time in a step that the host waits for the device."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host.tolist()


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Context for the forward pass: nothing for fp32, bfloat16 autocast for bf16."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def train_step(
    model: nn.Module,
    loss_function: LossFunction,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
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
    skip_non_finite: bool = False,
) -> StepResult:
    """Forward, backward, clip and update on one global batch.

    Where loss or gradient are not finite nothing is updated: no bit of parameters, moments and step counts changes.

    Parameters
    ----------
    model, loss_function, optimizer
        What is trained, its loss, and what updates it.
    batch
        This process's share of the global batch. Each target counts by its weight over the weights of all processes'
        and all micro-batches' targets, however they are divided.
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
    skip_non_finite
        Return a result that says `skipped` in place of the error.

    Raises
    ------
    NonFiniteLossError
        Loss or gradient norm is not finite, and that is not to be skipped.
    """
    device, mine = batch.tokens.device, batch.targets
    # Where all count alike their number is known here; otherwise it stays on the device.
    targets = mine * world.size if isinstance(mine, int) else world.sum_(mine)
    sums_2S = torch.zeros(2, num_sources, dtype=torch.float64, device=device)
    size = micro_batch_sequences or len(batch.tokens)
    summed = GradientSums(model, world)  # before a forward pass, in which shares are gathered
    micro_batches = list(zip(batch.split(size), sources_B.split(size), strict=True))
    for number, (micro, micro_sources_M) in enumerate(micro_batches, 1):
        reduce_gradients_after(model, number == len(micro_batches))
        with autocast(precision, device):
            total, loss_MT = loss_function(micro)
        with summed if number == len(micro_batches) else nullcontext():
            (total / targets).backward()
        if micro.weights is None:
            counts_M = torch.full_like(micro_sources_M, loss_MT.shape[1]).double()
        else:
            loss_MT, counts_M = loss_MT * micro.weights, micro.weights.double().sum(1)
        sums_2S[0].index_add_(0, micro_sources_M, loss_MT.double().sum(1))
        sums_2S[1].index_add_(0, micro_sources_M, counts_M)
    norm = _clip_gradients(model, clip_norm)
    measured = torch.cat((world.sum_(sums_2S).flatten(), norm.double().view(1)))
    copy = HostCopy(measured)
    set_learning_rate(optimizer, learning_rate)
    step_if_(optimizer, measured.isfinite().all())
    optimizer.zero_grad(set_to_none=True)
    *sums, gradient_norm = copy.read()
    losses_S, tokens_S = sums[:num_sources], sums[num_sources:]
    loss = sum(losses_S) / (targets if isinstance(targets, int) else sum(tokens_S))
    skipped = not all(map(math.isfinite, (*losses_S, gradient_norm)))
    if skipped and not skip_non_finite:
        raise NonFiniteLossError(step, loss, gradient_norm, sequences)
    by_source = [total / count if count else None for total, count in zip(losses_S, tokens_S, strict=True)]
    return StepResult(loss, by_source, gradient_norm, skipped)


def _clip_gradients(model: nn.Module, clip_norm: float) -> torch.Tensor:
    """Scale the gradients to a norm of at most `clip_norm`; give the norm that they had."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    return norm.full_tensor() if is_share(norm) else norm
