"""Files of the checkpoint that is scored next, read and compared with their checksums while another one is being scored.

What is read then lies in the page cache when its weights are loaded. On a GPU, whose host is idle while it scores, or where
files come over a network, the next checkpoint costs little but its way to the device.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from workbench.study.files import first_mismatch

LEAST_BYTES = 2**26
"""Of smaller checkpoints a thread would cost as much as it saves."""

Files = Mapping[str, Mapping[str, Any]]
"""Recorded `bytes` and `sha256` by name, as a checkpoint's manifest has them."""


class _Begun(NamedTuple):
    state: list[Any]
    """Of the files before they were read: what changes with any of them."""
    mismatch: Future[str | None]


class CheckedAhead:
    """Compares a checkpoint's files with their checksums, ahead where it was told which one comes next.

    Threads hold nothing up: hashing and reading leave the interpreter to others.
    """

    def __init__(self) -> None:
        self._begun: dict[Path, _Begun] = {}
        self._intact: tuple[Path, list[Any]] | None = None
        """Folder and state of what was compared last, which another suite reads as well."""

    def begin(self, folder: Path, files: Files) -> None:
        """Begin with a checkpoint that comes next; one that was begun with before is forgotten."""
        if folder in self._begun or sum(each["bytes"] for each in files.values()) < LEAST_BYTES:
            return
        self._begun.clear()
        with suppress(OSError):  # a file that is missing is named when its turn comes
            self._begun[folder] = _Begun(_state(folder, files), _in_thread(folder, files))

    def first_mismatch(self, folder: Path, files: Files) -> str | None:
        """Do what `workbench.study.files.first_mismatch` does; files that have changed since they were read are read again."""
        begun = self._begun.pop(folder, None)
        try:
            state = _state(folder, files)
            if (folder, state) == self._intact:
                return None
            unchanged = begun is not None and begun.state == state
            mismatch = begun.mismatch.result() if begun and unchanged else first_mismatch(folder, files)
        except OSError:
            return first_mismatch(folder, files)
        self._intact = (folder, state) if mismatch is None else None
        return mismatch


def _in_thread(folder: Path, files: Files) -> Future[str | None]:
    """Compare in a thread that no process waits for when it ends, as it would for an executor's."""
    mismatch: Future[str | None] = Future()

    def compare() -> None:
        try:
            mismatch.set_result(first_mismatch(folder, files))
        except BaseException as error:  # whoever waits for the answer is to have it, whatever it is
            mismatch.set_exception(error)

    threading.Thread(target=compare, daemon=True, name="next checkpoint").start()
    return mismatch


def _state(folder: Path, files: Files) -> list[Any]:
    states = [(folder / name).stat() for name in files]
    return [(name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in zip(files, states, strict=True)]
