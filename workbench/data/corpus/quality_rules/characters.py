"""Words of many documents at once, and what characters they have, by numpy over code points.

Shapes: D documents, C characters with one line break behind each document, W words.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPACE, LETTER, MARK = 1, 2, 4
"""White space, letters, and punctuation or control characters (Unicode's P and Cc, and ASCII's symbols)."""
_SYMBOLS = "$+<=>^`|~"


_TABLES = (0x80, 0x3100, 0x20000, sys.maxunicode + 1)
"""Sizes of tables of code points: a table of all takes a second to make, and most text needs few."""


def _kinds_up_to(code: int) -> NDArray[np.uint8]:
    """Kind of every code point up to one, and of some behind it."""
    return _kinds(next(size for size in _TABLES if code < size))


@functools.cache
def _kinds(size: int) -> NDArray[np.uint8]:
    """Kind of the first code points."""
    kinds = np.zeros(size, np.uint8)
    for code in range(size):
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] == "P" or category == "Cc":
            kinds[code] = MARK
        elif category[0] == "L":
            kinds[code] = LETTER
        if character.isspace():
            kinds[code] |= SPACE
    kinds[[ord(character) for character in _SYMBOLS]] = MARK
    return kinds


@dataclass(frozen=True)
class WordSpans:
    """Where the words of documents are: runs of characters that are not white space."""

    kinds: NDArray[np.uint8]
    """(C,)."""
    begin: NDArray[np.int64]
    """(W,) Number of each word's first character among all C."""
    end: NDArray[np.int64]
    """(W,) The character behind each word."""
    first: NDArray[np.int64]
    """(D + 1,) Number of each document's first word; the last is W."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> WordSpans:
        """Find the words of documents."""
        joined = "\n".join([*texts, ""])
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        kinds = _kinds_up_to(int(codes.max(initial=0)))[codes]
        inside = np.zeros(len(kinds) + 2, np.bool_)
        np.equal(kinds & SPACE, 0, out=inside[1:-1])
        edges = np.flatnonzero(inside[1:] != inside[:-1])
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        starts = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(sizes + 1, out=starts[1:])
        return cls(kinds, edges[::2], edges[1::2], np.searchsorted(edges[::2], starts))

    def having(self, kind: int) -> NDArray[np.bool_]:
        """(W,) Whether each word has a character of a kind."""
        return self._count((self.kinds & kind) != 0) > 0

    def beyond(self, kind: int) -> NDArray[np.bool_]:
        """(W,) Whether each word has a character that is not of a kind."""
        return self._count((self.kinds & kind) == 0) > 0

    def _count(self, flags: NDArray[np.bool_]) -> NDArray[np.int64]:
        before = np.zeros(len(flags) + 1, np.int32)
        np.cumsum(flags, out=before[1:])
        return (before[self.end] - before[self.begin]).astype(np.int64)

    def sums(self, values: NDArray[np.generic]) -> NDArray[np.int64]:
        """(D,) Sum of the words' values in each document."""
        before = np.zeros(len(values) + 1, np.int64)
        np.cumsum(values, out=before[1:])
        return before[self.first[1:]] - before[self.first[:-1]]
