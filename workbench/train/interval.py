"""When the next checkpoint between two targets is due."""

from __future__ import annotations

import time

SHARE = 0.01
"""Of the time, at most, that goes into writing checkpoints nobody asked for."""
FLOOR_SECONDS = 60.0
"""Small models are written in milliseconds; more often than this would save little work and make many files."""
ASSUMED_BYTES_PER_SECOND = 1e9
"""Of the first write, until it has been measured: a fast disk. A slower one costs more than its share once."""


class CheckpointClock:
    """Chooses the interval from what the last write cost, unless the user has set one.

    Parameters
    ----------
    interval_seconds
        The user's; None chooses.
    state_bytes
        Of one checkpoint.
    """

    def __init__(self, interval_seconds: float | None, state_bytes: int) -> None:
        self._set = interval_seconds
        self._write_seconds = state_bytes / ASSUMED_BYTES_PER_SECOND
        self._since = time.monotonic()

    @property
    def interval_seconds(self) -> float:
        """From the end of one write to the beginning of the next."""
        if self._set is not None:
            return self._set
        return max(FLOOR_SECONDS, self._write_seconds / SHARE)

    def is_due(self) -> bool:
        """Whether the interval is over."""
        return time.monotonic() - self._since > self.interval_seconds

    def saved(self, write_seconds: float) -> None:
        """Begin the next interval, after a write that took so long."""
        self._write_seconds = write_seconds
        self._since = time.monotonic()
