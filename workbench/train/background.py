"""Checkpoints written beside the training: one thread a process, one checkpoint at a time, in order.

The threads of a stage's processes agree among themselves, on a channel of their own, as its training loops do on
theirs: a checkpoint is durable for all or has failed for all. What becomes of it the training hears between two steps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from workbench.train.distributed import World
from workbench.train.interval import CheckpointClock

_ASK_SECONDS = 0.1
"""Time between two agreements on whether all writers have ended."""


@dataclass
class _Pending:
    """A checkpoint under way."""

    thread: threading.Thread
    began: float
    after: Callable[[Path], None]
    path: list[Path] = field(default_factory=list)
    failure: list[BaseException] = field(default_factory=list)
    seconds: float = 0.0


class CheckpointWriter:
    """Writes the checkpoints of one attempt at a stage; every process has one.

    Parameters
    ----------
    world
        The processes.
    clock
        Told what each write took.
    on_written
        Told the same, on rank 0.
    """

    def __init__(
        self, world: World, clock: CheckpointClock, on_written: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self._world, self._clock, self._on_written = world, clock, on_written
        self._apart: World | None = None
        self._pending: _Pending | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint of this process is under way, or has ended and was not yet looked at."""
        return self._pending is not None

    def write(self, save: Callable[[World], Path], after: Callable[[Path], None]) -> None:
        """Write a checkpoint while the caller waits; `settle` comes before.

        Parameters
        ----------
        save
            Writes it and brings it to the disk, on every process, agreeing by the world it is given.
        after
            Called on rank 0 when it is there.
        """
        began = time.monotonic()
        path = save(self._world)
        seconds = time.monotonic() - began
        self._world.main_only(lambda: self._tell(after, path, seconds))
        self._clock.saved(seconds)

    def write_beside(self, save: Callable[[World], Path], after: Callable[[Path], None]) -> None:
        """Write a checkpoint in a thread; `settle` comes before, and `save` may use nothing that training changes.

        As `write`, but `after` is called by `look` or `settle`, in the caller's thread.
        """
        assert self._pending is None
        if self._apart is None:
            self._apart = self._world.apart()
        world = self._apart
        thread = threading.Thread(target=lambda: self._run(pending, save, world), name="checkpoint", daemon=True)
        pending = self._pending = _Pending(thread, time.monotonic(), after)
        thread.start()

    def _run(self, pending: _Pending, save: Callable[[World], Path], world: World) -> None:
        try:
            if world.device is not None and world.device.type == "cuda":
                torch.cuda.set_device(world.device)  # a thread begins with the first
            pending.path.append(save(world))
        except BaseException as error:
            pending.failure.append(error)
        pending.seconds = time.monotonic() - pending.began

    def look(self) -> None:
        """See, without waiting, what became of the checkpoint under way; no collective.

        Raises
        ------
        Exception
            What its writer raised.
        """
        if self._pending is not None and not self._pending.thread.is_alive():
            self._end()

    def settle(self) -> None:
        """Wait for the checkpoint under way; a collective.

        Raises
        ------
        Exception
            What its writer raised, on every process.
        """
        if self._apart is None:
            return
        # Where a thread has failed alone, the others' may wait for it until their channel gives up: nobody waits for them.
        while True:
            pending = self._pending
            writing = pending is not None and pending.thread.is_alive()
            failed = pending is not None and not writing and bool(pending.failure)
            any_writing, any_failed = self._world.any_(writing, failed)
            if any_failed or not any_writing:
                break
            if pending is not None:
                pending.thread.join(_ASK_SECONDS)
        if any_failed and writing:
            self._pending = None
        self._world.together(self._end)

    def _tell(self, after: Callable[[Path], None], path: Path, seconds: float) -> None:
        after(path)
        self._on_written(seconds)

    def close(self) -> None:
        """Wait for the checkpoint under way at the end of an attempt that may have failed already; raises nothing."""
        with suppress(Exception):
            self._end()

    def _end(self) -> None:
        pending = self._pending
        if pending is None:
            return
        pending.thread.join()
        self._pending = None
        if pending.failure:
            raise pending.failure[0]
        if self._world.is_main:
            self._tell(pending.after, pending.path[0], pending.seconds)
        self._clock.saved(pending.seconds)
