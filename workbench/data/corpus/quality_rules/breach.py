"""What a rule of quality says of a document that it removes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Breach(NamedTuple):
    """A threshold that a document breaks."""

    cause: str
    """Rule and threshold, such as `gopher_min_words`."""
    value: float
    """What was measured, in the threshold's unit."""


def ratio(part: float, whole: float) -> float:
    """Part of a whole; 0 of nothing."""
    return part / whole if whole else 0.0


def duplicates(items: Iterable[str]) -> tuple[int, int]:
    """How many items occurred before, and the characters of these."""
    seen: set[str] = set()
    count = characters = 0
    for item in items:
        if item in seen:
            count += 1
            characters += len(item)
        else:
            seen.add(item)
    return count, characters
