"""Files of a study that several processes share: frozen stages, atomic replacement, kernel locks."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import yaml

from workbench.config.schema import Stage, from_dict
from workbench.study.identity import stage_id
from workbench.study.layout import StageDir


def read_stage(stage_dir: StageDir) -> Stage:
    """Read a frozen stage.

    Raises
    ------
    ValueError
        The directory holds none, or one whose id is not the directory's name.
    """
    try:
        values = yaml.safe_load(stage_dir.config.read_text())
    except OSError as error:
        raise ValueError(f"{stage_dir.path} holds no stage: {error}") from error
    stage = from_dict(Stage, values["stage"], "stage")
    if stage_id(stage) != stage_dir.id:
        raise ValueError(f"{stage_dir.config}: its content has the id {stage_id(stage)}, so it was changed or is old")
    return stage


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def exclusive(path: Path) -> Generator[None]:
    """Hold a kernel lock on a file; the kernel drops it when the process dies, however it does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
