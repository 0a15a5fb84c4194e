"""State of each stage of a plan, from its files and from a scheduler's answers about its jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from workbench.config.kind_registry import find_kind
from workbench.study.causes import OTHER, PARENT, cause_of, is_repeatable
from workbench.study.files import is_held
from workbench.study.layout import Layout, StageDir
from workbench.study.study_plan import Node, Plan, missing_targets

_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Scheduled:
    """A scheduler's answer about one stage's jobs."""

    state: str = ""
    """queued, running, failed or cancelled; empty where it knows nothing about the training."""
    jobs: tuple[str, ...] = ()
    """Ids of the jobs that `state` is about."""
    note: str | None = None
    """Why."""
    evaluation: str | None = None
    """Id of a live evaluation job."""
    failed_evaluation: str | None = None
    """Id of the latest evaluation job, where it failed."""
    cause: str | None = None
    """failed, cancelled: a cause of `workbench.study.causes`, where the scheduler knows it."""
    log: str | None = None
    """Log of the job that `state` is about, where it is not the stage's own."""


@dataclass(frozen=True)
class StageState:
    """One line of `workbench status`: of a stage, or of a corpus that stages read."""

    stage: str
    """Id; a corpus's fingerprint."""
    label: str
    """Model and phase; a corpus's name."""
    state: str
    """planned, queued, running, evaluating, finished, trained (evaluations are missing), failed, cancelled or
    killed."""
    tokens: int | None
    """Tokens of the latest checkpoint, or of a finished corpus; None without one."""
    end_tokens: int | None
    """Target of this plan; None of a corpus, whose tokens nobody knows before they are there."""
    note: str | None
    """What went wrong, what it is waiting for, or what is missing."""
    jobs: tuple[str, ...] = ()
    """Slurm's ids."""
    step: int | None = None
    """running: optimizer steps of the chain so far."""
    tokens_per_second: float | None = None
    """running: of the last step."""
    seconds_left: float | None = None
    """running: until this plan's target, at that speed."""
    cause: str | None = None
    """failed, cancelled, planned: why, as a cause of `workbench.study.causes`; None where nothing went wrong."""
    kind: str = "pretrain"
    """Name of the kind."""
    tasks_done: int | None = None
    """corpus: tasks that are done; None where it was not begun."""
    tasks: int | None = None
    """corpus: all of its tasks; None where it was not begun."""
    log: str | None = None
    """corpus: where to read what happened."""


def stage_states(
    plan: Plan,
    layout: Layout,
    existing: Mapping[str, Set[int]],
    unevaluated: Mapping[str, int] | None = None,
    scheduled: Mapping[str, Scheduled] | None = None,
    weights_only: Mapping[str, Set[int]] | None = None,
) -> list[StageState]:
    """State of every corpus, and then of every stage.

    Parameters
    ----------
    plan, layout
        The study.
    existing
        Tokens of the checkpoints each stage has.
    unevaluated
        By stage: evaluations that its checkpoints lack.
    scheduled
        By stage and corpus: the scheduler's answer, if one was asked.
    weights_only
        Tokens of the checkpoints without the optimizer's state.
    """
    missing, jobs, bare = unevaluated or {}, scheduled or {}, weights_only or {}
    found: dict[str, StageState] = {
        corpus.id: find_kind(corpus.spec.kind).plan.state(corpus, layout, jobs.get(corpus.id, Scheduled()))
        for corpus in plan.corpora.values()
    }
    for node in plan.nodes.values():
        stage = layout.stage(node.id)
        job = jobs.get(node.id, Scheduled())
        left = missing_targets(node, existing[node.id], bare.get(node.id, frozenset()))
        state = _state(node, stage, existing[node.id], left, missing.get(node.id, 0), job)
        found[node.id] = _behind_its_parent(node, state, found)
    return list(found.values())


def is_worth_repeating(state: StageState) -> bool:
    """Whether launching again may bring a stage further: it ended early, and not for a reason that remains."""
    ended = state.state in ("failed", "cancelled", "killed")
    return ended and state.cause != PARENT and not is_repeatable(state.cause)


