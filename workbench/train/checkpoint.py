"""Checkpoints: atomic directories with a manifest of checksums, and no pickles.

`step_<n>/` holds a Hugging Face model directory, `optimizer.safetensors` (or a folder `optimizer/` with a file
of each process that had a share of the model), `rng.safetensors`, `train_state.json`, and last of all `manifest.json`. A directory with a manifest is complete; a file
`keep` in it says that a milestone, a branch or a study needs it, and it is never deleted. Once the training has moved
past a milestone, its optimizer's state goes (`workbench.train.weights_only`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.study.files import first_mismatch, fsync, sha256
from workbench.study.layout import StageDir, checkpoint_step
from workbench.train.weights_only import MANIFEST, add_optimizer, is_optimizers, is_resumable

if TYPE_CHECKING:  # planning and `workbench status` read checkpoints too, and need not wait for torch
    from workbench.model.tensor_file import FileFacts
    from workbench.train.distributed import World

KEEP = "keep"
DAMAGED = ".damaged"
REPLACED = ".replaced"


class DamagedCheckpointError(Exception):
    """A checkpoint's files are not what its manifest says."""

    def __init__(self, checkpoint: Path, reason: str) -> None:
        super().__init__(f"checkpoint {checkpoint}: {reason}")
        self.checkpoint, self.reason = checkpoint, reason

    def __reduce__(self) -> tuple[type[DamagedCheckpointError], tuple[Path, str]]:
        """Let other processes have it whole."""
        return type(self), (self.checkpoint, self.reason)


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
        return json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(checkpoint, f"its manifest cannot be read ({error})") from error


def verify(checkpoint: Path, *, weights_only: bool = False) -> dict[str, Any]:
    """Check every file against the manifest and return it; if asked, all but the optimizer's, which may be deleted.

    Raises
    ------
    DamagedCheckpointError
        A file is missing, or its size or SHA-256 differ; the file is named.
    """
    manifest = read_manifest(checkpoint)
    files = {name: facts for name, facts in manifest["files"].items() if not (weights_only and is_optimizers(name))}
    mismatch = first_mismatch(checkpoint, files)
    if mismatch is not None:
        raise DamagedCheckpointError(checkpoint, mismatch)
    return manifest


def quarantine(checkpoint: Path) -> Path:
    """Move a damaged checkpoint out of the way, keeping what is left of it; return its new path.

    Another process may have moved it already, and may have made it anew: then nothing is moved.
    """
    target = _free_name(checkpoint, DAMAGED)
    if _is_whole(checkpoint):
        return checkpoint
    with contextlib.suppress(FileNotFoundError):
        checkpoint.rename(target)
    return target


def put_aside(checkpoint: Path) -> Path:
    """Move a whole checkpoint that no longer counts out of the way; return its new path."""
    target = _free_name(checkpoint, REPLACED)
    checkpoint.rename(target)
    return target


def _free_name(checkpoint: Path, suffix: str) -> Path:
    target, number = checkpoint.with_name(checkpoint.name + suffix), 1
    while target.exists():
        number += 1
        target = checkpoint.with_name(f"{checkpoint.name}{suffix}-{number}")
    return target


def _is_whole(checkpoint: Path) -> bool:
    try:
        verify(checkpoint)
    except DamagedCheckpointError:
        return False
    return True


def find_checkpoint(stage_dir: StageDir, tokens: int, *, resumable: bool = False) -> Path | None:
    """Complete checkpoint of a stage at exactly `tokens`, or None; if asked, only one that training can resume from."""
    return checkpoints_by_tokens(stage_dir, resumable=resumable).get(tokens)


def checkpoints_by_tokens(stage_dir: StageDir, *, resumable: bool = False) -> dict[int, Path]:
    """Complete checkpoints of a stage by the tokens they have seen; unreadable manifests are left out.

    Parameters
    ----------
    stage_dir
        The stage.
    resumable
        Leave out those that hold weights alone.
    """
    manifests = _manifests(stage_dir)
    return {m["tokens"]: path for path, m in manifests.items() if is_resumable(m) or not resumable}


def list_tokens(stage_dir: StageDir) -> tuple[set[int], set[int]]:
    """Tokens of a stage's complete checkpoints, and of those among them that hold weights alone."""
    manifests = _manifests(stage_dir).values()
    return {m["tokens"] for m in manifests}, {m["tokens"] for m in manifests if not is_resumable(m)}


