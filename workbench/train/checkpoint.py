"""Checkpoints: atomic directories with a manifest of checksums, and no pickles.

`step_<n>/` holds a Hugging Face model directory, `optimizer.safetensors`, `rng.safetensors`,
`train_state.json`, and last of all `manifest.json`. A directory with a manifest is complete; a file
`keep` in it says that a milestone, a branch or a study needs it, and it is never deleted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.study.layout import StageDir, checkpoint_step

MANIFEST = "manifest.json"
KEEP = "keep"
DAMAGED = ".damaged"


class DamagedCheckpointError(Exception):
    """A checkpoint's files are not what its manifest says."""

    def __init__(self, checkpoint: Path, reason: str) -> None:
        super().__init__(f"checkpoint {checkpoint}: {reason}")
        self.checkpoint = checkpoint


class DiskFullError(Exception):
    """There was no room for a checkpoint; those before it stand."""


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Manifest of a complete checkpoint.

    Raises
    ------
    DamagedCheckpointError
        It cannot be read.
    """
    try:
        return json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(checkpoint, f"its manifest cannot be read ({error})") from error


def verify(checkpoint: Path) -> dict[str, Any]:
    """Check every file against the manifest and return it.

    Raises
    ------
    DamagedCheckpointError
        A file is missing, or its size or SHA-256 differ; the file is named.
    """
    manifest = read_manifest(checkpoint)
    for name, expected in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file():
            raise DamagedCheckpointError(checkpoint, f"{name} is missing")
        if path.stat().st_size != expected["bytes"] or _sha256(path) != expected["sha256"]:
            raise DamagedCheckpointError(checkpoint, f"{name} does not match its checksum")
    return manifest


def quarantine(checkpoint: Path) -> Path:
    """Move a damaged checkpoint out of the way, keeping what is left of it; return its new path."""
    target = checkpoint.with_name(checkpoint.name + DAMAGED)
    number = 1
    while target.exists():
        number += 1
        target = checkpoint.with_name(f"{checkpoint.name}{DAMAGED}-{number}")
    checkpoint.rename(target)
    return target


def find_checkpoint(stage_dir: StageDir, tokens: int) -> Path | None:
    """Complete checkpoint of a stage at exactly `tokens`, or None."""
    return checkpoints_by_tokens(stage_dir).get(tokens)


def checkpoints_by_tokens(stage_dir: StageDir) -> dict[int, Path]:
    """Complete checkpoints of a stage by the tokens they have seen; unreadable manifests are left out."""
    found: dict[int, Path] = {}
    for path in stage_dir.list_checkpoints():
        with contextlib.suppress(DamagedCheckpointError):
            found[read_manifest(path)["tokens"]] = path
    return found


def durable_step(stage_dir: StageDir, start_step: int) -> int:
    """Last step that was ever made durable in a stage: rows up to it are published and final.

    Checkpoints found damaged afterwards count too: the rows before them were final when they were whole.
    """
    steps = [int(p.name.removeprefix("step_").split(".")[0]) for p in stage_dir.checkpoints.glob("step_*")]
    return max([start_step, *steps])


def write_checkpoint(
    stage_dir: StageDir,
    step: int,
    write_files: Callable[[Path], None],
    manifest: dict[str, Any],
    *,
    keep: bool,
    needed_bytes: int,
) -> Path:
    """Write one checkpoint whole or not at all.

    Parameters
    ----------
    stage_dir, step
        Where; an existing complete checkpoint of that step stays as it is.
    write_files
        Writes everything but the manifest into the folder it is given.
    manifest
        Facts about the checkpoint; checksums are added under `files`.
    keep
        Whether it must never be deleted.
    needed_bytes
        Room it will take, checked before and named if there is none.

    Raises
    ------
    DiskFullError
        With the bytes needed and the bytes free.
    """
    target = stage_dir.checkpoint(step)
    if (target / MANIFEST).exists():
        if keep:
            mark_kept(target)
        return target
    stage_dir.checkpoints.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(stage_dir.checkpoints).free
    if free < needed_bytes:
        raise DiskFullError(_no_room(target, needed_bytes, free))
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write_files(partial)
        if keep:
            (partial / KEEP).touch()
        _finish(partial, target, manifest)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(_no_room(target, needed_bytes, free)) from error
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def _finish(partial: Path, target: Path, manifest: dict[str, Any]) -> None:
    """Add the manifest, bring everything to the disk, and give the directory its name."""
    files = {
        str(path.relative_to(partial)): {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in sorted(partial.rglob("*"))
        if path.is_file() and path.name != KEEP
    }
    (partial / MANIFEST).write_text(json.dumps({**manifest, "files": files}, indent=1))
    for path in partial.rglob("*"):
        _fsync(path)
    _fsync(partial)
    if target.exists():  # a directory without a manifest: not one of ours, and not a checkpoint
        quarantine(target)
    partial.rename(target)
    _fsync(target.parent)


def mark_kept(checkpoint: Path) -> None:
    """Protect a checkpoint from ever being deleted."""
    (checkpoint / KEEP).touch()


def delete_superseded(stage_dir: StageDir, keep_last: int) -> list[Path]:
    """Delete checkpoints that nothing needs, but for the last `keep_last`; return what went."""
    spare = [path for path in stage_dir.list_checkpoints() if not (path / KEEP).exists()]
    doomed = spare[: max(0, len(spare) - keep_last)]
    for path in doomed:
        # Without its manifest it is no checkpoint any more, so a death in the middle leaves no half one.
        (path / MANIFEST).unlink()
        shutil.rmtree(path)
    return doomed


def clear_leftovers(stage_dir: StageDir) -> None:
    """Remove what a killed writer or deleter left, and move unreadable checkpoints aside."""
    for path in stage_dir.checkpoints.glob(".step_*.partial"):
        shutil.rmtree(path, ignore_errors=True)
    for path in stage_dir.checkpoints.glob("step_*"):
        if DAMAGED not in path.name and not (path / MANIFEST).exists():
            shutil.rmtree(path, ignore_errors=True)
    for path in stage_dir.list_checkpoints():
        try:
            read_manifest(path)
        except DamagedCheckpointError:
            quarantine(path)


def _no_room(target: Path, needed_bytes: int, free: int) -> str:
    return (
        f"no room for checkpoint {target}: it needs {needed_bytes / 1e6:.1f} MB and {free / 1e6:.1f} MB are free; "
        "the checkpoints before it are whole, so make room and run the same command again"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = [
    "DamagedCheckpointError",
    "DiskFullError",
    "checkpoint_step",
    "checkpoints_by_tokens",
    "clear_leftovers",
    "delete_superseded",
    "durable_step",
    "find_checkpoint",
    "mark_kept",
    "quarantine",
    "read_manifest",
    "verify",
    "write_checkpoint",
]
