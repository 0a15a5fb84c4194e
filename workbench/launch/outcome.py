"""How a launch ended."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What a run of a study did."""

    failures: list[str] = field(default_factory=list[str])
    """One line for each stage or evaluation that failed."""
    killed: bool = False
    """Whether the user stopped it."""
    trained: list[str] = field(default_factory=list[str])
    """Ids of the stages that were trained."""
    evaluated: int = 0
    """Evaluations that were done."""


@dataclass(frozen=True)
class Finished:
    """What a point's job returns to Hydra when its whole chain is trained."""

    point: str
    """The point's name."""
    checkpoint: str
    """Directory of its last checkpoint."""


@dataclass(frozen=True)
class Submitted:
    """What a point's job returns to Hydra when its stages are in a cluster's queue: ids, and no result."""

    point: str
    """The point's name."""
    jobs: tuple[str, ...]
    """Ids of the jobs that train its chain, in order; empty where all of it is trained already."""
    left: tuple[str, ...] = ()
    """Stages of it that the cluster did not take; the next launch submits them."""


class StudyError(Exception):
    """Stages or evaluations failed, or the user stopped the study; `killed` says which."""

    def __init__(self, failures: list[str], killed: bool) -> None:
        super().__init__("; ".join(failures) or "stopped")
        self.failures, self.killed = failures, killed
