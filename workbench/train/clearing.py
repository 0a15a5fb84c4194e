"""What is cleared away among a stage's checkpoints, by the process that holds the stage's lock."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Container, Iterable
from pathlib import Path

from workbench.study.layout import StageDir, checkpoint_step
from workbench.train.checkpoint import (
    DAMAGED,
    KEEP,
    DamagedCheckpointError,
    checkpoints_by_tokens,
    quarantine,
    read_manifest,
)
from workbench.train.weights_only import MANIFEST, clear_unlisted, drop_optimizer


def delete_superseded(stage_dir: StageDir, keep_last: int, *, before_step: int = 0) -> list[Path]:
    """Delete checkpoints that nothing needs, but for the latest `keep_last`; return what went.

    The latest by time of writing: a stage that fills in an early milestone resumes from it. Those before
    `before_step` go without exception.
    """
    spare = _by_time(path for path in stage_dir.list_checkpoints() if not (path / KEEP).exists())
    late = [path for path in spare if checkpoint_step(path) >= before_step]
    doomed = [path for path in spare if path not in late[max(0, len(late) - keep_last) :]]
    for path in doomed:
        # Without its manifest it is no checkpoint any more, so a death in the middle leaves no half one.
        (path / MANIFEST).unlink()
        shutil.rmtree(path)
    return doomed


def drop_optimizers(stage_dir: StageDir, needed: Container[int], keep_last: int) -> list[Path]:
    """Take the optimizer's state out of protected checkpoints that nothing resumes from; return which.

    Parameters
    ----------
    stage_dir
        A stage whose lock is held.
    needed
        Tokens of checkpoints that stay whole.
    keep_last
        So many of those written last stay whole, whatever their tokens: a damaged one is stepped back from.
    """
    whole = checkpoints_by_tokens(stage_dir, resumable=True)
    latest = _by_time(whole.values())[max(0, len(whole) - keep_last) :]
    doomed = [path for t, path in whole.items() if t not in needed and path not in latest and (path / KEEP).exists()]
    for path in doomed:
        drop_optimizer(path, read_manifest(path))
    return doomed


def _by_time(checkpoints: Iterable[Path]) -> list[Path]:
    return sorted(checkpoints, key=lambda path: (path / MANIFEST).stat().st_mtime_ns)


def clear_leftovers(stage_dir: StageDir) -> None:
    """Remove what a killed writer or deleter left, and move unreadable checkpoints aside."""
    for path in stage_dir.checkpoints.glob(".step_*.partial"):
        shutil.rmtree(path, ignore_errors=True)
    for path in stage_dir.checkpoints.glob("step_*"):
        if DAMAGED not in path.name and not (path / MANIFEST).exists():
            shutil.rmtree(path, ignore_errors=True)
    for path in stage_dir.list_checkpoints():
        with contextlib.suppress(DamagedCheckpointError):
            clear_unlisted(path, read_manifest(path))
            continue
        quarantine(path)
