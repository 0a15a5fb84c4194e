"""Folders that are made once, completely or not at all, and named by what goes into them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from workbench.study.files import fsync, sha256, write_atomically

MANIFEST = "manifest.json"
_ASK_SECONDS = 0.2
"""Time between two tries to get a lock of which something is told."""
_TELL_SECONDS = 1.0
FORMATS: dict[str | None, tuple[int, ...]] = {None: (2, 3), "chat": (1,), "packed": (1,)}
"""Formats that are read, by the `kind` in the manifest; that of documents, made in one pass (2) or as a corpus (3), has none."""


@dataclass(frozen=True)
class PreparedFolder:
    """An opened folder of token ids."""

    directory: Path
    """Where it is."""
    manifest: dict[str, Any]
    """Its facts, as in `manifest.json`."""

    @property
    def fingerprint(self) -> str:
        """Names what is in it."""
        return self.manifest["fingerprint"]

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.manifest["tokenizer"]["vocab_size"]

    @property
    def bos_id(self) -> int:
        """Id that begins every document or conversation."""
        return self.manifest["tokenizer"]["bos_id"]

    @property
    def eos_id(self) -> int | None:
        """End of sequence, where the tokenizer has one."""
        return self.manifest["tokenizer"]["eos_id"]

    @property
    def tokenizer_dir(self) -> Path:
        """Hugging Face tokenizer directory."""
        return self.directory / "tokenizer"


def make_folder(directory: Path, write: Callable[[Path], dict[str, Any]]) -> None:
    """Make a folder, unless it is there.

    Parameters
    ----------
    directory
        The folder, whose name is the fingerprint of what goes in; another process that makes it is waited for.
    write
        Fills an empty folder and gives the facts for the manifest, to which the fingerprint, the seconds that it took
        and the files' checksums are added.
    """
    if (directory / MANIFEST).is_file():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with locked(directory.with_name(f"{directory.name}.lock")):
        if not (directory / MANIFEST).is_file():
            _make(directory, write)


def _make(directory: Path, write: Callable[[Path], dict[str, Any]]) -> None:
    started = time.monotonic()
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir()
    try:
        facts = write(partial)
        seconds = round(time.monotonic() - started, 2)
        manifest = {"fingerprint": directory.name, **facts, "seconds": seconds, "files": checksums(partial)}
        write_atomically(partial / MANIFEST, json.dumps(manifest, indent=1))
        fsync(partial)
        partial.replace(directory)
        fsync(directory.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest of a folder that is what its name says and has all its files.

    Raises
    ------
    ValueError
        There is none, it is of an unknown format, it is another than its folder's name says, or a file is missing or of
        another size than was written.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise ValueError(f"{directory} holds no prepared data: run `workbench prepare`")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    _refuse_unknown(path, manifest.get("kind"), manifest.get("format"))
    if manifest["fingerprint"] != directory.name:
        raise ValueError(f"{directory} holds data {manifest['fingerprint']}: give the folder that name")
    for name, facts in manifest["files"].items():
        size = _size(f"{directory}/{name}")
        if size != facts["bytes"]:
            raise ValueError(
                f"{directory / name} has {size} bytes, not {facts['bytes']}: delete {directory} and prepare again"
            )
    return manifest


def _refuse_unknown(path: Path, kind: str | None, number: int | None) -> None:
    if kind not in FORMATS:
        found, known = f"kind {kind!r}", "documents and kind 'chat'"
    elif number not in FORMATS[kind]:
        found, known = f"format {number!r}", f"formats {', '.join(map(str, FORMATS[kind]))}"
    else:
        return
    raise ValueError(
        f"{path} is of {found}, and {known} are read: open it with the version of the workbench that made it, or prepare again "
        "in other outputs"
    )


def _size(path: str) -> int | None:
    """Size of a regular file in bytes; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 (a Path takes several times as long, and there may be many files)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def verify_files(directory: Path, manifest: dict[str, Any]) -> None:
    """Compare every file with its checksum.

    Raises
    ------
    ValueError
        A file differs from what was written.
    """
    found = checksums(directory)
    for name, facts in manifest["files"].items():
        if found.get(name) != facts:
            raise ValueError(f"{directory / name} is damaged: delete {directory} and prepare again")


def checksums(directory: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and bytes of all files in a folder but the manifest, by relative name."""
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {p.relative_to(directory).as_posix(): {"sha256": sha256(p), "bytes": p.stat().st_size} for p in files}


@contextmanager
def locked(path: Path, purpose: str = "", on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a kernel lock, which ends with the process however that ends; its file is there while it is held.

    Parameters
    ----------
    path
        The file; it names its holder.
    purpose
        What it is held for, for those who wait.
    on_wait
        Told once, after a second, who holds it and for what; None waits without a word.
    """
    while True:
        with path.open("a+", encoding="utf-8") as file:
            _lock(file, on_wait)
            if not _is_still(file, path):  # the one before us removed it
                continue
            holder = f"process {os.getpid()} on {socket.gethostname()}" + (f", which {purpose}" if purpose else "")
            with contextlib.suppress(OSError):  # a full disk
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), holder.encode())
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _lock(file: IO[str], on_wait: Callable[[str], None] | None) -> None:
    if on_wait is None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    since, told = time.monotonic(), False
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if not told and time.monotonic() - since > _TELL_SECONDS:
            told = True
            file.seek(0)
            on_wait(file.read() or "another command")
        time.sleep(_ASK_SECONDS)


def _is_still(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
