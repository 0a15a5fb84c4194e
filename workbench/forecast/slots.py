"""Where this machine trains: one slot per GPU, or without GPUs one per share of the cores.

A slot is what one process of a stage occupies; a stage of several processes occupies as many slots. An evaluation
occupies one.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from workbench.config.schema import Stage, TrainingStage
from workbench.study.cores import usable_cores

VISIBLE = "CUDA_VISIBLE_DEVICES"
_MIG = "MIG-"


@dataclass(frozen=True)
class Slots:
    """The slots of this machine, and how they were counted."""

    count: int
    """Number of slots."""
    how: str
    """How they were counted, in words."""
    gpus: tuple[str, ...] = ()
    """Each slot's GPU as CUDA_VISIBLE_DEVICES takes it; empty where training is on the CPU."""

    def environment(self, slots: Iterable[int]) -> str | None:
        """Give CUDA_VISIBLE_DEVICES of a worker that has these slots; None leaves it as it is."""
        return ",".join(self.gpus[slot] for slot in slots) if self.gpus else None

    def choose(self, processes: int, taken: Collection[int]) -> tuple[int, ...] | None:
        """Choose free slots for so many processes, each with a GPU of its own; None while there are not enough."""
        chosen: dict[str, int] = {}
        for slot in range(self.count):
            gpu = self.gpus[slot] if self.gpus else str(slot)
            if slot not in taken and gpu not in chosen and len(chosen) < processes:
                chosen[gpu] = slot
        return tuple(chosen.values()) if len(chosen) == processes else None

    @property
    def room(self) -> int:
        """Processes that one stage may have."""
        return len(set(self.gpus)) if self.gpus else self.count


def count_slots(stages: Iterable[Stage], threads: int, workers: int | None = None) -> Slots:
    """Count the slots for a study's stages.

    Parameters
    ----------
    stages
        Their devices count: where all say `cpu`, GPUs are not looked for.
    threads
        CPU threads of one training, for the count without GPUs.
    workers
        Slots as asked for; None takes one per GPU, or as many as the cores allow. More than there are GPUs share them.
    """
    gpus = visible_gpus() if any(stage.numerics.device != "cpu" for stage in stages) else ()
    asked = None if workers is None else f"hydra.launcher.workers={workers}"
    if gpus:
        names = ", ".join(gpus)
        shared = tuple(gpus[slot % len(gpus)] for slot in range(workers or len(gpus)))
        return Slots(len(shared), f"{asked} on GPUs {names}" if asked else f"one per GPU: {names}", shared)
    cores = usable_cores()
    return Slots(workers or max(1, cores // threads), asked or f"{cores} cores, numerics.threads={threads}")


def describe_slots(slots: Slots) -> str:
    """Say in a line how many processes train at a time here, and how they were counted."""
    return f"slots: {slots.count} ({slots.how})"


def check_processes(stages: Iterable[Stage], slots: Slots) -> None:
    """Refuse stages that ask for more processes than this machine has slots, before anything is prepared.

    Raises
    ------
    ValueError
        One line that names the stage, both numbers and what to change.
    """
    for stage in stages:
        if not isinstance(stage, TrainingStage):
            continue
        processes = stage.processes
        where = f"stage {stage.name!r} of model {stage.model.name!r}"
        if (stage.resources.nodes or 1) > 1:
            raise ValueError(
                f"{where}: resources.nodes={stage.resources.nodes}, but the local launcher trains on one machine: set "
                "resources.nodes=null, or use hydra/launcher=slurm"
            )
        if processes > slots.room:
            raise ValueError(
                f"{where}: resources.processes={processes} is more than there is room for here, which is {slots.room} "
                f"({slots.how}): ask for fewer processes, or use hydra/launcher=slurm"
            )
        if processes > 1 and any(gpu.startswith(_MIG) for gpu in slots.gpus):
            raise ValueError(
                f"{where}: resources.processes={processes}, but parts of a GPU ({VISIBLE}={slots.gpus[0]}, ...) cannot "
                "train one stage together: set resources.processes=1"
            )
        if stage.batch_sequences % processes:
            raise ValueError(
                f"{where}: resources.processes={processes} does not divide the batch of {stage.batch_sequences} "
                "sequences"
            )


def visible_gpus() -> tuple[str, ...]:
    """List the GPUs that this process may use, each as CUDA_VISIBLE_DEVICES takes it."""
    setting = os.environ.get(VISIBLE)
    named = None if setting is None else parse_visible(setting)
    if named == ():
        return ()
    if named is not None and named[0].startswith(_MIG):
        return named  # CUDA shows a process one part at most, whatever is named
    count = count_gpus()
    return tuple(str(index) for index in range(count)) if named is None else named[:count]


def parse_visible(setting: str) -> tuple[str, ...]:
    """Read CUDA_VISIBLE_DEVICES as CUDA does: indices or UUIDs, up to the first that is neither; twice named is none."""
    found: list[str] = []
    for entry in (part.strip() for part in setting.split(",")):
        if not (entry.isdecimal() or entry.startswith(("GPU-", _MIG))):
            break
        found.append(entry)
    return tuple(found) if len(set(found)) == len(found) else ()


def count_gpus() -> int:
    """Count the GPUs that PyTorch sees, without starting CUDA in this process; tests replace it."""
    try:
        if version("torch").endswith("+cpu"):
            return 0  # without the seconds that importing it takes
    except PackageNotFoundError:
        pass
    import torch

    return torch.cuda.device_count()
