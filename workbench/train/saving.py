"""A stage's checkpoints, from the training that stands still for a moment to what is told when they are there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.data.carried_tokens import Carried, write_carried
from workbench.model.tensor_file import FileFacts
from workbench.study.checkpoint_copies import writes_beside
from workbench.study.files import exclusive, read_stage
from workbench.study.kind_plan import checkpoint_bytes
from workbench.tracking import spool
from workbench.train import checkpoint as ckpt
from workbench.train.attempt_status import write_status
from workbench.train.background import CheckpointWriter
from workbench.train.distributed import World
from workbench.train.state import TrainState
from workbench.train.state_copy import HostCopies, Snapshot
from workbench.train.targets import clear_superseded

if TYPE_CHECKING:
    from workbench.train.loop import StageRun


class StageSaver:
    """Saves what one `StageRun` trains, while it waits or beside it; every process has one.

    Parameters
    ----------
    run
        The attempt: its stage, its processes, and what its kind writes.
    """

    def __init__(self, run: StageRun) -> None:
        self._run, self._stage, self._dir = run, run.stage, run.dir
        self._writer = CheckpointWriter(run.world, run.clock, run.hooks.on_written)
        self._copies = HostCopies(run.device) if writes_beside(run.stage, run.device.type) else None
        self.look, self.settle, self.close = self._writer.look, self._writer.settle, self._writer.close

    @property
    def is_due(self) -> bool:
        """Whether the time since the last checkpoint is over; never while one is written."""
        return not self._writer.is_busy and self._run.clock.is_due()

    def watch(self, state: TrainState) -> None:
        """Have the updates of a training wait for copies that are under way."""
        if self._copies is not None:
            self._copies.hold_back(state.optimizer)

    def save(self, state: TrainState, rows: spool.MetricsWriter | None, *, keep: bool, last: bool) -> None:
        """Write a checkpoint, once the one before it is durable; a collective.

        Parameters
        ----------
        state
            What is written, as it is now.
        rows
            On rank 0; brought to the disk first, so that whatever a checkpoint stands for is there before it is.
        keep
            Whether it is a milestone, a branch point or the end.
        last
            Whether no training follows: then nothing is copied, and it is there on return.

        Raises
        ------
        DiskFullError
            Of this checkpoint or, where it was written beside the training, of the one before it.
        """
        self._writer.settle()
        run, copies = self._run, None if last else self._copies
        snapshot = run.world.together(lambda: run.snapshot(state))
        if copies is not None:
            copy = partial(copies.copy, snapshot, is_main=run.world.is_main)
            # Of a shared-out model it is a collective by itself.
            snapshot = copy() if snapshot.shared else run.world.together(copy)
        manifest, step, tokens = run.manifest(state), state.step, state.tokens

        def save(world: World) -> Path:
            if copies is not None:
                world.together(copies.wait)
            world.main_only(lambda: rows and rows.sync())
            path = ckpt.write_checkpoint(
                self._dir,
                step,
                lambda folder: self._save_files(snapshot, folder, world),
                manifest,
                keep=keep,
                needed_bytes=checkpoint_bytes(self._stage, whole=True),
                world=world,
                say=run.hooks.log,
            )
            world.main_only(self._clear_superseded)
            return path

        write = self._writer.write if copies is None else self._writer.write_beside
        write(save, self._tell(step, tokens))

    def _save_files(self, snapshot: Snapshot, folder: Path, world: World) -> dict[str, FileFacts]:
        written = self._run.save_files(snapshot, folder, world)
        world.main_only(lambda: write_carried(self._carried, folder))
        return written

    @cached_property
    def _carried(self) -> Carried:
        return self._run.job.find_carried(self._run.prepared)

    def _clear_superseded(self) -> None:
        """Delete what nothing needs; another launch may have added targets since this run began."""
        with exclusive(self._dir.path / "freeze.lock"):
            stage = replace(read_stage(self._dir), checkpoint=self._stage.checkpoint)
            clear_superseded(self._dir, stage, self._run.goals)

    def _tell(self, step: int, tokens: int) -> Callable[[Path], None]:
        def tell(path: Path) -> None:
            write_status(self._dir, "running", step=step, tokens=tokens)
            self._run.hooks.on_checkpoint(path)

        return tell

    def write_row(self, rows: spool.MetricsWriter, row: dict[str, object]) -> None:
        """Append a row.

        Raises
        ------
        DiskFullError
            There is no room for it.
        """
        try:
            rows.write(row)
        except OSError as error:
            if not ckpt.is_disk_full(error):
                raise
            raise ckpt.DiskFullError(
                f"no room for a row of {self._dir.metrics}: it needs {len(json.dumps(row)) + 1} bytes; the checkpoints "
                "are whole, so make room and run the same command again"
            ) from error
