"""Held-out text leaves training documents: by runs of lines, and by passages of words wherever the lines end.

Two rules, one after the other. `HeldoutRuns` takes every run of some lines that a held-out document has too; it sees what has few
words, such as tables and code of symbols. The passages of n words see what stands within long lines, as in web pages of one
line, and in text that was wrapped anew. A passage goes from its first word to its last; the document is split there, so that no
two words become neighbours that were not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from workbench.config.plain import check_at_least
from workbench.data.corpus.passages import PassageIndex, merge_spans
from workbench.data.corpus.words import Words
from workbench.data.overlap import HeldoutRuns

LINES, WORDS = "lines", "words"
"""The rules."""


@dataclass(frozen=True)
class LeakSettings:
    """What of a held-out document must not stand in training text."""

    lines: int = 5
    """Non-blank lines a run, white space folded; as `DataConfig.overlap_lines`."""
    words: int = 13
    """Words a passage."""
    min_words: int = 8
    """Held-out documents of fewer than `words` words, but this many, are looked for as a whole."""

    def __post_init__(self) -> None:
        """Refuse numbers that are none of lines or words."""
        check_at_least("leaks lines", self.lines, 1)
        check_at_least("leaks min_words", self.min_words, 1)
        if self.min_words > self.words:
            raise ValueError(f"leaks min_words={self.min_words} is more than words={self.words}")


@dataclass
class LeakTally:
    """What was cut, in numbers that add up."""

    documents: int = 0
    """Training documents looked at."""
    cut: int = 0
    """Those that lost something."""
    cut_by: Counter[str] = field(default_factory=Counter)
    """Documents by the rule that cut them; one that both did counts for each."""
    removed_bytes: Counter[str] = field(default_factory=Counter)
    """Bytes of UTF-8 by rule, with the white space at cuts."""

    def add(self, other: LeakTally) -> None:
        """Add what was cut of other documents."""
        self.documents += other.documents
        self.cut += other.cut
        self.cut_by.update(other.cut_by)
        self.removed_bytes.update(other.removed_bytes)


class HeldoutLeaks:
    """The held-out text of all sources, and training documents without it."""

    def __init__(self, heldout_texts: Mapping[str, Sequence[str]], settings: LeakSettings | None = None) -> None:
        """Index held-out documents by source; None takes the settings' defaults."""
        self.settings = settings or LeakSettings()
        texts = [text for name in sorted(heldout_texts) for text in heldout_texts[name]]
        self._runs = HeldoutRuns(self.settings.lines)
        for text in texts:
            self._runs.add(text)
        self._passages = PassageIndex.of(texts, [0] * len(texts), self.settings.words, self.settings.min_words)

    def cut(self, texts: Sequence[str]) -> tuple[list[list[str]], LeakTally]:
        """Take held-out text out of the documents of a batch.

        Returns
        -------
        pieces
            Of each document what is left: itself, or pieces that have words, in order; none where all of it is held out.
        tally
            What was cut.
        """
        tally = LeakTally(documents=len(texts))
        by_line = [self._runs.cut(text)[0] if text else [text] for text in texts]
        pieces = self._cut_words(by_line)
        for text, lined, left in zip(texts, by_line, pieces, strict=True):
            changed = {LINES: lined != [text], WORDS: left != lined}
            if not any(changed.values()):
                continue
            tally.cut += 1
            sizes = [sum(len(part.encode()) for part in parts) for parts in ([text], lined, left)]
            for rule, before, after in zip((LINES, WORDS), sizes[:-1], sizes[1:], strict=True):
                if changed[rule]:
                    tally.cut_by[rule] += 1
                    tally.removed_bytes[rule] += before - after
        return pieces, tally

    def _cut_words(self, documents: list[list[str]]) -> list[list[str]]:
        """Cut passages of words out of the pieces of some documents."""
        flat = [piece for pieces in documents for piece in pieces]
        words = Words.of(flat)
        found = self._passages.find(words)
        if not len(found.begin):
            return documents
        begin, end = merge_spans(found.begin, found.end)
        of_piece = np.searchsorted(words.first, begin, "right") - 1
        spans: dict[int, list[tuple[int, int]]] = {}
        places = (of_piece.tolist(), words.begin[begin].tolist(), words.end[end - 1].tolist())
        for piece, first, behind in zip(*places, strict=True):
            spans.setdefault(piece, []).append((first, behind))
        numbers = iter(range(len(flat)))
        return [
            [part for piece in pieces for part in _without(piece, spans.get(next(numbers), []))] for pieces in documents
        ]


def _without(text: str, spans: list[tuple[int, int]]) -> list[str]:
    """Pieces of a text around spans of its bytes, those without a letter or digit left out."""
    if not spans:
        return [text]
    raw = text.encode()
    borders = [0, *(border for span in spans for border in span), len(raw)]
    pieces = [raw[a:b].decode() for a, b in zip(borders[::2], borders[1::2], strict=True)]
    last = len(pieces) - 1
    cleaned = [_trim(piece, begins=i == 0, ends=i == last) for i, piece in enumerate(pieces)]
    return [piece for piece in cleaned if any(c.isalnum() for c in piece)]


def _trim(piece: str, begins: bool, ends: bool) -> str:
    """Take white space off where a piece was cut, but no indentation of its first whole line."""
    if not ends:
        piece = piece.rstrip()
    if not begins:
        line, feed, rest = piece.partition("\n")
        piece = line.lstrip() + feed + rest if line.strip() else rest.lstrip("\n")
    return piece
