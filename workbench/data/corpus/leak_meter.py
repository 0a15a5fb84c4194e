"""Independent measure of held-out passages that are left in training text.

It shares no code with `workbench.data.corpus.heldout_leaks`: words are strings, found by a regular expression, and a passage is
looked up as its text. It costs some hundred times as much as cutting does, and is meant for samples and small data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_WORD = re.compile(r"[\u3040-\udfff]|[0-9A-Za-z\u00c0-\u1fff\u2080-\u2fff\ue000-\U0010ffff]+")
"""Words as docs/corpora.md says them: runs of what is no separator, and single characters of scripts without spaces."""


class LeakMeter:
    """Passages of n words of held-out documents, shorter documents as a whole, and how many occur in training texts."""

    def __init__(self, heldout: Mapping[str, Sequence[str]], n: int, min_words: int | None = None) -> None:
        """Index held-out documents by source.

        Those of fewer than n words are a passage as a whole if they have `min_words` or more, and have none otherwise; None
        is n.
        """
        words = {name: [_words_of(text) for text in texts] for name, texts in heldout.items()}
        least = n if min_words is None else min_words
        shorter = {len(each) for documents in words.values() for each in documents if least <= len(each) < n}
        self._lengths = [*sorted(shorter), n]
        """Words of the passages to look for."""
        self._passages = {name: [self._own(each, n) for each in documents] for name, documents in words.items()}
        self._known = {p for documents in self._passages.values() for passages in documents for p in passages}

    def hits(self, training: Iterable[str]) -> set[str]:
        """Held-out passages that occur in the training texts."""
        return {passage for text in training for passage in self._passages_of(text) if passage in self._known}

    def report(self, hits: set[str]) -> dict[str, dict[str, float]]:
        """By source with passages: the share of them in `hits`, the worst document's share, and documents above a tenth."""
        result: dict[str, dict[str, float]] = {}
        for source, documents in self._passages.items():
            counts = [(sum(p in hits for p in passages), len(passages)) for passages in documents if passages]
            if counts:
                shares = [found / total for found, total in counts]
                result[source] = {
                    "share": sum(found for found, _ in counts) / sum(total for _, total in counts),
                    "worst_document": max(shares),
                    "documents_above_tenth": sum(share > 0.1 for share in shares) / len(shares),
                }
        return result

    def _own(self, words: list[str], n: int) -> list[str]:
        """Passages of a held-out document."""
        length = min(n, len(words))
        return list(_passages(words, length)) if length in self._lengths else []

    def _passages_of(self, text: str) -> Iterable[str]:
        words = _words_of(text)
        return (passage for length in self._lengths for passage in _passages(words, length))


def _passages(words: list[str], length: int) -> Iterable[str]:
    return (" ".join(words[i : i + length]) for i in range(len(words) - length + 1))


def _words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower()) if text.isascii() else [_fold(word) for word in _WORD.findall(text)]


def _fold(word: str) -> str:
    """Lower case, except where that takes another number of bytes; one sigma, not two."""
    if word.isascii():
        return word.lower()
    lower = (c.lower().replace("\u03c2", "\u03c3") for c in word)
    return "".join(low if len(low.encode()) == len(c.encode()) else c for c, low in zip(word, lower, strict=True))
