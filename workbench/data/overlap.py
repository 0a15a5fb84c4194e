"""Text that stands in a held-out document leaves the training text.

A *run* is `length` successive non-blank lines with white space folded. Training documents lose every
line that lies in a run which also occurs in a held-out document, and are split there, so that no two
lines become neighbours that were not. A held-out document of fewer lines is one shorter run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

Run = tuple[str, ...]


def fold_line(line: str) -> str:
    """Line with white space folded: none at the ends, single spaces inside."""
    return " ".join(line.split())


@dataclass
class HeldoutRuns:
    """The runs of the held-out documents."""

    length: int
    """Lines a run."""
    runs: dict[int, set[Run]] = field(default_factory=dict)
    """Runs by their number of lines."""
    lines: set[str] = field(default_factory=set)
    """Every line that is in a run."""

    def add(self, text: str) -> None:
        """Add the runs of a held-out document."""
        folded = [f for f in map(fold_line, text.split("\n")) if f]
        length = min(self.length, len(folded))
        if length:
            windows = zip(*(folded[i:] for i in range(length)), strict=False)
            self.runs.setdefault(length, set()).update(windows)
            self.lines.update(folded)

    def shares_any(self, text: str) -> bool:
        """Whether a document has a run in common with those added."""
        return bool(self.cut(text)[1])

    def cut(self, text: str) -> tuple[list[str], set[Run]]:
        """Pieces of a training document without held-out runs, and the runs found in it."""
        lines = text.split("\n")
        folded = [fold_line(line) for line in lines]
        known = self.lines
        if not any(f in known for f in folded if f):
            return [text], set()
        filled = [(i, f) for i, f in enumerate(folded) if f]
        covered, found = self._cover([f for _, f in filled])
        if not found:
            return [text], found
        removed = {filled[i][0] for i in covered}
        pieces, piece = [], []
        for i, line in enumerate(lines):
            if i in removed:
                pieces.append(piece)
                piece = []
            else:
                piece.append(line)
        return [p for p in ("\n".join(piece).strip("\n") for piece in (*pieces, piece)) if p], found

    def _cover(self, folded: list[str]) -> tuple[set[int], set[Run]]:
        """Positions of non-blank lines inside held-out runs, and those runs."""
        covered: set[int] = set()
        found: set[Run] = set()
        start = 0
        for stop in range(len(folded) + 1):
            if stop < len(folded) and folded[stop] in self.lines:
                continue
            for length, runs in self.runs.items():
                for i in range(start, stop - length + 1):
                    run = tuple(folded[i : i + length])
                    if run in runs:
                        found.add(run)
                        covered.update(range(i, i + length))
            start = stop + 1
        return covered, found


class OverlapMeter:
    """Independent measure of what is left: joined windows of final training texts against held-out windows.

    It shares no code with `HeldoutRuns`: windows are strings, found by looking up each one.
    """

    def __init__(self, heldout: dict[str, list[str]], length: int) -> None:
        """Index held-out documents by source."""
        self._heldout, self._length = heldout, length
        self.windows = {w for texts in heldout.values() for text in texts for w in self._windows_of(text)}
        self._lengths = sorted({w.count("\n") + 1 for w in self.windows})

    def _windows_of(self, text: str) -> list[str]:
        lines = [" ".join(line.split()) for line in text.split("\n") if line.strip()]
        length = min(self._length, len(lines))
        return ["\n".join(lines[i : i + length]) for i in range(len(lines) - length + 1)] if length else []

    def hits(self, training: Iterable[str]) -> set[str]:
        """Held-out windows that occur in the training texts."""
        found: set[str] = set()
        for text in training:
            lines = [" ".join(line.split()) for line in text.split("\n") if line.strip()]
            for length in self._lengths:
                candidates = {"\n".join(lines[i : i + length]) for i in range(len(lines) - length + 1)}
                found |= candidates & self.windows
        return found

    def report(self, hits: set[str]) -> dict[str, dict[str, float]]:
        """By source: share of held-out bytes inside windows in `hits`, and the worst document's share."""
        result = {}
        for source, texts in self._heldout.items():
            shares = [(self._bytes_inside(text, hits), self._bytes_inside(text, None)) for text in texts]
            total = sum(size for _, size in shares)
            if total:
                worst = max(inside / size for inside, size in shares)
                over = sum(inside > 0.1 * size for inside, size in shares) / len(shares)
                overall = sum(inside for inside, _ in shares) / total
                result[source] = {"share": overall, "worst_document": worst, "documents_above_tenth": over}
        return result

    def _bytes_inside(self, text: str, hits: set[str] | None) -> int:
        """Bytes of a document's non-blank lines, line ends included, that lie in windows in `hits` (None: in any)."""
        lines = [line for line in text.split("\n") if line.strip()]
        inside: set[int] = set()
        for i, window in enumerate(self._windows_of(text)):
            if hits is None or window in hits:
                inside.update(range(i, i + window.count("\n") + 1))
        return sum(len(lines[i].encode()) + 1 for i in inside)
