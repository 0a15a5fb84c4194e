"""Pseudo-random permutations with random access: position `j` costs the same wherever it lies.

A permutation of `n` items is an unbalanced Feistel network over the pairs (a, b) with a < A and
b < B, where A x B is the smallest near-square rectangle that holds `n`; results beyond `n` are sent
through again until they fall inside (cycle walking), which keeps it a bijection and is rarely needed.

References
----------
Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, methods 2 and 3.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of SplitMix64: every input bit reaches every output bit."""
    x = (x ^ (x >> _SHIFT_1)) * _MULTIPLY_1
    x = (x ^ (x >> _SHIFT_2)) * _MULTIPLY_2
    return x ^ (x >> _SHIFT_3)


@dataclass(frozen=True)
class Permutation:
    """A permutation of `range(size)`, chosen by `key` alone."""

    size: int
    """Number of items."""
    key: str
    """Whatever should lead to another permutation: seed, name, epoch."""

    def __post_init__(self) -> None:
        """Derive the round keys."""
        if self.size < 1:
            raise ValueError(f"a permutation needs at least one item, not {self.size}")
        digest = hashlib.blake2b(f"{self.size}|{self.key}".encode(), digest_size=8 * ROUNDS).digest()
        rows = math.isqrt(self.size - 1) + 1
        object.__setattr__(self, "_keys", np.frombuffer(digest, "<u8"))
        object.__setattr__(self, "_sides", (np.uint64(rows), np.uint64(-(-self.size // rows))))

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Items at `positions`, an int64 array of values in [0, size); same shape."""
        values = self._encrypt(positions.astype(np.uint64))
        while (outside := values >= self.size).any():
            values[outside] = self._encrypt(values[outside])
        return values.astype(np.int64)

    def _encrypt(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        rows, columns = self._sides  # type: ignore[attr-defined]
        a, b = values // columns, values % columns
        for r in range(0, ROUNDS, 2):
            a = (a + _mix(b + self._keys[r])) % rows  # type: ignore[attr-defined]
            b = (b + _mix(a + self._keys[r + 1])) % columns  # type: ignore[attr-defined]
        return a * columns + b
