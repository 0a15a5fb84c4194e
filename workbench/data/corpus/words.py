"""Hashes of the words and n-grams of many documents at once, with the bytes each word stands in.

A word is a run of letters and digits; what separates words is any other ASCII byte, Latin-1's punctuation (U+0080 to U+00BF),
general punctuation (U+2000 to U+207F) and that of Chinese and Japanese (U+3000 to U+303F). All other characters are letters.
From U+3040 to U+DFFF, scripts that mostly write no spaces (Chinese, Japanese, Korean), every character is a word of its own,
so that an n-gram there is of n characters. Upper case is folded where that keeps a character's length in UTF-8.

It reads the bytes of a batch of documents with numpy, so that there is no work in Python for each word.

Shapes: D documents, W words, G n-grams.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

_SEPARATOR, _LETTER = 0, 1
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that powers of it never vanish modulo 2^64."""
_LONGEST = 256
"""Bytes; longer words, of which there are few, are hashed one by one."""
_BELOW = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)
"""Masks of a number's first bytes."""
_WORD_FACTOR = np.uint64(0xD1B54A32D192ED03)


@dataclass(frozen=True)
class Words:
    """The words of some documents, in their order.

    Two equal words have equal hashes, on every machine; of n different ones, two have the same hash with a probability of
    about n^2 / 2^65.
    """

    hashes: NDArray[np.uint64]
    """(W,)."""
    begin: NDArray[np.int64]
    """(W,) First byte of each word, counted in its document's UTF-8."""
    end: NDArray[np.int64]
    """(W,) The byte behind each word."""
    first: NDArray[np.int64]
    """(D + 1,) Number of each document's first word; the last is W."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> Words:
        """Find the words of documents; some megabytes at a time are fastest."""
        raw = [_lower(text).encode() for text in texts]
        sizes = np.fromiter(map(len, raw), np.int64, len(raw))
        starts = np.zeros(len(raw) + 1, np.int64)
        np.cumsum(sizes + 1, out=starts[1:])  # a byte between documents separates their words
        joined = np.frombuffer(b"\n".join([*raw, b""]), np.uint8)
        kinds = _kinds(joined)
        begin, end = _bounds(joined, kinds)
        first = np.searchsorted(begin, starts)
        document = np.repeat(np.arange(len(raw)), np.diff(first))
        return cls(_hash(joined, begin, end), begin - starts[document], end - starts[document], first)

    @property
    def documents(self) -> NDArray[np.int64]:
        """(W,) Document of each word."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    def ngrams(self, n: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Hash every n successive words of one document.

        Returns
        -------
        hashes
            uint64 (G,). Those of different n have nothing in common.
        words
            int64 (G,), number of each n-gram's first word. A document of fewer words has no n-gram.
        """
        last = self.first[self.documents + 1] - n
        words = np.flatnonzero(np.arange(len(self.hashes)) <= last)
        if not len(words):
            return np.empty(0, np.uint64), words
        count = len(self.hashes) - n + 1
        sums = np.full(count, n, np.uint64)
        for k in range(n):  # Horner's rule over the words
            sums *= _WORD_FACTOR
            sums += self.hashes[k : k + count]
        return mix(sums[words]), words


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter 64-bit values, one to one (the finaliser of Steele et al. 2014's SplitMix64, variant 13 of Stafford)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _lower(text: str) -> str:
    """Fold upper case without moving a byte."""
    if text.isascii():
        return text.lower()
    parts = _moving().split(text)  # every second one is such a character
    lower = "".join(part if i % 2 else part.lower() for i, part in enumerate(parts))
    return lower.replace("\u03c2", "\u03c3")  # whether a sigma is a final one depends on what is around it


@cache
def _moving() -> re.Pattern[str]:
    """Match the characters whose lower case takes another number of bytes; planes above the second have no case."""
    moving = [
        c for c in map(chr, range(0x80, 0x20000)) if c != c.lower() and len(c.encode()) != len(c.lower().encode())
    ]
    return re.compile(f"([{''.join(moving)}])")


_KINDS = np.array([chr(byte).isalnum() or byte >= 128 for byte in range(256)], np.uint8)
"""Separator or letter, of each byte by itself."""


def _kinds(joined: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Separator or letter of every byte, what several bytes decide included."""
    kinds = _KINDS[joined]
    if len(joined) > 2 and joined.max() >= 128:
        one, two = joined[:-1], joined[1:]
        marks = np.flatnonzero(one == 0xC2)  # U+0080 to U+00BF
        kinds[marks] = kinds[marks + 1] = _SEPARATOR
        marks = np.flatnonzero(((one == 0xE2) & (two <= 0x81)) | ((one == 0xE3) & (two == 0x80)))
        kinds[marks] = kinds[marks + 1] = kinds[marks + 2] = _SEPARATOR
    return kinds


def _bounds(joined: NDArray[np.uint8], kinds: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First byte of each word, and the one behind it."""
    inside = np.zeros(len(kinds) + 1, np.int8)
    inside[:-1] = kinds
    steps = np.diff(inside, prepend=np.int8(0))
    begins, ends = steps == 1, steps == -1
    alone = np.flatnonzero((joined >= 0xE3) & (joined <= 0xED) & (kinds == _LETTER))
    if len(alone):  # such a character ends what was before it, and begins and ends with itself
        begins[alone] = ends[alone] = True
        behind = alone + 3
        ends[behind] = True
        begins[behind] = inside[behind] == _LETTER
        ends[alone] = (alone > 0) & (inside[np.maximum(alone - 1, 0)] == _LETTER)
    return np.flatnonzero(begins), np.flatnonzero(ends)


def _hash(joined: NDArray[np.uint8], begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash each word's bytes, eight at a time."""
    lengths = end - begin
    sums = lengths.astype(np.uint64)
    padded = np.concatenate([joined, np.zeros(8, np.uint8)])
    eights = np.lib.stride_tricks.as_strided(padded[:8].view("<u8"), (len(joined) + 1,), (1,))
    words = np.flatnonzero(lengths <= _LONGEST)
    for done in range(0, _LONGEST, 8):
        words = words[lengths[words] > done]
        if not len(words):
            break
        chunk = eights[begin[words] + done] & _BELOW[np.minimum(lengths[words] - done, 8)]
        sums[words] = mix(sums[words] * _FACTOR + chunk.astype(np.uint64))
    for word in np.flatnonzero(lengths > _LONGEST):
        raw = joined[begin[word] : end[word]].tobytes()
        sums[word] = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")
    return sums
