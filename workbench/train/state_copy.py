"""A training's state as a checkpoint is to hold it: read in place, or copied so that training can go on.

On a GPU the copies go to pinned memory of the host on a stream of their own, and the next update waits for them on
the device; on the CPU they are made at once. The memory is kept from one checkpoint to the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from workbench.config.schema import ModelConfig
from workbench.train.pinned_memory import Shapes, pinned_tensors
from workbench.train.shares import is_share


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds of a training, at one step."""

    config: ModelConfig
    """The model's."""
    weights: Mapping[str, Tensor]
    """By `Transformer`'s names. Of a shared-out model every process's shares, or rank 0's whole copies."""
    optimizer: Mapping[str, Tensor]
    """As `optimizer_tensors` names them; shares, where the model is shared out."""
    rng: Mapping[str, Tensor]
    """The global random state."""
    counters: Mapping[str, int]
    """Steps, tokens and skipped updates."""
    shared: bool
    """Whether each process has a share of the model."""
    adapters: Mapping[str, Tensor] = field(default_factory=dict)
    """As `workbench.model.lora.adapter_tensors` names them, where adapters are trained: `weights` are merged ones."""

    @property
    def tokens(self) -> int:
        """Tokens since the start of the chain."""
        return self.counters["tokens"]


class HostCopies:
    """Copies of tensors in the host's memory, which is taken once and used for one checkpoint after the other.

    Parameters
    ----------
    device
        Where the tensors are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: dict[str, Tensor] = {}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copied: torch.Event | None = None

    def copy(self, snapshot: Snapshot, *, is_main: bool) -> Snapshot:
        """Copy a snapshot; a collective where the model is shared out, which rank 0 gathers tensor by tensor.

        The snapshot before it must have been written. What is copied may change as soon as `hold_back` lets it.
        """
        if not snapshot.shared and not is_main:
            # Rank 0 alone writes; merged weights of adapters would stay on this one's device meanwhile.
            return replace(snapshot, weights={}, optimizer={})
        self._take_room(_shapes(snapshot, is_main))
        weights = self._gather(snapshot.weights, is_main) if snapshot.shared else self._all("weights", snapshot.weights)
        copied = Snapshot(
            config=snapshot.config,
            weights=weights,
            optimizer=self._all("optimizer", snapshot.optimizer),
            rng=snapshot.rng,
            counters=snapshot.counters,
            shared=snapshot.shared,
            adapters=self._all("adapters", snapshot.adapters),
        )
        self._copied = self._stream.record_event() if self._stream is not None else None
        return copied

    def hold_back(self, optimizer: torch.optim.Optimizer) -> None:
        """Have each update by `optimizer` wait, on the device, until what it changes has been copied."""
        if self._stream is not None:
            optimizer.register_step_pre_hook(self._before_update)

    def _before_update(self, *_: Any) -> None:
        if self._copied is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied)

    def wait(self) -> None:
        """Wait until the copies are there; the thread that writes them calls this."""
        if self._copied is not None:
            self._copied.synchronize()

    def _gather(self, weights: Mapping[str, Tensor], is_main: bool) -> dict[str, Tensor]:
        """Copy whole weights on rank 0, behind each other on the stream that gathers, so that one at a time is whole."""
        found: dict[str, Tensor] = {}
        for name, share in weights.items():
            assert is_share(share)
            whole = share.full_tensor()  # every process takes part
            if is_main:
                found[name] = self._kept[f"weights {name}"].copy_(whole, non_blocking=True)
        return found

    def _all(self, kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self._stream is None:
            return {name: self._copy(f"{kind} {name}", tensor) for name, tensor in tensors.items()}
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            return {name: self._copy(f"{kind} {name}", tensor) for name, tensor in tensors.items()}

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        if is_share(tensor):
            from torch.distributed.tensor import DTensor

            # A share on the host that knows its place in the whole, as PyTorch's own checkpoints have it.
            local = self._copy(name, tensor.to_local())
            return DTensor(local, tensor._spec, requires_grad=False)  # pyright: ignore
        kept = self._kept[name].copy_(tensor, non_blocking=True)
        if self._stream is not None and tensor.is_cuda:
            tensor.record_stream(self._stream)
        return kept

    def _take_room(self, shapes: Shapes) -> None:
        """Take memory for what has none yet, or has another shape than before."""
        kept = {name: (tensor.shape, tensor.dtype) for name, tensor in self._kept.items()}
        lacking = {name: each for name, each in shapes.items() if kept.get(name) != each}
        if self._device.type == "cuda":
            self._kept |= pinned_tensors(lacking)
        else:
            self._kept |= {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in lacking.items()}


def _shapes(snapshot: Snapshot, is_main: bool) -> Shapes:
    """Shapes of all that this process copies: of what is shared out its shares, but the weights whole, on rank 0."""
    copied = {f"optimizer {name}": local_part(tensor) for name, tensor in snapshot.optimizer.items()}
    copied |= {f"adapters {name}": local_part(tensor) for name, tensor in snapshot.adapters.items()}
    if is_main or not snapshot.shared:
        copied |= {f"weights {name}": tensor for name, tensor in snapshot.weights.items()}
    return {name: (tensor.shape, tensor.dtype) for name, tensor in copied.items()}


def local_part(tensor: Tensor) -> Tensor:
    """Give this process's share of a tensor that is shared out, any other as it is."""
    return tensor.to_local() if is_share(tensor) else tensor
