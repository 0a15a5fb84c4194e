"""What is taken of one source, for the store and for the tokenizer, and what becomes of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from workbench.data.counts import BEYOND_CAP, DUPLICATE
from workbench.data.workers import Reading


@dataclass
class Intake:
    """The beginning of a source's pieces.

    Counting ends where the cap is reached, so that the counts depend on the texts alone.
    """

    name: str
    """Name of the source."""
    cap: int | None
    """Bytes that the store takes; None: all."""
    quota: int
    """Bytes that the tokenizer is trained on."""
    stored_bytes: int = 0
    """Bytes in the store."""
    stored: int = 0
    """Pieces in the store."""
    sampled_bytes: int = 0
    """Bytes for the tokenizer."""
    left_out_bytes: int | None = None
    """Bytes of the first piece for which the cap had no room; None: there was none."""
    sample: list[str] = field(default_factory=list)
    """Texts for the tokenizer."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Documents and pieces that are not in the store, by cause."""

    @property
    def store_full(self) -> bool:
        """Whether the cap is reached."""
        return self.left_out_bytes is not None

    @property
    def sample_full(self) -> bool:
        """Whether the tokenizer has its share."""
        return self.sampled_bytes >= self.quota

    @property
    def full(self) -> bool:
        """Whether nothing more is needed."""
        return self.store_full and self.sample_full

    def take(self, reading: Reading, seen: set[int]) -> Iterator[str]:
        """Yield the pieces that belong into the store; `seen` are hashes of the pieces taken before.

        Raises
        ------
        ValueError
            The first piece is larger than the cap.
        """
        if reading.cause is not None:
            self._drop(reading.cause)
        for key, piece in reading.pieces:
            if self.full:
                return
            if key in seen:
                self._drop(DUPLICATE)
                continue
            seen.add(key)
            if self._accept(piece):
                yield piece

    def _drop(self, cause: str) -> None:
        if not self.store_full:
            self.dropped[cause] += 1

    def _accept(self, piece: str) -> bool:
        """Count a piece in; whether it belongs into the store."""
        size = len(piece.encode())
        if not self.sample_full:
            self.sample.append(piece)
            self.sampled_bytes += size
        if self.store_full:  # never take a later, shorter piece: a smaller cap is a prefix of a larger
            return False
        if self.cap is not None and self.stored_bytes + size > self.cap:
            if not self.stored:
                raise ValueError(
                    f"source {self.name!r}: max_bytes={self.cap} has no room for the first document, which has {size} "
                    "bytes: raise max_bytes"
                )
            self._drop(BEYOND_CAP)
            self.left_out_bytes = size
            return False
        self.stored += 1
        self.stored_bytes += size
        return True

    def facts(self) -> dict[str, Any]:
        """Count for the manifest: `read` is `documents` and all that is `dropped`."""
        return {
            "documents": self.stored,
            "bytes": self.stored_bytes,
            "max_bytes": self.cap,
            "left_out_bytes": self.left_out_bytes,
            "read": self.stored + self.dropped.total(),
            "dropped": dict(sorted(self.dropped.items())),
        }
