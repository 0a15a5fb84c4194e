"""Passages of n words that given texts and a batch of documents have in common.

What is looked for are the n-grams of words of the given texts. A text of fewer than n words is looked for as a whole if it has
`min_words` words or more, and not at all if it has fewer. Words are those of `workbench.data.corpus.words`: case, punctuation and
white space make no difference. Characters are compared as they are written, without Unicode's normalisation: an accent as
a character of its own (NFD), a full-width letter or a zero-width one inside a word makes a different word, and n-grams
without such a word are found.

Shapes: F found passages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workbench.data.corpus.ngram_index import NgramIndex
from workbench.data.corpus.words import Words

_BATCH_CHARACTERS = 1 << 22


@dataclass(frozen=True)
class Found:
    """Passages of a batch's words that are in an index, by their place in the batch."""

    begin: NDArray[np.int64]
    """(F,) Number of each passage's first word in the batch."""
    end: NDArray[np.int64]
    """(F,) The word behind each passage; always in the same document."""
    rows: NDArray[np.int64]
    """(F,) Each passage's row in the index."""

    def where(self, kept: NDArray[np.bool_]) -> Found:
        """Keep some."""
        return Found(self.begin[kept], self.end[kept], self.rows[kept])


@dataclass(frozen=True)
class PassageIndex:
    """The passages of given texts, each with the owners of the texts that it stands in."""

    n: int
    """Words a passage."""
    min_words: int
    """Words of the shortest text that is looked for as a whole."""
    index: NgramIndex
    """n-grams, and shorter texts as a whole."""
    heads: NgramIndex
    """The first `min_words` words of the shorter texts: where one is found, the lengths in `lengths` are looked up."""
    lengths: tuple[int, ...]
    """Words of the shorter texts, ascending, each once."""

    @classmethod
    def of(cls, texts: Sequence[str], owners: Sequence[int], n: int, min_words: int | None = None) -> PassageIndex:
        """Index texts.

        Parameters
        ----------
        texts, owners
            The texts and the number of each one's owner; an owner may have several texts.
        n
            Words a passage.
        min_words
            Words of the shortest text that is looked for as a whole; None looks for no text of fewer than n.

        Raises
        ------
        ValueError
            `min_words` is not within 1 to n.
        """
        least = n if min_words is None else min_words
        if not 1 <= least <= n:
            raise ValueError(f"min_words={min_words} is not within 1 to n={n}")
        of_owner = np.asarray(owners, np.int64)
        hashes, numbers, heads, lengths = [], [], [], set[int]()
        for start, stop in _batches(texts):
            words = Words.of(texts[start:stop])
            mine = of_owner[start:stop]
            grams, places = words.ngrams(n)
            hashes.append(grams)
            numbers.append(mine[words.documents[places]])
            counts = np.diff(words.first)
            for length in range(least, n):
                short = np.flatnonzero(counts == length)
                if len(short):
                    lengths.add(length)
                    hashes.append(_hashes_at(words, words.first[short], length))
                    numbers.append(mine[short])
                    heads.append(_hashes_at(words, words.first[short], least))
        index = NgramIndex.of(_joined(hashes, np.uint64), _joined(numbers, np.int64))
        head = _joined(heads, np.uint64)
        return cls(n, least, index, NgramIndex.of(head, np.zeros(len(head), np.int64)), tuple(sorted(lengths)))

    def find(self, words: Words) -> Found:
        """Find the passages in the words of a batch, in their order."""
        grams, places = words.ngrams(self.n)
        hits, rows = self.index.find(grams)
        begins, ends, all_rows = [places[hits]], [places[hits] + self.n], [rows]
        if self.lengths:
            grams, places = words.ngrams(self.min_words)
            candidates = places[self.heads.find(grams)[0]]
            behind = words.first[np.searchsorted(words.first, candidates, "right")]
            for length in self.lengths:
                begin = candidates[candidates + length <= behind]
                hits, rows = self.index.find(_hashes_at(words, begin, length))
                begins.append(begin[hits])
                ends.append(begin[hits] + length)
                all_rows.append(rows)
        begin, end = np.concatenate(begins), np.concatenate(ends)
        order = np.lexsort((end, begin))
        return Found(begin[order], end[order], np.concatenate(all_rows)[order])

    def save(self, folder: Path) -> None:
        """Write the index into a folder, which is made."""
        self.index.save(folder / "ngrams")
        self.heads.save(folder / "heads")
        numbers = {"n": self.n, "min_words": self.min_words, "lengths": self.lengths}
        (folder / "passages.json").write_text(json.dumps(numbers), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> PassageIndex:
        """Open what `save` wrote, by memory map."""
        numbers = json.loads((folder / "passages.json").read_text(encoding="utf-8"))
        indices = NgramIndex.load(folder / "ngrams"), NgramIndex.load(folder / "heads")
        return cls(numbers["n"], numbers["min_words"], *indices, tuple(numbers["lengths"]))


def merge_spans(begin: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Unite spans that overlap; `begin` ascends. Spans that only touch stay two."""
    if not len(begin):
        return begin, end
    reach = np.maximum.accumulate(end)
    new = np.ones(len(begin), np.bool_)
    new[1:] = begin[1:] >= reach[:-1]
    return begin[new], reach[np.append(np.flatnonzero(new)[1:], len(begin)) - 1]


def _hashes_at(words: Words, begin: NDArray[np.int64], length: int) -> NDArray[np.uint64]:
    """Hash of the `length` words from each of some words on, as `Words.ngrams` has it."""
    taken = (begin[:, None] + np.arange(length)).ravel()
    first = np.arange(len(begin) + 1, dtype=np.int64) * length
    return Words(words.hashes[taken], words.begin[taken], words.end[taken], first).ngrams(length)[0]


def _batches(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Ranges of texts of some megabytes each."""
    batches, start, size = [], 0, 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            batches.append((start, i + 1))
            start, size = i + 1, 0
    return [*batches, (start, len(texts))] if start < len(texts) else batches


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
