"""MinHash (Broder 1997) of a batch of documents, and its bands for locality-sensitive hashing.

A document's shingles are its n-grams of words; one with fewer words has one shingle, of all of them. Each of b x r functions
maps shingles to 32 bits, and two documents have the same smallest value with a probability of about their Jaccard
similarity s, so that all r values of at least one of b bands agree with the probability 1 - (1 - s^r)^b.

The functions are a x + b modulo 2^32 with odd a, of 32 bits x of a shingle's mixed hash: arithmetic of 32 bits is several
times that of 64 in numpy. They are an analogue of the linear permutations modulo a prime that Bohman, Cooper and Frieze
(2000, "Min-Wise Independent Linear Permutations", Electronic Journal of Combinatorics 7, R26) treat: their bound is not
shown for this modulus, whose lowest bits are permuted among themselves; the shingle's hash is mixed before, and the tests
measure how often values agree. Shapes: D documents.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.data.corpus.words import Words, mix

NO_WORDS = np.uint64(0)
"""Band of a document without words, which is no duplicate of anything."""
_BLOCK = 1 << 14
"""Shingles at a time: 64 KiB, which stay in the processor's cache for all functions."""


def probability(similarity: float, settings: NearDuplicates) -> float:
    """Probability that a pair of this Jaccard similarity agrees in a band (Leskovec et al. 2014, section 3.4.2)."""
    return 1 - (1 - similarity**settings.rows) ** settings.bands


def threshold(settings: NearDuplicates) -> float:
    """Similarity about which the probability rises steepest, approximately: (1/b)^(1/r) (same section)."""
    return (1 / settings.bands) ** (1 / settings.rows)


def shingles(words: Words, ngram: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hash the shingles of documents: uint64 (S,), and int64 (S,) the document of each, ascending."""
    hashes, begin = words.ngrams(ngram)
    parts, documents = [hashes], [words.documents[begin]]
    sizes = np.diff(words.first)
    for size in range(1, ngram):
        short = np.flatnonzero(sizes == size)
        if len(short):
            taken = (words.first[short][:, None] + np.arange(size)).ravel()
            first = np.arange(len(short) + 1) * size
            parts.append(Words(words.hashes[taken], words.begin[taken], words.end[taken], first).ngrams(size)[0])
            documents.append(short)
    if len(parts) == 1:
        return parts[0], documents[0]
    document = np.concatenate(documents)
    order = np.argsort(document, kind="stable")
    return np.concatenate(parts)[order], document[order]


def signatures(words: Words, settings: NearDuplicates) -> NDArray[np.uint32]:
    """Smallest values of every function: uint32 (bands * rows, D); a document without words has the largest number."""
    hashes, documents = shingles(words, settings.ngram)
    values = (hashes >> np.uint64(32)).astype(np.uint32)
    factors, summands = _functions(settings.bands * settings.rows)
    least = np.full((len(factors), len(words.first) - 1), np.iinfo(np.uint32).max, np.uint32)
    room = np.empty(_BLOCK, np.uint32)
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        document = documents[start : start + _BLOCK]
        begins = np.flatnonzero(np.diff(document, prepend=-1))
        present = document[begins]
        span = slice(present[0], present[-1] + 1)
        inside = present - present[0]
        dense = len(present) == span.stop - span.start
        mapped = room[: len(block)]
        for k in range(len(factors)):
            np.multiply(block, factors[k], out=mapped)
            np.add(mapped, summands[k], out=mapped)
            found = np.minimum.reduceat(mapped, begins)
            mine = least[k, span]
            if dense:
                np.minimum(mine, found, out=mine)
            else:
                mine[inside] = np.minimum(mine[inside], found)
    return least


def bands(words: Words, settings: NearDuplicates) -> NDArray[np.uint64]:
    """Hash every band's values: uint64 (D, bands), `NO_WORDS` for a document without words.

    Each band lies together in memory, and in a file that `numpy.save` makes of it, so that a band is read by itself.
    """
    least = signatures(words, settings).reshape(settings.bands, settings.rows, -1)
    sums = np.zeros((settings.bands, least.shape[2]), np.uint64)
    for row in range(settings.rows):
        sums = mix(sums + least[:, row] + np.uint64(1))
    sums[sums == NO_WORDS] = 1
    sums[:, np.diff(words.first) == 0] = NO_WORDS
    return sums.T


def jaccard(one: str, other: str, ngram: int) -> float:
    """Jaccard similarity of two texts' sets of shingles; 0 where neither has a word."""
    hashes, documents = shingles(Words.of([one, other]), ngram)
    first, second = np.unique(hashes[documents == 0]), np.unique(hashes[documents == 1])
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / max(1, len(first) + len(second) - shared)


def _functions(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Odd factors and summands, always the same."""
    drawn = mix(np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (drawn >> np.uint64(32)).astype(np.uint32) | np.uint32(1), drawn.astype(np.uint32)
