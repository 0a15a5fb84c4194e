"""The processes that train one stage together, and what they tell each other.

Every collective of the training loop is here, in `workbench.train.gradient_sums` or in FSDP2's hooks. Decisions that
depend on files or on signals are made by one process or agreed, so that no process waits for a collective that others skip.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


class RemoteError(Exception):
    """Another process of the stage failed; its message says how."""


@dataclass(frozen=True)
class World:
    """One process among `size`; the global batch is the same for every size."""

    rank: int = 0
    """This process."""
    size: int = 1
    """All processes."""
    device: torch.device | None = None
    """Where this process computes; None leaves it to the stage's numerics (one process alone)."""
    timeout_seconds: float | None = None
    """Of a collective; None takes PyTorch's."""
    group: dist.ProcessGroup | None = None
    """What they talk by; None is the group that training uses."""

    def __post_init__(self) -> None:
        """Refuse ranks that do not exist."""
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} is not below the world size {self.size}")

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def local_range(self, start: int, batch_sequences: int) -> range:
        """Sequences of the global batch `[start, start + batch_sequences)` that are this process's.

        Raises
        ------
        ValueError
            The batch cannot be divided evenly.
        """
        if batch_sequences % self.size:
            raise ValueError(f"a global batch of {batch_sequences} sequences does not divide by {self.size} processes")
        share = batch_sequences // self.size
        return range(start + self.rank * share, start + (self.rank + 1) * share)

    def apart(self) -> World:
        """Give the same processes a channel of their own, from host to host, for another thread; a collective."""
        if self.size == 1:
            return self
        timeout = None if self.timeout_seconds is None else timedelta(seconds=self.timeout_seconds)
        return replace(self, group=dist.new_group(timeout=timeout, backend="gloo"))

    def wait(self) -> None:
        """Wait until every process is here."""
        self.any_()

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def any_(self, *flags: bool) -> tuple[bool, ...]:
        """Agree on flags in one collective: each is true where it was so on any process."""
        if self.size == 1:
            return tuple(bool(flag) for flag in flags)
        raised = torch.tensor([False, *flags], dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX, group=self.group)
        return tuple(bool(flag) for flag in raised.tolist()[1:])

    def main_only(self, function: Callable[[], T]) -> T:
        """Run a function on rank 0 alone; every process gets its result, or raises what it raised.

        The result must be plain data. An error that does not survive pickling, and every error that is not an
        `Exception`, arrives at the others as `RemoteError`.
        """
        if self.size == 1:
            return function()
        error: BaseException | None = None
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = function()
            except BaseException as raised:
                error, answer[1] = raised, self._portable(raised)
        dist.broadcast_object_list(answer, src=0, group=self.group, device=torch.device("cpu"))
        if error is not None or answer[1] is not None:
            raise error or answer[1]
        return answer[0]

    def together(self, function: Callable[[], T]) -> T:
        """Run a function without collectives on every process; where it fails on one, all raise its error."""
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:
            failure = error
        self.raise_any(self.any_(failure is not None)[0], failure)
        return result  # pyright: ignore[reportReturnType]

    def raise_any(self, failed: bool, failure: BaseException | None) -> None:
        """Where some process `failed`, and all know it: raise this one's failure, or else the first one's."""
        if not failed:
            return
        if self.size == 1:
            assert failure is not None
            raise failure
        first = next(error for error in self.gather(failure and self._portable(failure)) if error is not None)
        raise failure or first

    def gather(self, value: T) -> list[T]:
        """Plain data of every process, on every process, in the order of the ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def _portable(self, error: BaseException) -> Exception:
        """Give the error itself where it can be sent and rebuilt, else its name and message."""
        with suppress(Exception):  # whatever pickling minds
            if isinstance(error, Exception) and type(pickle.loads(pickle.dumps(error))) is type(error):
                return error
        return RemoteError(f"rank {self.rank}: {type(error).__name__}: {error}")


@contextmanager
def join(
    rank: int,
    size: int,
    local_rank: int,
    address: str,
    port: int,
    device: str | torch.device,
    timeout_seconds: float,
) -> Generator[World]:
    """Meet the other processes of a stage, and part from them at the end.

    Parameters
    ----------
    rank, size
        This process among all; a size of 1 makes no group.
    local_rank
        This process among those of its node: the number of its GPU, where it sees more than one.
    address, port
        Where rank 0 listens.
    device
        `cuda` (nccl for tensors, gloo for what the hosts agree on) or `cpu` (gloo).
    timeout_seconds
        A collective that takes longer means that a process is gone: more than rank 0 needs to check a checkpoint's
        files, or to write one of a model that is not shared out. Under gloo a process that ends is noticed at once;
        under nccl whoever started the processes should end the others.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    world = World(rank, size, torch.device(device), timeout_seconds)
    if size == 1:
        yield world
        return
    dist.init_process_group(
        # What is agreed between steps goes from host to host, so that no process waits for its GPU to say it.
        "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo",
        init_method=f"tcp://{address}:{port}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_seconds),
        device_id=world.device if kind == "cuda" else None,
    )
    try:
        yield world
    except BaseException:
        if kind == "cuda":  # leaving in order would wait for the others, who may be waiting for this one
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()
