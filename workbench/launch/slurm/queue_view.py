"""What Slurm says of each stage of a study, in the words of `workbench status`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from workbench.evaluate.suite import EvaluationError
from workbench.forecast.study_facts import Facts, pending_evaluations, unmade_corpora
from workbench.launch.slurm import commands as slurm
from workbench.launch.slurm.ledger import Entry, Ledger
from workbench.study.causes import MEMORY, PARENT
from workbench.study.layout import Layout
from workbench.study.stage_states import Scheduled, StageState, stage_states
from workbench.study.study_plan import Node

logger = logging.getLogger(__name__)

_LOG_LINES = 8
_LINE_CHARACTERS = 300


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
    """Sum up the jobs of each corpus and stage, parents first: a stage cancelled with its parent says so."""
    found = {i: _making(facts.layout, ledger.making(i)) for i in unmade_corpora(facts)}
    settled = facts.settled()
    for node in facts.plan.nodes.values():
        evaluations = [e for e in ledger.of("evaluate", node.id) if e.live and e.state is not None]
        evaluation = evaluations[-1].state.id if evaluations and evaluations[-1].state else None
        state, jobs, note, cause = _training(node, ledger.of("train", node.id), settled[node.id], found)
        failed = [e.state.id for e in ledger.of("evaluate", node.id) if e.state and e.state.state in slurm.FAILED]
        found[node.id] = Scheduled(state, jobs, note, evaluation, failed[-1] if failed else None, cause)
    return found


def _making(layout: Layout, entries: list[Entry]) -> Scheduled:
    """Sum up the jobs of a corpus, each of which does as much of it as the others leave."""
    live = [e.state for e in entries if e.live and e.state is not None]
    running = [job for job in live if job.running]
    if live:
        jobs = tuple(job.id for job in (*running, *(job for job in live if not job.running)))
        waiting = "" if running else _waits_for(live[0])
        note = "; ".join(
            part for part in (f"{len(running)} jobs running, {len(live) - len(running)} queued", waiting) if part
        )
        return Scheduled("running" if running else "queued", jobs, note)
    for entry in reversed(entries):
        if entry.state is not None and entry.state.state in slurm.FAILED:
            said = last_line(layout, entry)
            note = f"job {entry.state.id}: {entry.state.state}" + (f", {said}" if said else "")
            log = next(iter(_logs(layout, entry)), None)
            return Scheduled("failed", (entry.state.id,), note, log=None if log is None else str(log))
    for entry in reversed(entries):
        if entry.state is not None and entry.state.state == "CANCELLED":
            return Scheduled("cancelled", (entry.state.id,), _was_cancelled(entry.state))
    return Scheduled()


def _training(
    node: Node, entries: list[Entry], settled: set[int], found: Mapping[str, Scheduled]
) -> tuple[str, tuple[str, ...], str | None, str | None]:
    live = [e.state for e in entries if e.live and e.state is not None]
    running = [job for job in live if job.running]
    if running:
        return "running", tuple(job.id for job in running), None, None
    if live:
        corpus = found.get(node.stage.data_fingerprint, Scheduled())
        for_corpus = live[0].reason == "Dependency" and corpus.state in ("queued", "running")
        note = f"waits for its corpus {node.stage.data_fingerprint}" if for_corpus else _waits_for(live[0])
        return "queued", tuple(job.id for job in live), note, None
    # Of the jobs that ended before their work was done, the first to go wrong is the one that explains.
    ended = [e for e in entries if e.state is not None and not set(e.claim.targets) <= settled]
    for entry in ended:
        if entry.state and entry.state.state in slurm.FAILED:
            cause = MEMORY if entry.state.state == "OUT_OF_MEMORY" else None
            return "failed", (entry.state.id,), f"job {entry.state.id}: {entry.state.state}", cause
    for entry in ended:
        if entry.state and entry.state.state == "CANCELLED":
            parent = _failed_parent(node, found)
            why = _why_cancelled(node, parent, found, entry.state)
            return "cancelled", (entry.state.id,), why, None if parent is None else PARENT
    return "", (), None, None


def _waits_for(job: slurm.JobState) -> str:
    return {"None": "", "": "", "Dependency": "waits for its parent", "BeginTime": "requeued, begins again soon"}.get(
        job.reason, f"waits: {job.reason}"
    )


def _failed_parent(node: Node, found: Mapping[str, Scheduled]) -> str | None:
    """Id of a corpus or stage that a stage reads, and whose jobs did not do it."""
    read = [node.stage.data_fingerprint, *(reference.stage for reference in node.stage.references)]
    ended = [i for i in read if i in found and found[i].state in ("failed", "cancelled")]
    return ended[0] if ended else None


def _why_cancelled(node: Node, parent: str | None, found: Mapping[str, Scheduled], job: slurm.JobState) -> str:
    if parent is not None:
        what = "corpus" if parent == node.stage.data_fingerprint else "parent"
        return f"its {what} {parent} {found[parent].state}"
    return _was_cancelled(job)


def _was_cancelled(job: slurm.JobState) -> str:
    """Say that a job was cancelled, and by whom where the accounting tells; the queue tells what it had been waiting for."""
    return f"job {job.id} was cancelled" + (f" {job.reason}" if job.reason.startswith("by ") else "")


def last_line(layout: Layout, entry: Entry) -> str:
    """Last thing that a job had to say; empty where it said nothing."""
    for path in _logs(layout, entry):
        lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        if lines:
            return lines[-1][:_LINE_CHARACTERS]
    return ""


def _logs(layout: Layout, entry: Entry) -> list[Path]:
    return sorted(layout.batch(entry.claim.token).glob(f"{entry.claim.job}_*_log.out"))


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
