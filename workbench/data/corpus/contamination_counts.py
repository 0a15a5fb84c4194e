"""Counts of benchmark text in training documents that add up over shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass
class Counts:
    """In how many training documents each passage occurs."""

    documents: int
    """Training documents counted."""
    passages: NDArray[np.int64]
    """(H,) By row of the index of passages."""
    report_passages: NDArray[np.int64]
    """By row of the index of the report's passages."""

    @classmethod
    def none(cls, passages: int, report_passages: int) -> Counts:
        """Make counts of no document, for indices of some sizes."""
        return cls(0, np.zeros(passages, np.int64), np.zeros(report_passages, np.int64))

    def add(self, other: Counts) -> None:
        """Add the counts of other documents to these."""
        self.documents += other.documents
        self.passages += other.passages
        self.report_passages += other.report_passages

    def save(self, path: Path) -> None:
        """Write an `.npz` file; its size goes with the number of passages that occur, not with the index's."""
        arrays: dict[str, np.ndarray] = {}
        for name in ("passages", "report_passages"):
            counts = getattr(self, name)
            rows = np.flatnonzero(counts)
            arrays |= {f"{name}_size": np.array(len(counts)), f"{name}_rows": rows, f"{name}_counts": counts[rows]}
        np.savez_compressed(path, documents=np.array(self.documents), **arrays)  # pyright: ignore[reportArgumentType]

    @classmethod
    def load(cls, path: Path) -> Counts:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            counts = cls.none(int(arrays["passages_size"]), int(arrays["report_passages_size"]))
            counts.documents = int(arrays["documents"])
            counts.passages[arrays["passages_rows"]] = arrays["passages_counts"]
            counts.report_passages[arrays["report_passages_rows"]] = arrays["report_passages_counts"]
        return counts


@dataclass
class Tally:
    """What was done with training documents, in numbers that add up."""

    documents: int = 0
    """Documents looked at."""
    done: Counter[str] = field(default_factory=Counter)
    """Documents with benchmark text, by what was done with them; their sum is that of `tasks`."""
    tasks: Counter[str] = field(default_factory=Counter)
    """The same documents by the tasks that they hold text of: each counts once, under all its tasks joined by ` + `."""
    passages: Counter[str] = field(default_factory=Counter)
    """Passages by task; one of several tasks counts for each."""
    removed_bytes: int = 0
    """Bytes of UTF-8 that the documents lost."""

    @property
    def hits(self) -> int:
        """Documents with benchmark text."""
        return sum(self.done.values())

    def add_hit(self, passages: Mapping[str, int], done: str, removed_bytes: int) -> None:
        """Count a document, with its passages by task."""
        self.done[done] += 1
        self.tasks[" + ".join(sorted(passages))] += 1
        self.passages.update(passages)
        self.removed_bytes += removed_bytes

    def add(self, other: Tally) -> None:
        """Add what was done with other documents."""
        self.documents += other.documents
        self.done.update(other.done)
        self.tasks.update(other.tasks)
        self.passages.update(other.passages)
        self.removed_bytes += other.removed_bytes

    def by_task(self) -> dict[str, int]:
        """Count documents that hold text of each task, those with several once for each."""
        counts: Counter[str] = Counter()
        for tasks, documents in self.tasks.items():
            for task in tasks.split(" + "):
                counts[task] += documents
        return dict(sorted(counts.items()))


@dataclass(frozen=True)
class TaskOverlap:
    """The documents of one task, by number: each is in exactly one of the first three lists, which ascend."""

    clean: list[int]
    """No passage of the report's length occurs in the documents that were counted."""
    dirty: list[int]
    """At least one does."""
    not_checkable: list[int]
    """No text of theirs is long enough."""
    in_passages: list[int]
    """Those of which a passage of the rule's length occurs that is not ignored."""

    @property
    def share(self) -> float | None:
        """Share of dirty documents among those that can be checked; None where there is none."""
        checked = len(self.clean) + len(self.dirty)
        return len(self.dirty) / checked if checked else None
