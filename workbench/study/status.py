"""State of each stage of a plan, from its files and from what a scheduler says of its jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from workbench.study.files import is_held
from workbench.study.layout import Layout, StageDir
from workbench.study.plan import Node, Plan, tokens_to_train

_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Scheduled:
    """What a scheduler says of one stage's jobs."""

    state: str = ""
    """queued, running, failed or cancelled; empty where it says nothing of its training."""
    jobs: tuple[str, ...] = ()
    """Ids of the jobs that `state` is about."""
    note: str | None = None
    """Why."""
    evaluation: str | None = None
    """Id of a live evaluation job."""
    failed_evaluation: str | None = None
    """Id of the latest evaluation job, where it failed."""


@dataclass(frozen=True)
class StageState:
    """One line of `workbench status`."""

    stage: str
    """Id."""
    label: str
    """Model and phase."""
    state: str
    """planned, queued, running, evaluating, finished, trained (evaluations are missing), failed, cancelled or
    killed."""
    tokens: int | None
    """Tokens of the latest checkpoint; None without one."""
    end_tokens: int
    """Target of this plan."""
    note: str | None
    """What went wrong, what is waited for, or what is missing."""
    jobs: tuple[str, ...] = ()
    """Slurm's ids."""
    step: int | None = None
    """running: optimizer steps of the chain so far."""
    tokens_per_second: float | None = None
    """running: of the last step."""
    seconds_left: float | None = None
    """running: until this plan's target, at that speed."""


def stage_states(
    plan: Plan,
    layout: Layout,
    existing: Mapping[str, Set[int]],
    unevaluated: Mapping[str, int] | None = None,
    scheduled: Mapping[str, Scheduled] | None = None,
) -> list[StageState]:
    """State of every stage.

    Parameters
    ----------
    plan, layout
        The study.
    existing
        Tokens of the checkpoints each stage has.
    unevaluated
        By stage: evaluations that its checkpoints lack.
    scheduled
        By stage: what a scheduler says, where one was asked.
    """
    missing, jobs = unevaluated or {}, scheduled or {}
    return [
        _state(node, layout.stage(node.id), existing[node.id], missing.get(node.id, 0), jobs.get(node.id, Scheduled()))
        for node in plan.nodes.values()
    ]


def _state(node: Node, directory: StageDir, existing: Set[int], unevaluated: int, scheduled: Scheduled) -> StageState:
    done = tokens_to_train(node, existing) == 0
    if done:
        state, note = _trained(unevaluated, scheduled)
        jobs = (scheduled.evaluation,) if state == "evaluating" and scheduled.evaluation else ()
    elif scheduled.state:
        state, note, jobs = scheduled.state, scheduled.note, scheduled.jobs
    else:
        state, note = _from_files(directory)
        jobs = ()
    label = f"{node.stage.model.name} {node.stage.name}"
    latest = max(existing, default=None)
    progress = _progress(node, directory) if state == "running" else {}
    return StageState(node.id, label, state, latest, node.stage.end_tokens, note, jobs, **progress)


def _trained(unevaluated: int, scheduled: Scheduled) -> tuple[str, str | None]:
    if not unevaluated:
        return "finished", None
    if scheduled.evaluation:
        return "evaluating", f"{unevaluated} evaluations to go"
    note = f"{unevaluated} evaluations missing; `workbench evaluate` does them"
    failed = scheduled.failed_evaluation
    return "trained", note if failed is None else f"{note}; job {failed} failed"


def _from_files(directory: StageDir) -> tuple[str, str | None]:
    """State of a stage that no scheduler has: as its latest attempt wrote it."""
    latest: dict[str, Any] = json.loads(directory.status.read_text()) if directory.status.exists() else {}
    state = latest.get("state", "planned")
    if state == "finished":
        return "planned", None  # for an earlier, shorter target
    if state == "running" and not is_held(directory.lock):
        return "killed", "its process died without a word; the same command goes on from the last checkpoint"
    return state, latest.get("error")


def _progress(node: Node, directory: StageDir) -> dict[str, Any]:
    """Read step, speed and time left from the last whole row."""
    try:
        with directory.metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            row = json.loads(file.read().split(b"\n")[-2])
        rate, left = row["train/tokens_per_second"], node.stage.end_tokens - row["tokens"]
    except (OSError, ValueError, IndexError, KeyError):
        return {}
    return {"step": row["step"], "tokens_per_second": rate, "seconds_left": max(0.0, left / rate)}
