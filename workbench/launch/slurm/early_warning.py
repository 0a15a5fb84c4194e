"""Warns a job of its time limit before Slurm does, where checkpoints take longer than Slurm's signal leaves.

The signal comes `cluster.signal_seconds` before the limit, whatever a checkpoint takes, and a job in the queue cannot be
given another lead. So the job measures its writes, and where as many as a stop may take do not fit, it is its own signal.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from workbench.study.files import write_atomically

RESERVE_SECONDS = 10.0
"""Of a lead, kept for going back into the queue."""
WRITE_MARGIN = 1.5
"""Over the slowest write so far: other jobs, which the same limit may end, write to the same disks; chosen, not measured."""


class EarlyWarning:
    """Knows when one job must stop, by what its checkpoints took; rank 0 has one.

    Parameters
    ----------
    signal_seconds
        How long before the limit Slurm's signal comes.
    writes
        Checkpoints that a stop may have to write: two where one may be under way beside the training, else one.
    file
        Keeps the slowest write for the job's next turns in the queue.
    ask_end
        Gives the time at which Slurm is going to end the job, in seconds since 1970; None where it has no limit, or
        nobody says.
    """

    def __init__(self, signal_seconds: float, writes: int, file: Path, ask_end: Callable[[], float | None]) -> None:
        self._signal_seconds, self._writes = signal_seconds, writes
        self._file, self._ask_end = file, ask_end
        self.write_seconds: float = json.loads(file.read_text(encoding="utf-8")) if file.exists() else 0.0
        """Of the slowest write so far."""
        self._due = self._find_due()

    @property
    def patience_seconds(self) -> float:
        """Time that the work has for its checkpoints after the warning, Slurm's or this one."""
        return max(patience_seconds(self._signal_seconds), self._writes * WRITE_MARGIN * self.write_seconds)

    def written(self, seconds: float) -> None:
        """Learn what a checkpoint took to be written."""
        if seconds > self.write_seconds:
            self.write_seconds = seconds
            write_atomically(self._file, json.dumps(seconds))
        self._due = self._find_due()

    def is_due(self) -> bool:
        """Whether the job must stop now, before any signal."""
        if self._due is None or time.time() < self._due:
            return False
        self._due = self._find_due()  # the limit may have been extended
        return self._due is not None and time.time() >= self._due

    def _find_due(self) -> float | None:
        """When the warning is due; None where Slurm's signal comes early enough, or no end is known."""
        if self.patience_seconds <= patience_seconds(self._signal_seconds):
            return None
        end = self._ask_end()
        return None if end is None else end - self.patience_seconds - RESERVE_SECONDS


def patience_seconds(signal_seconds: float) -> float:
    """Give the time that the work has for its checkpoints after Slurm's signal."""
    return max(1.0, signal_seconds - RESERVE_SECONDS)
