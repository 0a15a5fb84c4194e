"""Points of a study that have no result because a stage on their way failed: what a reader of a figure must know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FAILED_POINTS = "failed_points"
"""Tag of a study's run in MLflow, and key of `DataFrame.attrs` under which `load_study` keeps what it says."""
_NAMED = 6
"""Points that one line names."""
_WORDS = {
    "diverged": "diverged",
    "memory": "ran out of memory",
    "disk": "found no room on the disk",
    "network": "could not reach its data",
    "evaluation": "could not be evaluated",
}


@dataclass(frozen=True)
class FailedPoint:
    """One point without a result."""

    point: str
    """Its name."""
    cause: str
    """Why: `diverged`, `memory`, `disk`, `network`, `input`, `evaluation` or `other`."""
    stage: str
    """Id of the stage that failed."""
    error: str
    """What it said, in one line."""
    model: str = ""
    """Name of the model."""


def read_tag(text: str | None) -> tuple[list[FailedPoint], int]:
    """Read the tag of a study's run.

    Parameters
    ----------
    text
        The tag; None where the run has none.

    Returns
    -------
    list of FailedPoint, int
        The points, and how many more there are that the tag had no room for.
    """
    entries: list[dict[str, Any]] = json.loads(text) if text else []
    keys = ("point", "cause", "stage", "error", "model")
    points = [FailedPoint(*(str(entry.get(key, "")) for key in keys)) for entry in entries if "point" in entry]
    return points, sum(int(e["left_out"]) for e in entries if "left_out" in e)


def describe_failed(points: Sequence[FailedPoint], left_out: int = 0) -> str:
    """Name the points that are missing and why, in one line; empty where there is none.

    Parameters
    ----------
    points, left_out
        As `read_tag` gives them.
    """
    groups: dict[str, list[FailedPoint]] = {}
    for point in points:
        groups.setdefault(_WORDS.get(point.cause, "failed"), []).append(point)
    parts = [f"{_names(group)} {words} ({group[0].error})" for words, group in groups.items()]
    more = [f"and {left_out} more failed"] if left_out else []
    return "; ".join([*parts, *more])


def short_note(points: Sequence[FailedPoint], left_out: int = 0) -> str:
    """As `describe_failed` without the errors, for the foot of a figure."""
    groups: dict[str, list[FailedPoint]] = {}
    for point in points:
        groups.setdefault(_WORDS.get(point.cause, "failed"), []).append(point)
    parts = [f"{_names(group)} ({words})" for words, group in groups.items()]
    more = [f"{left_out} more that failed"] if left_out else []
    listed = "; ".join([*parts, *more])
    return f"Not shown: {listed}" if listed else ""


def _names(group: Sequence[FailedPoint]) -> str:
    more = f" and {len(group) - _NAMED} more" if len(group) > _NAMED else ""
    return ", ".join(point.point for point in group[:_NAMED]) + more
