"""What Slurm says of each stage of a study, in the words of `workbench status`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from workbench.evaluate.suite import EvaluationError
from workbench.forecast.study_facts import Facts, pending_evaluations
from workbench.launch.slurm import commands as slurm
from workbench.launch.slurm.ledger import Entry, Ledger
from workbench.study.causes import MEMORY, PARENT
from workbench.study.layout import Layout
from workbench.study.stage_states import Scheduled, StageState, stage_states
from workbench.study.study_plan import Node

logger = logging.getLogger(__name__)

_LOG_LINES = 8


def study_states(facts: Facts, ledger: Ledger | None) -> list[StageState]:
    """State of every stage; without a ledger, of the files alone.

    Evaluations that cannot be counted, because a task or its data are not there, are named in a warning.
    """
    unevaluated: dict[str, int] = {}
    try:
        for checkpoint, _ in pending_evaluations(facts):
            stage = checkpoint.parent.parent.name
            unevaluated[stage] = unevaluated.get(stage, 0) + 1
    except EvaluationError as error:
        logger.warning("evaluations are not counted: %s", error)
    scheduled = {} if ledger is None else schedule(facts, ledger)
    return stage_states(facts.plan, facts.layout, facts.existing, unevaluated, scheduled, facts.weights_only)


def schedule(facts: Facts, ledger: Ledger) -> dict[str, Scheduled]:
    """Sum up the jobs of each stage, parents first: a stage cancelled with its parent says so."""
    found: dict[str, Scheduled] = {}
    settled = facts.settled()
    for node in facts.plan.nodes.values():
        evaluations = [e for e in ledger.of("evaluate", node.id) if e.live and e.state is not None]
        evaluation = evaluations[-1].state.id if evaluations and evaluations[-1].state else None
        state, jobs, note, cause = _training(node, ledger.of("train", node.id), settled[node.id], found)
        failed = [e.state.id for e in ledger.of("evaluate", node.id) if e.state and e.state.state in slurm.FAILED]
        found[node.id] = Scheduled(state, jobs, note, evaluation, failed[-1] if failed else None, cause)
    return found


def _training(
    node: Node, entries: list[Entry], settled: set[int], found: Mapping[str, Scheduled]
) -> tuple[str, tuple[str, ...], str | None, str | None]:
    live = [e.state for e in entries if e.live and e.state is not None]
    running = [job for job in live if job.running]
    if running:
        return "running", tuple(job.id for job in running), None, None
    if live:
        return "queued", tuple(job.id for job in live), _waits_for(live[0]), None
    # Of the jobs that ended before their work was done, the first to go wrong is the one that explains.
    ended = [e for e in entries if e.state is not None and not set(e.claim.targets) <= settled]
    for entry in ended:
        if entry.state and entry.state.state in slurm.FAILED:
            cause = MEMORY if entry.state.state == "OUT_OF_MEMORY" else None
            return "failed", (entry.state.id,), f"job {entry.state.id}: {entry.state.state}", cause
    for entry in ended:
        if entry.state and entry.state.state == "CANCELLED":
            parent = _failed_parent(node, found)
            why = _why_cancelled(parent, found, entry.state)
            return "cancelled", (entry.state.id,), why, None if parent is None else PARENT
    return "", (), None, None


def _waits_for(job: slurm.JobState) -> str:
    return {"None": "", "": "", "Dependency": "waits for its parent", "BeginTime": "requeued, begins again soon"}.get(
        job.reason, f"waits: {job.reason}"
    )


def _failed_parent(node: Node, found: Mapping[str, Scheduled]) -> str | None:
    ended = [
        r.stage for r in node.stage.references if r.stage in found and found[r.stage].state in ("failed", "cancelled")
    ]
    return ended[0] if ended else None


def _why_cancelled(parent: str | None, found: Mapping[str, Scheduled], job: slurm.JobState) -> str:
    if parent is not None:
        return f"its parent {parent} {found[parent].state}"
    return f"job {job.id} was cancelled {job.reason}".rstrip()


def log_tail(layout: Layout, stage: str, ledger: Ledger) -> list[str]:
    """Last lines of what a stage's latest job had to say."""
    files = [layout.stage(stage).log]
    for entry in ledger.of("train", stage):
        if entry.claim.job is not None:
            files += sorted(layout.batch(entry.claim.token).glob(f"{entry.claim.job}_*_log.err"))
    lines = [line for path in files if path.exists() for line in _tail(path)]
    return lines[-_LOG_LINES:]


def _tail(path: Path) -> list[str]:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 8192))
        text = file.read().decode(errors="replace")
    return [line for line in text.splitlines() if line.strip()][-_LOG_LINES:]
