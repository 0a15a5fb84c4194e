"""Which part of the global batch a process trains on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class World:
    """One process among `size`; the global batch is the same for every size."""

    rank: int = 0
    """This process."""
    size: int = 1
    """All processes."""

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

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients_(self, model: nn.Module) -> None:
        """Sum the gradients over all processes, in place."""
        if self.size > 1:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