def _manifests(stage_dir: StageDir) -> dict[Path, dict[str, Any]]:
    found: dict[Path, dict[str, Any]] = {}
    for path in stage_dir.list_checkpoints():
        with contextlib.suppress(DamagedCheckpointError):
            found[path] = read_manifest(path)
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
    write_files: Callable[[Path], Mapping[str, FileFacts]],
    manifest: dict[str, Any],
    *,
    keep: bool,
    needed_bytes: int,
    world: World | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write one checkpoint whole or not at all; every process of the stage calls this.

    Parameters
    ----------
    stage_dir, step
        Where; a complete checkpoint of that step stays as it is, but for one that holds weights alone. That one gets
        the optimizer's state where the weights are bit for bit the same, and is moved aside where they are not.
    write_files
        Writes everything but the manifest into the folder it is given, on all processes; gives the checksums of the
        files that this one hashed as it wrote them, by their paths in the folder. Of the rest, which only rank 0 may
        have written, the checksums are read from the disk.
    manifest
        Facts about the checkpoint; checksums are added under `files`.
    keep
        Whether it must never be deleted.
    needed_bytes
        Room it will take, checked before and named if there is none.
    world
        This process among all; None means that it is alone.
    say
        Told where a checkpoint is moved aside.

    Raises
    ------
    DiskFullError
        With the bytes needed and the bytes free.
    """
    from workbench.train.distributed import World

    world = world or World()
    target = stage_dir.checkpoint(step)
    partial = world.main_only(lambda: _begin(target, keep, needed_bytes))
    if partial is None:
        return target
    try:
        written = write_files(partial)
        # Each process answers for its own files: a network file system may not show them to rank 0 at once.
        sealed = world.gather(world.together(lambda: _sync(partial, written)))
        world.main_only(lambda: _finish(partial, target, manifest, keep, sealed, say))
    except BaseException as error:
        if world.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        if is_disk_full(error):
            free = shutil.disk_usage(stage_dir.checkpoints).free
            raise DiskFullError(_no_room(target, needed_bytes, free)) from error
        raise
    return target


def _begin(target: Path, keep: bool, needed_bytes: int) -> Path | None:
    """Make the folder to write into; None where the checkpoint is there already."""
    if (target / MANIFEST).exists():
        if keep:
            mark_kept(target)
        if is_resumable(read_manifest(target)):
            return None
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < needed_bytes:
        raise DiskFullError(_no_room(target, needed_bytes, free))
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    return partial


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk, the quota or the largest file's size is exhausted."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _sync(partial: Path, written: Mapping[str, FileFacts]) -> dict[str, FileFacts]:
    """Bring the files of a process to the disk; give what it knows of them."""
    for name in written:
        fsync(partial / name)
    return dict(written)


def _seal(partial: Path, files: Iterable[Path]) -> dict[str, FileFacts]:
    """Bring files to the disk; read their checksums and sizes, by name."""
    facts: dict[str, FileFacts] = {}
    for path in files:
        fsync(path)
        facts[str(path.relative_to(partial))] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    return facts


def _finish(
    partial: Path,
    target: Path,
    manifest: dict[str, Any],
    keep: bool,
    sealed: list[dict[str, FileFacts]],
    say: Callable[[str], None],
) -> None:
    """Add the manifest, bring everything to the disk, and give the directory its name."""
    files = {name: facts for by_rank in sealed for name, facts in by_rank.items()}
    here = [path for path in partial.rglob("*") if path.is_file() and str(path.relative_to(partial)) not in files]
    files |= _seal(partial, here)
    text = json.dumps({**manifest, "files": dict(sorted(files.items()))}, indent=1)
    (partial / MANIFEST).write_text(text, encoding="utf-8")
    if keep:
        (partial / KEEP).touch()
    for path in [partial / MANIFEST, *(path for path in partial.rglob("*") if path.is_dir()), partial]:
        fsync(path)
    if (target / MANIFEST).exists() and _complete(partial, target, say):
        return
    if target.exists():  # a directory without a manifest: not one of ours, and not a checkpoint
        quarantine(target)
    partial.rename(target)
    fsync(target.parent)


def _complete(partial: Path, target: Path, say: Callable[[str], None]) -> bool:
    """Give a checkpoint of weights alone the optimizer's state of the same weights, or move it out of the way."""
    from workbench.model.weights import WEIGHTS

    ours, theirs = read_manifest(partial), read_manifest(target)
    if ours["files"][WEIGHTS] == theirs["files"][WEIGHTS]:
        add_optimizer(target, theirs, partial, ours)
        shutil.rmtree(partial)
        return True
    if (target / KEEP).exists():
        mark_kept(partial)
    aside = put_aside(target)
    say(f"{target.name} was trained again and its weights differ from those kept, now {aside.name}")
    return False


def mark_kept(checkpoint: Path) -> None:
    """Protect a checkpoint from ever being deleted."""
    (checkpoint / KEEP).touch()


def _no_room(target: Path, needed_bytes: int, free: int) -> str:
    return (
        f"no room for checkpoint {target}: it needs {needed_bytes / 1e6:.1f} MB and {free / 1e6:.1f} MB are free; "
        "the checkpoints before it are whole, so make room and run the same command again"
    )


__all__ = [
    "DamagedCheckpointError",
    "DiskFullError",
    "checkpoint_step",
    "checkpoints_by_tokens",
    "durable_step",
    "find_checkpoint",
    "is_disk_full",
    "list_tokens",
    "mark_kept",
    "put_aside",
    "quarantine",
    "read_manifest",
    "verify",
    "write_checkpoint",
]
