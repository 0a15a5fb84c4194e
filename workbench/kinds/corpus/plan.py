"""What the graph asks of a corpus: its node, and how far it is."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.config.schema import Config, CorpusConfig, Stage
from workbench.data.corpus.pipeline import building_folder
from workbench.data.corpus.task_counts import TaskCounts, count_begun
from workbench.data.corpus.task_folder import TaskFolder
from workbench.data.folders import MANIFEST
from workbench.kinds.corpus.spec import Spec
from workbench.study.causes import OTHER, cause_of
from workbench.study.corpus_node import CorpusNode
from workbench.study.layout import Layout
from workbench.study.stage_states import Scheduled, StageState
from workbench.train.attempt_status import read_status

_SILENT_SECONDS = 3600
"""How long another host's process that has no task's claim is believed to divide the input, or to end the corpus."""


def expand(settings: CorpusConfig, config: Config, before: Sequence[Stage], data_fingerprint: str) -> list[Spec]:
    """Make the one node of a point's corpus; it comes before all stages, and reads none."""
    assert settings == config.data.corpus
    return [Spec(fingerprint=data_fingerprint, data=config.data, tokenizer=config.tokenizer)]


def is_made(node: CorpusNode, layout: Layout) -> bool:
    """Whether a corpus's store is there, so that stages may read it."""
    return (layout.data(node.id) / MANIFEST).is_file()


def state(node: CorpusNode, layout: Layout, scheduled: Scheduled) -> StageState:
    """Say how far a corpus is: by its store, the records of its tasks, their claims, and what its last maker wrote of itself.

    Parameters
    ----------
    node, layout
        The corpus.
    scheduled
        The scheduler's answer about the jobs that make it.
    """
    root = building_folder(layout.data(node.id))
    counts = count_begun(root)
    if is_made(node, layout):
        return _finished(node, layout)
    latest = read_status(layout.corpus(node.id)) or {}
    told, note, cause = _told(counts, scheduled, latest, bool(TaskFolder(root).claims.living()))
    log = layout.corpus(node.id).log
    return StageState(
        node.id,
        node.spec.label,
        told,
        tokens=None,
        end_tokens=None,
        note=note,
        jobs=scheduled.jobs if told == scheduled.state else (),
        cause=cause,
        kind=node.spec.kind,
        tasks_done=None if counts is None else counts.done,
        tasks=None if counts is None else counts.tasks,
        log=(scheduled.log if told == scheduled.state else None) or (str(log) if log.exists() else None),
    )


def _finished(node: CorpusNode, layout: Layout) -> StageState:
    # Whether the store is whole is looked at when it is opened.
    sources = json.loads((layout.data(node.id) / MANIFEST).read_text(encoding="utf-8"))["sources"]
    tokens = sum(facts["tokens"] for facts in sources.values())
    return StageState(node.id, node.spec.label, "finished", tokens, None, None, kind=node.spec.kind)


def _told(
    counts: TaskCounts | None, scheduled: Scheduled, latest: Mapping[str, Any], living: bool
) -> tuple[str, str | None, str | None]:
    """State, note and cause of a corpus that is not made."""
    if scheduled.state == "running" or (scheduled.state == "queued" and not living):
        return scheduled.state, _join(_doing(counts), scheduled.note), None
    if living or (latest.get("state") == "running" and _lives(latest)):
        return "running", _doing(counts), None
    error = _last_line(latest.get("error"))
    failed = latest.get("state") == "failed"
    if scheduled.state:
        own = error if failed and error and error not in (scheduled.note or "") else None
        cause = cause_of(latest["error_class"]) if failed else scheduled.cause
        return scheduled.state, _join(scheduled.note, own), cause or OTHER
    if failed:
        return "failed", error, cause_of(latest["error_class"])
    if latest.get("state") == "killed":
        return "killed", error, OTHER
    if latest.get("state") == "running":
        return "killed", "its process died without a message; the same command continues with what is not done", OTHER
    return "planned", None, None


def _doing(counts: TaskCounts | None) -> str | None:
    return None if counts is None else f"{counts.doing}: {counts.done_in_phase:,} of {counts.tasks_in_phase:,} tasks"


def _join(*parts: str | None) -> str | None:
    return "; ".join(part for part in parts if part) or None


def _last_line(error: str | None) -> str | None:
    """Last line of a message, which of a traceback is the error itself."""
    lines = [line for line in (error or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else None


def _lives(latest: Mapping[str, Any]) -> bool:
    """Whether a process that wrote a status is still there: between two tasks it has no claim. Another host's is believed an hour."""
    if latest.get("host") != socket.gethostname():
        return time.time() - latest.get("time", 0) < _SILENT_SECONDS
    try:
        os.kill(latest["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
