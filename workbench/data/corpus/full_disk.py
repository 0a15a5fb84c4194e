"""A disk that is full, said in one line: what was to be written, what it takes, and where."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
SMALL_BYTES = 4096
"""What a small file takes: a block."""


class NoSpaceError(OSError):
    """The disk has no room for a corpus's files."""


@contextmanager
def naming_full_disk(root: Path, fingerprint: str, what: str, needed: int = SMALL_BYTES) -> Iterator[None]:
    """Do what writes into a corpus's folder, and say it where the disk is full.

    Parameters
    ----------
    root
        The folder, which need not be there yet.
    fingerprint
        Names the corpus.
    what
        What is written: a task, or a file.
    needed
        Bytes that it takes.

    Raises
    ------
    NoSpaceError
        The disk or a quota is full.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, NoSpaceError):
            raise
        if is_full(error) or (error.errno is None and free_bytes(root) < needed):
            raise no_space(root, fingerprint, what, needed, free_bytes(root)) from error
        raise


def is_full(error: Exception) -> bool:
    """Whether the disk or a quota was full; libraries may say so in words alone."""
    return (isinstance(error, OSError) and error.errno in _FULL) or "No space left" in str(error)


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write where a folder is, or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    return shutil.disk_usage(there).free


def no_space(root: Path, fingerprint: str, what: str, needed: int, free: int) -> NoSpaceError:
    """Give the error that says what is missing, in bytes, and what to do."""
    return NoSpaceError(
        f"no room for {what} of data {fingerprint}: it needs about {_size(needed)}, and {_size(free)} are free in {root} (or a "
        "quota is used up); what is done is kept: make room, and the same command goes on"
    )


def no_space_elsewhere(what: str, size: int, place: Path, advice: str) -> NoSpaceError:
    """Give the same error for what is to be written outside a corpus's folder, with other advice."""
    return NoSpaceError(
        f"no room for {what}: it needs {_size(size)}, and {_size(free_bytes(place))} are free in {place} (or a quota is used up): "
        f"{advice}; what is done is kept, and the same command goes on"
    )


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"
