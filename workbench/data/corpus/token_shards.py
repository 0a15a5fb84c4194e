"""Token files in a row, read as one array: opened when they are asked for, never put together."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

READINGS = ("memory_map", "positioned")
"""How files are read: `memory_map` a page at a time, without copies of slices; `positioned` asks for a window or slice in
one read, which file systems over a network need, where each page would be a request (and is faster on a local disk too,
docs/performance.md)."""
MOST_OPEN = 64
_LONG = 1 << 20
"""Bytes of a slice from which it is announced to the system."""
OFFSETS_SUFFIX = ".offsets.npy"


class _File(Protocol):
    def read(self, begin: int, end: int) -> NDArray[Any]: ...


class _Mapped:
    """Mapped without the system's reading ahead, which took 2 ms of the processor a window; long slices are announced."""

    def __init__(self, path: Path, dtype: np.dtype[Any], offset: int, tokens: int) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._advise("MADV_RANDOM", 0, len(self._map))
        self._offset, self._tokens = offset, np.frombuffer(self._map, dtype, tokens, offset)

    def read(self, begin: int, end: int) -> NDArray[Any]:
        width = self._tokens.itemsize
        if (end - begin) * width >= _LONG:
            place = self._offset + begin * width
            page = place - place % mmap.PAGESIZE
            self._advise("MADV_WILLNEED", page, self._offset + end * width - page)
        return self._tokens[begin:end]

    def _advise(self, advice: str, begin: int, length: int) -> None:
        if hasattr(mmap, advice):  # not on every system
            self._map.madvise(getattr(mmap, advice), begin, length)


class _Positioned:
    """Closed when nothing refers to it any more, so that no thread reads from a file that another has closed."""

    def __init__(self, path: Path, dtype: np.dtype[Any], offset: int) -> None:
        self._path, self._dtype, self._offset = path, dtype, offset
        self._descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read(self, begin: int, end: int) -> NDArray[Any]:
        tokens = np.empty(end - begin, self._dtype)
        rest, place = tokens.data.cast("B"), self._offset + begin * self._dtype.itemsize
        while len(rest):
            got = os.preadv(self._descriptor, [rest], place)
            if not got:
                raise ValueError(
                    f"{self._path} ends at byte {place}, it was longer when it was opened: prepare it again"
                )
            rest, place = rest[got:], place + got
        return tokens


