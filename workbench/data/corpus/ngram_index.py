"""A set of 64-bit hashes of n-grams, each with the numbers of what it is of, looked up millions at a time.

Almost all n-grams of a corpus are in no index. A bit array answers for them first: of `_BITS_A_HASH` bits or more for each hash
of the index, the one that the highest bits of a hash name is set, so that at most one other hash in `_BITS_A_HASH` goes on
to the binary search (a Bloom filter with one hash function; Bloom 1970). Its memory is 2 to 4 bytes an n-gram.

Shapes: H hashes of the index, P pairs of a hash and an owner, Q hashes asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_BITS_A_HASH = 16
_BLOCK = 1 << 15
"""Hashes looked up at a time: their intermediate arrays stay in the processor's cache."""
_FILES = ("hashes", "bits", "first", "owners")


@dataclass(frozen=True)
class NgramIndex:
    """Hashes of n-grams and their owners, such as benchmark documents.

    An n-gram that is not in the index is found with a probability of H / 2^64.
    """

    hashes: NDArray[np.uint64]
    """(H,) Ascending, each once."""
    bits: NDArray[np.uint8]
    """(2^b / 8,) Bit i is bit i % 8 of byte i // 8."""
    first: NDArray[np.int64]
    """(H + 1,) Where in `owners` those of each hash begin; the last is P."""
    owners: NDArray[np.int32]
    """(P,) Of each hash, its owners: ascending, each once."""

    @classmethod
    def of(cls, hashes: NDArray[np.uint64], owners: NDArray[np.integer]) -> NgramIndex:
        """Make an index of pairs, in any order, of a hash and an owner; both (P,)."""
        order = np.lexsort((owners, hashes))
        hashes, numbers = hashes[order], owners[order].astype(np.int32)
        new_hash = np.ones(len(hashes), np.bool_)
        new_hash[1:] = hashes[1:] != hashes[:-1]
        new_pair = new_hash.copy()
        new_pair[1:] |= numbers[1:] != numbers[:-1]
        new_hash = new_hash[new_pair]
        unique = hashes[new_pair][new_hash]
        first = np.append(np.flatnonzero(new_hash), len(new_hash)).astype(np.int64)
        return cls(unique, _bit_array(unique), first, numbers[new_pair])

    def __len__(self) -> int:
        """H."""
        return len(self.hashes)

    def find(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find which hashes the index has.

        Parameters
        ----------
        hashes
            uint64 (Q,).

        Returns
        -------
        places
            int64, ascending: which of `hashes` are in the index.
        rows
            int64, of the same length: the row of each in `self.hashes`.
        """
        parts = [self._candidates(hashes[i : i + _BLOCK]) + i for i in range(0, len(hashes), _BLOCK)]
        places = np.concatenate(parts) if parts and len(self) else np.empty(0, np.int64)
        rows = np.searchsorted(self.hashes, hashes[places]).astype(np.int64)
        rows[rows == len(self)] = 0
        found = self.hashes[rows] == hashes[places] if len(places) else np.empty(0, np.bool_)
        return places[found], rows[found]

    def owners_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Pair each of some rows with each of its owners: positions in `rows`, and owners."""
        counts = self.first[rows + 1] - self.first[rows]
        places = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        return places, self.owners[self.first[rows][places] + within]

    def save(self, folder: Path) -> None:
        """Write the index as `.npy` files into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path) -> NgramIndex:
        """Open what `save` wrote by memory map: processes of a node share one copy in memory."""
        return cls(*(_open_array(folder / f"{name}.npy") for name in _FILES))

    def _candidates(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Positions of those hashes of which the bit is set."""
        bit = hashes >> np.uint64(64 - _log2_bits(self.bits))
        byte = np.take(self.bits, (bit >> np.uint64(3)).view(np.int64))
        byte >>= bit.astype(np.uint8) & np.uint8(7)
        byte &= np.uint8(1)
        return np.flatnonzero(byte.view(np.bool_))


def _bit_array(hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Bits of hashes, at least `_BITS_A_HASH` of them for each."""
    log2_bits = max(6, (max(1, len(hashes)) * _BITS_A_HASH - 1).bit_length())
    bits = np.zeros(1 << log2_bits, np.bool_)
    bits[(hashes >> np.uint64(64 - log2_bits)).view(np.int64)] = True
    return np.packbits(bits, bitorder="little")


def _log2_bits(bits: NDArray[np.uint8]) -> int:
    return len(bits).bit_length() + 2


def _open_array(path: Path) -> np.ndarray:
    """Open a file's array; one without elements cannot be mapped."""
    try:
        return np.asarray(np.load(path, mmap_mode="r"))
    except ValueError:
        return np.load(path)
