"""What is noted of a shard's documents as its tokens are written, in numbers that add up over shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workbench.data import counts
from workbench.data.corpus.cleaning import Cleaned
from workbench.data.corpus.contamination_counts import Tally
from workbench.data.corpus.leak_meter import LeakMeter

_METERED_BYTES = 500_000
"""Of a shard, training text of documents that lost held-out text, and as much of others, in which the independent meter looks
for what is left: it is some hundred times slower than what cuts."""


@dataclass
class ContaminationNotes:
    """Training documents with benchmark text."""

    tally: Tally = field(default_factory=Tally)
    """All of them."""
    by_task: dict[str, Counter[str]] = field(default_factory=dict)
    """By task, documents by what was done with them; one with text of several tasks counts for each."""

    def add(self, tally: Tally) -> None:
        """Add one document."""
        self.tally.add(tally)
        for task in tally.passages:
            self.by_task.setdefault(task, Counter()).update(tally.done)

    def merge(self, facts: Mapping[str, Any]) -> None:
        """Add what `facts` gave of other documents."""
        told = facts["tally"]
        parts = {name: Counter(told[name]) for name in ("done", "tasks", "passages")}
        self.tally.add(Tally(told["documents"], removed_bytes=told["removed_bytes"], **parts))
        for task, done in facts["by_task"].items():
            self.by_task.setdefault(task, Counter()).update(done)

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        told = {name: dict(sorted(getattr(self.tally, name).items())) for name in ("done", "tasks", "passages")}
        told |= {"documents": self.tally.documents, "removed_bytes": self.tally.removed_bytes}
        return {
            "tally": told,
            "by_task": {task: dict(sorted(done.items())) for task, done in sorted(self.by_task.items())},
        }


class LeftLeaks:
    """Passages of held-out documents that are left in a part of a shard's training text."""

    def __init__(self, meter: LeakMeter, shard_bytes: int) -> None:
        """Look for what a meter does; a shard has about so many bytes of text."""
        self._meter = meter
        self._every = max(1, shard_bytes // _METERED_BYTES)
        self._seen = 0
        self._left = {True: _METERED_BYTES, False: _METERED_BYTES}
        self.bytes = 0
        """Training text that was looked at."""
        self.hits: set[str] = set()
        """Passages found."""

    def look(self, cleaned: Cleaned) -> None:
        """Look into a document that is kept, if it is one of those to look into."""
        is_cut = counts.HELDOUT_TEXT in cleaned.cut
        self._seen += not is_cut
        if self._left[is_cut] <= 0 or (not is_cut and (self._seen - 1) % self._every):
            return
        self._left[is_cut] -= cleaned.bytes
        self.bytes += cleaned.bytes
        self.hits |= self._meter.hits(cleaned.pieces)


def histogram(lengths: Iterable[int]) -> Counter[int]:
    """Count lengths by the largest power of two that is not above them."""
    exponents = np.frexp(np.fromiter(lengths, np.int64))[1] - 1
    return Counter({1 << int(e): int(n) for e, n in zip(*np.unique(exponents, return_counts=True), strict=True)})
