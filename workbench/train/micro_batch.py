"""How many sequences go through the model at once, where the numerics leave it open."""

from __future__ import annotations

import os

import torch

from workbench.config.schema import TrainingStage
from workbench.study.resources import USABLE_MEMORY, stage_memory


def choose_micro_batch(
    stage: TrainingStage,
    processes: int,
    device: torch.device,
    memory_bytes: int | None = None,
    begun_with: int | None = None,
) -> int:
    """Sequences of one forward pass: as the numerics say, else the most whose estimated memory the device has.

    Micro-batches of one step are equally large, so that compiled code has one shape. Where even one sequence seems too
    much it is tried nevertheless, for the estimate may be wrong.

    Parameters
    ----------
    stage
        What is trained.
    processes
        Processes that divide its global batch.
    device
        Where; all processes should have devices alike.
    memory_bytes
        Memory of one device; None asks the system. Its size, not what is free of it: equal machines choose alike.
    begun_with
        What the stage was trained with so far. It is taken again while it fits, since another size changes the last
        bits of every sum.
    """
    share = stage.batch_sequences // processes
    if stage.numerics.micro_batch_sequences is not None:
        return min(share, stage.numerics.micro_batch_sequences)
    room = USABLE_MEMORY * (memory_bytes or _device_memory(device))
    kind = "cuda" if device.type == "cuda" else "cpu"
    sizes = [share // parts for parts in range(1, share + 1) if share % parts == 0]
    if begun_with in sizes:
        sizes = [size for size in sizes if size <= begun_with]
    return next((size for size in sizes if stage_memory(stage, processes, size, kind).total <= room), 1)


def _device_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
