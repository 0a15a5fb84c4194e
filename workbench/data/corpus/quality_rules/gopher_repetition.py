"""Gopher's rules of repetition (Rae et al. 2021, arXiv:2112.11446, table A1).

Where the paper leaves a choice, it is that of `datatrove`: of equal lines, paragraphs and n-grams the first does not count as
a duplicate; shares of characters are of the whole text; an n-gram that overlaps with a counted one is passed over; the
characters of the most frequent n-gram include the spaces between its words and those of duplicates do not; of
several most frequent n-grams the first counts, and one that occurs once too; its occurrences may overlap, so that its share
can exceed 1. Other choices: words are separated by white
space, and empty lines at a text's ends do not count.

Shapes: W words, D documents.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workbench.config.schema.quality_thresholds import GopherRepetitionThresholds
from workbench.data.corpus.quality_rules.breach import Breach, duplicates, ratio

_PARAGRAPHS = re.compile(r"\n{2,}")
_TOP, _DUPLICATE = (2, 3, 4), (5, 6, 7, 8, 9, 10)


def breaches(thresholds: GopherRepetitionThresholds, texts: Sequence[str]) -> list[Breach | None]:
    """First threshold that each document breaks, in the order of the table."""
    found = [_line_breach(thresholds, text) for text in texts]
    left = [number for number, breach in enumerate(found) if breach is None]
    for number, breach in zip(left, _word_breaches(thresholds, [texts[number] for number in left]), strict=True):
        found[number] = breach
    return found


def _line_breach(limits: GopherRepetitionThresholds, text: str) -> Breach | None:
    stripped = text.strip("\n")
    lines = [line for line in stripped.split("\n") if line] or [""]
    paragraphs = _PARAGRAPHS.split(stripped) if "\n\n" in stripped else [stripped]
    for name, parts in (("line", lines), ("paragraph", paragraphs)):
        count, characters = duplicates(parts)
        for what, share in (
            (f"max_duplicate_{name}s", count / len(parts)),
            (f"max_duplicate_{name}_characters", ratio(characters, len(text))),
        ):
            most = getattr(limits, what)
            if most is not None and share > most:
                return Breach(f"gopher_repetition_{what}", share)
    return None


class _BatchWords:
    """Words of documents as numbers: equal words have equal numbers."""

    def __init__(self, texts: Sequence[str]) -> None:
        split = [text.split() for text in texts]
        numbers: dict[str, int] = defaultdict(itertools.count().__next__)
        self.words = np.fromiter(map(numbers.__getitem__, itertools.chain.from_iterable(split)), np.int64)
        lengths = np.fromiter(map(len, numbers), np.int64, len(numbers))
        self.characters = np.array([len(text) for text in texts], np.int64)
        """(D,)."""
        self.first = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(part) for part in split], out=self.first[1:])
        self.document = np.repeat(np.arange(len(texts)), np.diff(self.first))
        self.before = np.zeros(len(self.words) + 1, np.int64)
        """(W + 1,) Characters of the words before each word."""
        np.cumsum(lengths[self.words], out=self.before[1:])
        generator = np.random.Generator(np.random.PCG64(0))
        self._words = generator.integers(0, 2**64, len(numbers), np.uint64)[self.words]
        self._places = generator.integers(0, 2**64, 10, np.uint64) | np.uint64(1)
        self._documents = generator.integers(0, 2**64, len(texts), np.uint64)

    def size(self, begin: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        """Characters of the n words from each of these, without spaces."""
        return self.before[begin + n] - self.before[begin]

    def repeated(self, n: int, begin: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Group n-grams that occur more than once in a document.

        Parameters
        ----------
        n
            Words in an n-gram.
        begin
            int64 (G,), numbers of first words, to look at no others.

        Returns
        -------
        begin
            int64 (R,), those of repeated n-grams, group by group.
        group
            int64 (R,), numbers of the groups, ascending.
        """
        begin = begin[begin + n <= self.first[self.document[begin] + 1]]
        sums = self._documents[self.document[begin]]
        for place in range(n):
            sums = sums + self._words[begin + place] * self._places[place]
        order = np.argsort(sums)
        ordered = sums[order]
        same = np.concatenate([[False], ordered[1:] == ordered[:-1], [False]])[: len(ordered) + 1]
        inside = same[1:] | same[:-1]
        return begin[order[inside]], np.cumsum(~same[:-1], dtype=np.int64)[inside]


def _word_breaches(limits: GopherRepetitionThresholds, texts: Sequence[str]) -> list[Breach | None]:
    words = _BatchWords(texts)
    found: list[Breach | None] = [None] * len(texts)
    begin = np.arange(len(words.words))
    for n in _TOP:
        shares, begin = _top_shares(words, n, begin)
        _note(found, limits, f"max_top_{n}_gram", shares)
    for n in _DUPLICATE:
        shares, begin = _duplicate_shares(words, n, begin)
        _note(found, limits, f"max_duplicate_{n}_grams", shares)
    return found


def _note(
    found: list[Breach | None], limits: GopherRepetitionThresholds, name: str, shares: NDArray[np.float64]
) -> None:
    most = getattr(limits, name)
    if most is not None:
        for number in np.flatnonzero(shares > most).tolist():
            found[number] = found[number] or Breach(f"gopher_repetition_{name}", float(shares[number]))


def _top_shares(words: _BatchWords, n: int, begin: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(D,) Share of characters in each document's most frequent n-gram, and where n-grams occur more than once."""
    first, documents = words.first[:-1], len(words.characters)
    shares = np.zeros(documents)
    once = np.flatnonzero(np.diff(words.first) >= n)  # where none is repeated, the first counts
    shares[once] = (words.size(first[once], n) + n - 1) / words.characters[once]
    begin, group = words.repeated(n, begin)
    if not len(begin):
        return shares, begin
    heads, counts = np.unique(group, return_index=True, return_counts=True)[1:]
    places = np.minimum.reduceat(begin, heads)
    order = np.lexsort((places, -counts, words.document[places]))
    chosen, at = np.unique(words.document[places][order], return_index=True)
    places, counts = places[order][at], counts[order][at]
    shares[chosen] = (words.size(places, n) + n - 1) * counts / words.characters[chosen]
    return shares, begin


def _duplicate_shares(
    words: _BatchWords, n: int, begin: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(D,) Share of characters in each document's duplicate n-grams, and where n-grams occur more than once."""
    begin, group = words.repeated(n, begin)
    order = np.argsort(begin)
    begin, group = begin[order], group[order]
    counted: list[int] = []
    seen: set[int] = set()
    free = 0
    for place, number in zip(begin.tolist(), group.tolist(), strict=True):
        if place < free:
            continue
        if number in seen:
            counted.append(place)
            free = place + n
        else:
            seen.add(number)
    places = np.array(counted, np.int64)
    characters = np.bincount(words.document[places], words.size(places, n), len(words.characters))
    return characters / np.maximum(words.characters, 1), begin
