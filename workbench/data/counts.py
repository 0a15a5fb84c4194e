"""What becomes of the documents that are read, counted by cause."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

HELDOUT_SPLIT = "heldout_split"
NOT_UTF8 = "not_utf8"
UNREADABLE = "unreadable"
GENERATED = "generated"
NOT_PYTHON = "not_python"
NOT_PROSE = "not_prose"
NOT_CODE = "not_code"
EMPTY = "empty"
TOO_SHORT = "too_short"
HELDOUT_TEXT = "heldout_text"
BENCHMARK_TEXT = "benchmark_text"
DUPLICATE = "duplicate"
EXACT_DUPLICATE = "exact_duplicate"
NEAR_DUPLICATE = "near_duplicate"
NEAR_HELDOUT = "near_heldout"
FIELD_FILTER = "field_filter"
MISSING_FIELD = "missing_field"
BEYOND_CAP = "beyond_cap"
FILE_IS_USED = "file_is_used"
FEW_WORDS = "few_words"
SHARED_LINES = "shared_lines"
NO_ROOM = "no_room"
NO_ASSISTANT = "no_assistant"
EMPTY_TURN = "empty_turn"
UNKNOWN_ROLE = "unknown_role"
ROLE_ORDER = "role_order"
MARKS = "marks"
TOO_LONG = "too_long"

LABELS = {
    HELDOUT_SPLIT: "held-out split",
    UNREADABLE: "unreadable",
    NOT_UTF8: "not UTF-8",
    FIELD_FILTER: "field filter",
    MISSING_FIELD: "missing field",
    GENERATED: "generated",
    NOT_PYTHON: "not Python",
    NOT_PROSE: "not prose",
    NOT_CODE: "not code",
    EMPTY: "empty",
    TOO_SHORT: "too short",
    BENCHMARK_TEXT: "benchmark text",
    HELDOUT_TEXT: "held-out text",
    DUPLICATE: "duplicate",
    EXACT_DUPLICATE: "exact duplicate",
    NEAR_DUPLICATE: "near duplicate",
    NEAR_HELDOUT: "nearly held-out",
    BEYOND_CAP: "beyond max_bytes",
    FILE_IS_USED: "file used twice",
    FEW_WORDS: "too few words",
    SHARED_LINES: "shared lines",
    NO_ROOM: "no room left",
    UNKNOWN_ROLE: "unknown role",
    NO_ASSISTANT: "no turn of the assistant",
    EMPTY_TURN: "an empty turn",
    ROLE_ORDER: "roles out of order",
    MARKS: "a template's marks in its text",
    TOO_LONG: "too long",
}
"""Every cause for which a document is dropped, as a table's head names it, in the order in which they are looked for.

`held-out split`: kept out of training because the split sets it apart, chosen to be held out or not (for the
`python_*` kinds: files). `held-out text`: all of it stands in held-out documents. `nearly held-out`: a near duplicate of one. `file used twice` to `no room left`
are why a document of the split was not chosen: two were taken from its file, it has too few words to be found
in training text (in a corpus), shares lines with one that was chosen, or is longer than what `heldout_bytes` has left. What follows is for conversations alone. A document of a corpus may
also go by a threshold of a rule of quality, whose name is then its cause (`workbench.data.corpus.quality_rules`).
"""

Drop = Callable[[str, str], None]
"""Told the kind of a document that is dropped (`prose`, `code`) and the cause."""


def no_drop(kind: str, cause: str) -> None:
    """Count nothing."""


class Found(NamedTuple):
    """A document of a source, or why one was dropped where it was read."""

    source: str
    """Name of the source."""
    text: str
    """The text; empty where it was dropped."""
    cause: str | None = None
    """Why it was dropped; None: it was not."""


def why_too_short(text: str, min_bytes: int) -> str | None:
    """Cause for which a text that is blank or has fewer than `min_bytes` bytes is dropped; None for others."""
    if not text or text.isspace():
        return EMPTY
    return TOO_SHORT if len(text.encode()) < min_bytes else None


def in_order(causes: Mapping[str, int]) -> list[str]:
    """Causes that were counted, those of `LABELS` first, then the thresholds of rules of quality by name."""
    counted = [cause for cause, count in causes.items() if count]
    return [cause for cause in LABELS if cause in counted] + sorted(set(counted) - set(LABELS))


def label(cause: str) -> str:
    """Name a cause, as in `LABELS`; thresholds such as `gopher_min_words` have their own names."""
    return LABELS.get(cause, cause)


def name_counts(counted: Mapping[str, int], before: str = "") -> str:
    """`before` and the counts with their causes, as in `12 empty, 3 too short`; empty where there are none."""
    parts = [f"{counted[cause]:,} {label(cause)}" for cause in in_order(counted)]
    return before + ", ".join(parts) if parts else ""
