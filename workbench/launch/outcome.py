"""How a launch ended: for the study, for each point of it, and in words."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.study.causes import PARENT, advise
from workbench.study.study_plan import Point


@dataclass(frozen=True)
class Failure:
    """A corpus that was not made, a stage that was not trained, or a checkpoint that was not scored."""

    kind: str
    """`prepare`, `train` or `evaluate`."""
    stage: str
    """Id of the stage, or of the corpus."""
    label: str
    """Its model and phase, or the corpus's name."""
    error: str
    """What went wrong, in one line that begins with the error's class."""
    cause: str
    """A cause of `workbench.study.causes`; `parent` where the stage was not begun because its parent failed."""
    tokens: int | None = None
    """`evaluate`: of the checkpoint; None where all of the stage are concerned."""

    def __str__(self) -> str:
        where = "" if self.tokens is None else f" at {self.tokens:,} tokens"
        return f"{self.kind} {self.label} {self.stage}{where}: {self.error}"


@dataclass
class Outcome:
    """What a run of a study did."""

    failures: list[Failure] = field(default_factory=list[Failure])
    """Stages and evaluations that failed."""
    killed: bool = False
    """Whether the user stopped it."""
    trained: list[str] = field(default_factory=list[str])
    """Ids of the stages that were trained."""
    evaluated: int = 0
    """Evaluations that were done."""
    incomplete: list[str] = field(default_factory=list[str])
    """Names of the points that lack their last checkpoint or a score."""


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


class PointError(Exception):
    """One point has no result, or an incomplete one: why, and how the launch ended as a whole."""

    def __init__(self, point: str, reason: str, outcome: Outcome) -> None:
        super().__init__(f"point {point}: {reason}")
        self.point, self.reason, self.outcome = point, reason, outcome


def point_error(point: Point, outcome: Outcome, *, trained: bool) -> PointError | None:
    """Say what went wrong on one point's way, and nothing of what went wrong elsewhere.

    Parameters
    ----------
    point, outcome
        The point, and how the launch ended.
    trained
        Whether its last checkpoint is there. A trunk may fail beyond the place where a point branches off.
    """
    reason = _why_unscored(point, outcome) if trained else _why_untrained(point, outcome)
    return None if reason is None else PointError(point.name, reason, outcome)


def _why_untrained(point: Point, outcome: Outcome) -> str:
    chain = [stage for stage, _ in point.chain]
    corpus = next((f for f in outcome.failures if f.kind == "prepare" and f.stage == point.data_fingerprint), None)
    if corpus is not None:
        return f"its {corpus.label} {corpus.stage} failed: {corpus.error}"
    found = {f.stage: f for f in outcome.failures if f.kind == "train" and f.cause != PARENT}
    first = next((found[stage] for stage in chain if stage in found), None)
    if first is None:
        return "stopped before its last checkpoint"
    if first.stage == chain[-1]:
        return str(first)
    return f"its parent stage {first.label} {first.stage} failed: {first.error}"


def _why_unscored(point: Point, outcome: Outcome) -> str | None:
    """Give the first evaluation that failed on a point's way, its own last stage before those it shares."""
    failed = [failure for failure in outcome.failures if failure.kind == "evaluate"]
    for stage, reached in reversed(point.chain):
        for failure in failed:
            if failure.stage == stage and (failure.tokens or 0) <= reached:
                return str(failure)
    return None


def describe_outcome(outcome: Outcome, points: int) -> list[str]:
    """Lines for the end of a run of so many points: each failure, the points that are not complete, and what to do."""
    lines = [str(failure) for failure in outcome.failures]
    if outcome.incomplete:
        lines.append(f"{len(outcome.incomplete)} of {points} points are not complete: {'; '.join(outcome.incomplete)}")
    lines += advise((f"{failure.label} {failure.stage}", failure.cause) for failure in outcome.failures)
    if outcome.killed:
        lines.append("stopped; the same command continues from the last checkpoints")
    return lines
