"""Why stages and evaluations fail, and what to do about it: decided on the class of the error, never on its text."""

from __future__ import annotations

from collections.abc import Iterable

DIVERGED = "diverged"
INPUT = "input"
MEMORY = "memory"
DISK = "disk"
NETWORK = "network"
EVALUATION = "evaluation"
PARENT = "parent"
OTHER = "other"

KILLED_FOR_MEMORY = "KilledForMemoryError"
"""Class recorded for a process that the kernel killed for lack of memory; it could raise nothing itself."""

_CAUSES = {
    "NonFiniteLossError": DIVERGED,
    "ValueError": INPUT,
    "TypeError": INPUT,
    "MemoryError": MEMORY,
    "OutOfMemoryError": MEMORY,
    KILLED_FOR_MEMORY: MEMORY,
    "DiskFullError": DISK,
    "NoSpaceError": DISK,
    "OutOfReachError": NETWORK,
    "HubOutOfReachError": NETWORK,
    "EvaluationError": EVALUATION,
}
_REPEATABLE = frozenset({DIVERGED, INPUT})
_NAMED = 5
"""Stages named in one line of advice; the table has them all."""
_ADVICE = {
    DIVERGED: (
        "diverged, and would diverge again at the same step: lower optimizer.learning_rate (or "
        "optimizer.base_learning_rate, which the rule of size scales), or lengthen recipe.warmup_tokens "
        "(optimizer.non_finite=skip only helps where single updates are not finite); of a stage under `then`, change its "
        "own settings for rate and warm-up"
    ),
    INPUT: "would fail again in the same way: change what the message names before launching again",
    MEMORY: (
        "ran out of memory: set a smaller numerics.micro_batch_sequences, or give each stage more memory "
        "(locally, fewer at a time: hydra.launcher.workers)"
    ),
    DISK: "found no room on the disk: make room before launching again",
    NETWORK: (
        "could not reach what the message names, and nothing is known to be wrong with the input: launch again once it "
        "answers, which goes on with what is not done"
    ),
    EVALUATION: "could not be evaluated: mend what the message names, then `workbench evaluate` scores what is missing",
}


def cause_of(error_class: str | None) -> str:
    """Name the cause behind the class of an error, as `status.json` records it; `other` where it says nothing."""
    return _CAUSES.get(error_class or "", OTHER)


def is_repeatable(cause: str | None) -> bool:
    """Whether the same launch would fail in the same way, so that launching again is no advice."""
    return cause in _REPEATABLE


def advise(failed: Iterable[tuple[str, str | None]]) -> list[str]:
    """Say what to do about stages that failed, one line for each cause that has an answer of its own.

    Parameters
    ----------
    failed
        A label for each failed stage, and its cause.
    """
    named: dict[str, list[str]] = {}
    for label, cause in failed:
        if cause in _ADVICE:
            named.setdefault(cause, []).append(label)
    return [f"{_join(list(dict.fromkeys(labels)))} {_ADVICE[cause]}" for cause, labels in named.items()]


def _join(labels: list[str]) -> str:
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return ", ".join(labels[:_NAMED]) + more
