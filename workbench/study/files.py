"""Files of a study that several processes share: frozen stages, atomic replacement, kernel locks."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from workbench.config.schema import Stage, from_dict
from workbench.study.identity import stage_id
from workbench.study.layout import StageDir

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_stage(stage_dir: StageDir) -> Stage:
    """Read a frozen stage.

    Raises
    ------
    ValueError
        The directory has no stage, or one whose id is not the directory's name.
    """
    try:
        values = load_yaml(stage_dir.config.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{stage_dir.path} has no stage: {error}") from error
    stage = from_dict(Stage, values["stage"], "stage")
    if stage_id(stage) != stage_dir.id:
        raise ValueError(f"{stage_dir.config}: its content has the id {stage_id(stage)}, so it was changed or is old")
    return stage


def load_yaml(text: str) -> Any:
    """Load what `yaml.safe_load` does; where PyYAML has libyaml, a stage takes 2 ms instead of 17."""
    return yaml.load(text, _LOADER)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content completely or not at all."""
    # Threads, and processes on several machines with the same process id, must not share it.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Bring a file's content, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(path: Path, on_wait: Callable[[], None] = lambda: None) -> Generator[None]:
    """Hold a kernel lock on a file; the kernel releases it when the process ends, however it ends.

    Parameters
    ----------
    path
        The file; created if missing.
    on_wait
        Called five times per second while another process holds the lock; raising an exception ends the wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        while not _try_lock(file):
            on_wait()
            time.sleep(0.2)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock on a file; read permission is enough to ask."""
    try:
        # Shared, because network file systems refuse an exclusive lock on a file opened for reading.
        with path.open(encoding="utf-8") as file:
            return not _try_lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def sha256(path: Path) -> str:
    """Hash a file's content: 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_mismatch(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Name a file that is missing or differs from its recorded `bytes` and `sha256`; None when all are intact."""
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"] or sha256(path) != expected["sha256"]:
            return f"{name} does not match its checksum"
    return None


def _try_lock(file: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