class TokenShards:
    """The tokens of a source, 64-bit positions over all its files.

    Parameters
    ----------
    paths
        Files of token ids, in order.
    dtype
        Of every token, little endian in the files.
    tokens
        How many each file should have; None takes what the sizes say.
    offset_bytes
        Where the tokens begin in each file, behind a header that is not tokens; None is 0.
    reading
        One of `READINGS`.
    excluded
        First token and end of each range that no training may see, over all files, (ranges, 2); None has none.
    most_open
        Files that are open at a time; the one opened first is closed first.

    Raises
    ------
    ValueError
        A file is missing, has another number of tokens, or ends inside one.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        dtype: np.dtype[Any] | type[np.generic],
        tokens: Sequence[int] | None = None,
        *,
        offset_bytes: Sequence[int] | None = None,
        reading: str = "memory_map",
        excluded: NDArray[np.int64] | None = None,
        most_open: int = MOST_OPEN,
    ) -> None:
        if reading not in READINGS:
            raise ValueError(f"reading={reading!r}: choose from {', '.join(READINGS)}")
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.paths = [Path(path) for path in paths]
        self._offsets = [0] * len(self.paths) if offset_bytes is None else list(offset_bytes)
        counts = [self._count(path, offset) for path, offset in zip(self.paths, self._offsets, strict=True)]
        if tokens is not None:
            for path, found, wanted in zip(self.paths, counts, tokens, strict=True):
                if found != wanted:
                    raise ValueError(f"{path} has {found} tokens instead of {wanted}: prepare it again")
        self.begins = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        """First token of each file, and the number of all, (files + 1,)."""
        self.excluded = np.empty((0, 2), np.int64) if excluded is None else excluded
        """First token and end of each range that no training may see, (ranges, 2)."""
        self._reading, self._most_open = reading, most_open
        self._open: dict[int, _File] = {}
        self._documents: dict[int, NDArray[np.int64]] = {}
        self._lock = threading.Lock()

    def _count(self, path: Path, offset: int) -> int:
        try:
            size = path.stat().st_size - offset
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}): is the file system mounted?") from error
        if size < 0 or size % self.dtype.itemsize:
            raise ValueError(f"{path} has {size} bytes of tokens, which is no multiple of {self.dtype.itemsize}")
        return size // self.dtype.itemsize

    def __len__(self) -> int:
        """Tokens of all files."""
        return int(self.begins[-1])

    @property
    def shape(self) -> tuple[int]:
        """(tokens,)."""
        return (len(self),)

    def __getitem__(self, which: slice) -> NDArray[Any]:
        """Tokens of a slice without a step; of one file's memory map a view."""
        begin, end, step = which.indices(len(self))
        if step != 1:
            raise IndexError(f"a slice of token files has no step, not {step}")
        parts: list[NDArray[Any]] = []
        while begin < end:
            shard = self._shard(begin)
            first, behind = int(self.begins[shard]), int(self.begins[shard + 1])
            parts.append(self._file(shard).read(begin - first, min(end, behind) - first))
            begin = min(end, behind)
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, self.dtype), *parts])

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[Any]:
        """Tokens (n, length) from each of `starts` (n,), read in the files' order.

        Raises
        ------
        IndexError
            A window begins before the first token or ends behind the last.
        """
        if len(starts) and (int(starts.min()) < 0 or int(starts.max()) + length > len(self)):
            raise IndexError(f"windows of {length} from {starts.min()} to {starts.max()} leave {len(self)} tokens")
        tokens = np.empty((len(starts), length), self.dtype)
        order = np.argsort(starts, kind="stable")
        shards = np.searchsorted(self.begins, starts[order], "right") - 1
        file, opened = None, -1
        for row, shard in zip(order.tolist(), shards.tolist(), strict=True):
            begin, first = int(starts[row]), int(self.begins[shard])
            if begin + length > self.begins[shard + 1]:
                tokens[row] = self[begin : begin + length]
                continue
            if file is None or shard != opened:
                file, opened = self._file(shard), shard
            tokens[row] = file.read(begin - first, begin - first + length)
        return tokens

    def documents(self, tokens: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """File (n,) of each of the tokens at `tokens` (n,), and the number (n,) of its document in that file.

        Raises
        ------
        ValueError
            A file has no `.offsets.npy` beside it, or one that does not end where the file does.
        """
        shards = np.searchsorted(self.begins, tokens, "right") - 1
        found = np.empty(len(tokens), np.int64)
        for shard in np.unique(shards).tolist():
            mine = shards == shard
            found[mine] = np.searchsorted(self.document_offsets(shard), tokens[mine] - self.begins[shard], "right") - 1
        return shards.astype(np.int64), found

    def document_offsets(self, shard: int) -> NDArray[np.int64]:
        """First token of each document of a file, counted in the file, and its tokens' number: (documents + 1,)."""
        with self._lock:
            if shard not in self._documents:
                self._make_room(self._documents)
                self._documents[shard] = self._open_offsets(shard)
            return self._documents[shard]

    def _open_offsets(self, shard: int) -> NDArray[np.int64]:
        path = self.paths[shard].with_name(self.paths[shard].stem + OFFSETS_SUFFIX)
        try:
            offsets = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is not the offsets of {self.paths[shard].name}'s documents: {error}") from error
        tokens = int(self.begins[shard + 1] - self.begins[shard])
        if offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) < 1 or offsets[0] or offsets[-1] != tokens:
            raise ValueError(
                f"{path} does not divide the {tokens} tokens of {self.paths[shard].name}: prepare it again"
            )
        return offsets

    def _shard(self, token: int) -> int:
        return int(np.searchsorted(self.begins, token, "right")) - 1

    def _file(self, shard: int) -> _File:
        with self._lock:
            if shard not in self._open:
                self._make_room(self._open)
                self._open[shard] = self._open_file(shard)
            return self._open[shard]

    def _open_file(self, shard: int) -> _File:
        path, offset = self.paths[shard], self._offsets[shard]
        tokens = int(self.begins[shard + 1] - self.begins[shard])
        try:
            if self._reading == "memory_map":
                return _Mapped(path, self.dtype, offset, tokens)
            return _Positioned(path, self.dtype, offset)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be opened: {error}") from error

    def _make_room(self, opened: dict[int, Any]) -> None:
        while len(opened) >= self._most_open:
            opened.pop(next(iter(opened)))