def _behind_its_parent(node: Node, state: StageState, found: Mapping[str, StageState]) -> StageState:
    """Say of a stage that was not begun that its corpus or its parent failed, or that its corpus is not made yet."""
    if state.state != "planned":
        return state
    corpus = found.get(node.stage.data_fingerprint)
    if corpus is not None and corpus.cause is not None:
        return replace(state, note=f"its corpus {corpus.stage} {_ended(corpus)}", cause=PARENT)
    for reference in node.stage.references:
        parent = found.get(reference.stage)
        if parent is None or parent.cause is None or (parent.tokens is not None and parent.tokens >= reference.tokens):
            continue
        what = "parent" if reference == node.stage.parent else "input"
        return replace(state, note=f"its {what} {parent.stage} {_ended(parent)}", cause=PARENT)
    if corpus is not None and corpus.state in ("queued", "running"):
        return replace(state, note=f"its corpus {corpus.stage} is being made")
    return state


def _ended(state: StageState) -> str:
    return "failed" if state.state == "failed" else f"is {state.state}"


def _state(
    node: Node, directory: StageDir, existing: Set[int], missing: list[int], unevaluated: int, scheduled: Scheduled
) -> StageState:
    latest = _latest(directory)
    jobs: tuple[str, ...] = ()
    cause: str | None = None
    if not missing:
        state, note = _trained(unevaluated, scheduled, latest.get("evaluation_error"))
        jobs = (scheduled.evaluation,) if state == "evaluating" and scheduled.evaluation else ()
    elif scheduled.state:
        state, jobs = scheduled.state, scheduled.jobs
        note, cause = _with_error(scheduled, latest)
    else:
        state, note, cause = _from_files(directory, latest)
    label = node.stage.label
    progress = _progress(node, directory) if state == "running" else {}
    tokens = max(existing, default=None)
    kind = node.stage.kind
    return StageState(
        node.id, label, state, tokens, node.stage.end_tokens, note, jobs, cause=cause, kind=kind, **progress
    )


def _latest(directory: StageDir) -> dict[str, Any]:
    """Read what the latest attempt wrote of itself; empty where there was none."""
    return json.loads(directory.status.read_text(encoding="utf-8")) if directory.status.exists() else {}


def _trained(unevaluated: int, scheduled: Scheduled, error: str | None) -> tuple[str, str | None]:
    if not unevaluated:
        return "finished", None
    if scheduled.evaluation:
        return "evaluating", f"{unevaluated} evaluations to go"
    note = f"{unevaluated} evaluations missing; `workbench evaluate` does them"
    if scheduled.failed_evaluation is not None:
        note = f"{note}; job {scheduled.failed_evaluation} failed"
    return "trained", note if error is None else f"{note}; the last attempt: {error}"


def _with_error(scheduled: Scheduled, latest: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Note and cause of a scheduler's state: where it says no more than that a job failed, the stage's own error."""
    if scheduled.state != "failed" or scheduled.cause is not None or latest.get("state") != "failed":
        return scheduled.note, scheduled.cause or (OTHER if scheduled.state == "failed" else None)
    note = "; ".join(part for part in (scheduled.note, latest.get("error")) if part)
    return note, cause_of(latest.get("error_class"))


def _from_files(directory: StageDir, latest: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """State of a stage without a scheduler: as its latest attempt wrote it."""
    state = latest.get("state", "planned")
    if state == "finished":
        return "planned", None, None  # for an earlier, shorter target
    if state == "running" and not is_held(directory.lock):
        return "killed", "its process died without a message; the same command continues from the last checkpoint", None
    return state, latest.get("error"), cause_of(latest.get("error_class")) if state == "failed" else None


def _progress(node: Node, directory: StageDir) -> dict[str, Any]:
    """Read step, speed and time left from the last complete row."""
    try:
        with directory.metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            row = json.loads(file.read().split(b"\n")[-2])
        rate, left = row["train/tokens_per_second"], node.stage.end_tokens - row["tokens"]
    except (OSError, ValueError, IndexError, KeyError):
        return {}
    return {"step": row["step"], "tokens_per_second": rate, "seconds_left": max(0.0, left / rate)}
