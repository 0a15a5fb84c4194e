"""What an audit says of a store, a line a check, and how much of the store it looks at."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

OK, WRONG, UNCHECKED = "ok", "wrong", "not checked"
_NAMED = 5


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    """What, such as `checksums`."""
    state: str
    """`ok`, `wrong` or `not checked`."""
    found: str
    """What was found, and in how much of the store; why not, where it was not checked."""
    wrong: tuple[str, ...] = ()
    """Everything that is wrong, each in one line."""


@dataclass(frozen=True)
class Sample:
    """How much is looked at; the choice is a function of the seed alone."""

    token_bytes: int = 1_000_000_000
    """Of every source token files of at least so many bytes, and one file at least; the files are chosen at random."""
    documents: int = 2000
    """Documents of every source that are decoded, from the files chosen."""
    seed: int = 0
    """Seed of the choice."""
    whole: bool = False
    """Whether everything is looked at instead."""

    def draw(self, about: str) -> random.Random:
        """Give the random numbers of one choice."""
        return random.Random(f"{self.seed} {about}")


def judge(name: str, found: str, wrong: Sequence[str]) -> Check:
    """Make a check that is wrong where anything is named."""
    return Check(name, WRONG if wrong else OK, found, tuple(wrong))


def unchecked(name: str, why: str) -> Check:
    """Make a check of what could not be checked."""
    return Check(name, UNCHECKED, why)


def describe(check: Check) -> list[str]:
    """Lines of a check: its own, and one for each of the first things that are wrong."""
    lines = [f"{check.state:<12} {check.name}: {check.found}"]
    lines += [f"{'':12} - {text}" for text in check.wrong[:_NAMED]]
    more = len(check.wrong) - _NAMED
    return [*lines, f"{'':12} - and {more:,} more"] if more > 0 else lines
