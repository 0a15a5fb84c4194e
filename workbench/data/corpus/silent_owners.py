"""Who is waited for: owners of tasks that were not heard of for a while, since when, and what can be done, in one line."""

from __future__ import annotations

import time
from collections.abc import Mapping

from workbench.data.corpus.task_claims import STALE_SECONDS, Claims, Owner

NOTICE_SECONDS = 30.0
"""Silence that is worth a word: some touches were missed."""
_LOOK_SECONDS = 5.0


class SilenceWatch:
    """Sees owners fall silent by its own clock."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._next = 0.0
        self._text = ""

    def describe(self) -> str:
        """Say who is waited for; empty where all were heard of. Claims are looked at now and then."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LOOK_SECONDS
            found = self._claims.silent(NOTICE_SECONDS)
            self._text = describe_silent({task: (owner, touched / 1e9) for task, (owner, touched) in found.items()})
        return self._text


def describe_silence_now(claims: Claims) -> str:
    """Say who is waited for, at one look: by the times of the claims, which a file server may have from another clock."""
    found: dict[str, tuple[Owner, float]] = {}
    for task, owner in claims.all().items():
        touched = claims.touched(task)
        if touched is not None and (owner.is_gone() or time.time() - touched > STALE_SECONDS):
            found[task] = owner, touched
    return describe_silent(found)


def describe_silent(owners: Mapping[str, tuple[Owner, float]]) -> str:
    """Describe the one that was silent longest, and count the others.

    Parameters
    ----------
    owners
        By task, its owner and when that was heard of, in seconds since 1970.
    """
    if not owners:
        return ""
    task, (owner, heard) = min(owners.items(), key=lambda each: (each[1][1], each[0]))
    more = f" (and {len(owners) - 1:,} more tasks wait so)" if len(owners) > 1 else ""
    return f"{task} waits for {_name(owner)}, last heard of at {_name_moment(heard)}: {_what_to_do(owner)}{more}"


def _name(owner: Owner) -> str:
    return f"process {owner.pid} on {owner.host}" if owner.pid >= 0 else "a claim that a crash left unreadable"


def _name_moment(seconds: float) -> str:
    moment, today = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M:%S" if moment[:3] == today[:3] else "%Y-%m-%d %H:%M", moment)


def _what_to_do(owner: Owner) -> str:
    if owner.is_gone():
        return "it has ended, and the next worker takes the task at once"
    taken = f"a worker takes the task after {owner.patience_seconds():.0f} s of silence"
    if owner.is_stopped():
        return f"it is stopped; `kill -CONT {owner.pid}` wakes it, and {taken}"
    if owner.is_of_here():
        return f"{taken}, or at once when it is ended (`kill -KILL {owner.pid}`)"
    return taken
