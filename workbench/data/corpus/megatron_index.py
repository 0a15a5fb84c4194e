r"""The index of Megatron's indexed data sets, left on the disk: of 100 million documents it has 2 GB.

    MMIDIDX\0\0   9 bytes; then version (uint64, 1), type of the tokens (uint8), sequences S and bounds B (uint64)
    int32 (S,)       tokens of each sequence
    int64 (S,)       byte at which it begins
    int64 (B,)       first sequence of each document, and S

References
----------
NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py (the layout and type codes).
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float64", 7: "float32", 8: "uint16"}
_HEAD_BYTES = 34
_BLOCK = 1 << 18
"""Entries that are in memory at once."""


def read_index(
    index: Path,
) -> tuple[np.dtype[Any], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Type of the tokens; length and place in bytes of each sequence; first sequence of each document, and their number.

    The arrays are maps of the file.

    Raises
    ------
    ValueError
        The index is cut, or none.
    """
    head = _HEAD_BYTES
    with index.open("rb") as file:
        first = file.read(head)
    if len(first) < head or not first.startswith(MEGATRON_MAGIC):
        raise ValueError(f"{index} is no index of Megatron's: it does not begin with MMIDIDX")
    version, code, sequences, bounds = struct.unpack("<QBQQ", first[len(MEGATRON_MAGIC) :])
    if version != 1 or code not in MEGATRON_DTYPES:
        raise ValueError(f"{index} has version {version} and type {code}; version 1 and types 1 to 8 are known")
    needed = head + 12 * sequences + 8 * bounds
    size = index.stat().st_size
    if size not in (needed, needed + sequences):  # one byte a sequence more where it has modes
        raise ValueError(f"{index} has {size} bytes instead of {needed}: it is cut")
    lengths = np.memmap(index, "<i4", "r", head, (sequences,)) if sequences else np.empty(0, np.int32)
    pointers = np.memmap(index, "<i8", "r", head + 4 * sequences, (sequences,)) if sequences else np.empty(0, np.int64)
    documents = np.memmap(index, "<i8", "r", head + 12 * sequences, (bounds,)) if bounds else np.zeros(1, np.int64)
    return np.dtype(MEGATRON_DTYPES[code]), lengths, pointers, documents


@dataclass(frozen=True)
class MegatronDocuments:
    """Where the documents of a data set begin, read where it is asked for."""

    itemsize: int
    """Bytes of a token."""
    lengths: NDArray[np.int32]
    """Tokens of each sequence."""
    pointers: NDArray[np.int64]
    """Byte at which each sequence begins."""
    bounds: NDArray[np.int64]
    """First sequence of each document, and the number of sequences."""

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def begins(self, first: int, last: int) -> NDArray[np.int64]:
        """First tokens of the documents from `first` up to `last`, (last - first,); behind the last document is the end."""
        sequences = np.asarray(self.bounds[first:last], np.int64)
        count = len(self.pointers)
        places = np.full(len(sequences), self._end(), np.int64)
        inside = sequences < count
        places[inside] = self.pointers[sequences[inside]] // self.itemsize
        return places

    def count_before(self, token: int) -> int:
        """Count the documents that begin before a token, and the end of the last one if it stands before it."""
        return bisect_left(range(len(self.bounds)), token, key=lambda i: int(self.begins(i, i + 1)[0]))

    def _end(self) -> int:
        return int(self.pointers[-1]) // self.itemsize + int(self.lengths[-1]) if len(self.pointers) else 0


def open_documents(path: Path) -> MegatronDocuments:
    """Open the index beside a token file, and check it from end to end, once in a process.

    Raises
    ------
    ValueError
        The index is no whole one, or its sequences do not follow each other in the file.
    """
    index = path.with_suffix(".idx")
    stat = index.stat()
    return _open_checked(index, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _open_checked(index: Path, size: int, changed: int) -> MegatronDocuments:
    dtype, lengths, pointers, bounds = read_index(index)
    for begin in range(0, len(lengths), _BLOCK):
        places = np.asarray(pointers[begin : begin + _BLOCK + 1], np.int64)
        ends = places + lengths[begin : begin + _BLOCK + 1].astype(np.int64) * dtype.itemsize
        if (begin == 0 and places[0]) or (places[1:] != ends[:-1]).any():
            raise ValueError(f"{index}: sequences leave gaps or overlap in {index.with_suffix('.bin').name}")
    for begin in range(0, len(bounds), _BLOCK):
        if (np.diff(bounds[begin : begin + _BLOCK + 1]) < 0).any():
            raise ValueError(f"{index}: documents do not divide its {len(lengths)} sequences")
    if bounds[0] != 0 or bounds[-1] != len(lengths):
        raise ValueError(f"{index}: documents do not divide its {len(lengths)} sequences")
    return MegatronDocuments(dtype.itemsize, lengths, pointers, bounds)
