"""What a caller of a stage may hang into its loop, and is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """How far a stage is."""

    stage: str
    """Id."""
    step: int
    """Optimizer steps since the start of the chain."""
    tokens: int
    """Tokens since the start of the chain."""
    start_tokens: int
    """Where the stage begins."""
    end_tokens: int
    """Where it may stop."""
    loss: float
    """Of the last step, in nats."""
    tokens_per_second: float
    """Of the last step."""


@dataclass
class Hooks:
    """What a caller may hang into the loop; each process has its own."""

    should_stop: Callable[[], bool] = lambda: False
    """Asked after every step; true on any process writes a checkpoint and ends the stage as killed on all."""
    on_progress: Callable[[Progress], None] = lambda progress: None
    """Told of every step, on every process."""
    on_checkpoint: Callable[[Path], None] = lambda path: None
    """Told of every checkpoint that was written, on rank 0."""
    on_written: Callable[[float], None] = lambda seconds: None
    """Told the seconds that a checkpoint took to be written, on rank 0."""
    log: Callable[[str], None] = lambda text: None
    """Told what a reader of the stage's log should know, on rank 0."""


class StoppedError(Exception):
    """The stage was asked to stop and has written a checkpoint."""
