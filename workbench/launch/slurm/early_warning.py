"""Warns a job of its time limit before Slurm does, where checkpoints take longer than Slurm's signal leaves.

The signal comes `cluster.signal_seconds` before the limit, whatever a checkpoint takes, and a job in the queue cannot be
given another lead. So the job measures its writes, and where as many as a stop may take do not fit, it is its own signal.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from workbench.study.files import write_atomically

RESERVE_SECONDS = 10.0
"""Of a lead, kept for going back into the queue."""
WRITE_MARGIN = 1.5
"""Over the slowest write so far: other jobs, which the same limit may end, write to the same disks; chosen, not measured."""
TRAINING_SHARE = 0.5
"""Of a turn in the queue, in which no warning is given; chosen, not measured."""


class EarlyWarning:
    """Knows when one job must stop, by what its checkpoints took; rank 0 has one.

    Parameters
    ----------
    signal_seconds
        How long before the limit Slurm's signal comes.
    writes
        Checkpoints that a stop may have to write: two where one may be under way beside the training, else one.
    file
        Keeps the slowest write of a turn in the queue for the next one.
    ask_end
        Gives the time at which Slurm is going to end the job, in seconds since 1970; None where it has no limit, or
        nobody says.
    """

    def __init__(self, signal_seconds: float, writes: int, file: Path, ask_end: Callable[[], float | None]) -> None:
        self._signal_seconds, self._writes = signal_seconds, writes
        self._file, self._ask_end = file, ask_end
        self.write_seconds: float = json.loads(file.read_text(encoding="utf-8")) if file.exists() else 0.0
        """Of the slowest write of this turn; until it has written, of the turn before."""
        self._slowest_here = 0.0
        self._began = time.time()
        self._end: float | None = None
        self._due = self._find_due()

    @property
    def patience_seconds(self) -> float:
        """Time that the work has for its checkpoints after the warning, Slurm's or this one."""
        return max(patience_seconds(self._signal_seconds), self._writes * WRITE_MARGIN * self.write_seconds)

    def written(self, seconds: float) -> None:
        """Learn what a checkpoint took to be written."""
        if seconds > self._slowest_here:  # in place of what a turn before took, which may have met a hanging disk
            self._slowest_here = self.write_seconds = seconds
            with suppress(OSError):  # it is a note for the next turn alone
                write_atomically(self._file, json.dumps(seconds))
        self._due = self._find_due()

    def left_seconds(self) -> float:
        """Time that the work still has for its checkpoints, at least one second, before the job must go back into the queue."""
        return self.patience_seconds if self._end is None else max(1.0, self._end - RESERVE_SECONDS - time.time())

    def is_due(self) -> bool:
        """Whether the job must stop now, before any signal."""
        if self._due is None or time.time() < self._due:
            return False
        self._due = self._find_due()  # the limit may have been extended
        return self._due is not None and time.time() >= self._due

    def _find_due(self) -> float | None:
        """When the warning is due; None where Slurm's signal comes early enough, or no end is known.

        A share of a turn is for training whatever writes take, so that a job in which they have no room does not stop at
        its first step.
        """
        if self.patience_seconds <= patience_seconds(self._signal_seconds):
            return None
        end = self._ask_end()
        self._end = self._end if end is None else end  # Slurm may be silent for a moment
        if self._end is None:
            return None
        return max(
            self._end - self.patience_seconds - RESERVE_SECONDS,
            self._began + TRAINING_SHARE * (self._end - self._began),
        )


def patience_seconds(signal_seconds: float) -> float:
    """Give the time that the work has for its checkpoints after Slurm's signal."""
    return max(1.0, signal_seconds - RESERVE_SECONDS)
