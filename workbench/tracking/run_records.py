"""Records of what should stand in MLflow: of a study, its stages, their checkpoints, and these checkpoints' evaluations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class EvaluationRecord:
    """One result file of a checkpoint."""

    suite: str
    """Suite's name."""
    eval_id: str
    """Evaluation id: hash of tasks, versions, limits, held-out data and precision."""
    values: dict[str, float]
    """Metrics and standard errors (`<metric>_stderr`) by name; what was not scored is absent."""
    timestamp_ms: int
    """When it was scored, Unix time in milliseconds."""
    files: tuple[Path, ...]
    """The result and its per-document values."""


@dataclass(frozen=True)
class CheckpointRecord:
    """One milestone checkpoint."""

    step: int
    """Optimizer steps of the chain."""
    params: dict[str, str]
    """Facts of the checkpoint that never change."""
    tags: dict[str, str]
    """Facts that may: its path, the points that go through it."""
    evaluations: tuple[EvaluationRecord, ...]
    """Its valid results."""


@dataclass(frozen=True)
class StageRecord:
    """One stage as one study sees it."""

    id: str
    """Stage id."""
    path: Path
    """Its directory."""
    run_name: str
    """Readable name, with what the study varies."""
    plain_name: str
    """Readable name without it, which runs keep that were published so."""
    params: dict[str, str]
    """Fields of its identity, flattened."""
    tags: dict[str, str]
    """Everything that may change, and where it came from."""
    status: str
    """MLflow's status: RUNNING, FINISHED, FAILED, KILLED, or SCHEDULED before the first attempt."""
    ended_ms: int | None
    """When it ended, Unix time in milliseconds; None while it runs."""
    durable_step: int
    """Step of the last complete checkpoint, -1 without one; rows up to here are final."""
    durable_tokens: int
    """Tokens of that checkpoint, -1 without one."""
    wanted_tokens: frozenset[int]
    """Tokens of the checkpoints that the study asks for, there or not."""
    checkpoints: tuple[CheckpointRecord, ...]
    """Those the study wants evaluated."""
    artifacts: tuple[tuple[Path, str], ...]
    """Files to store with the run, and the artifact folder of each."""


@dataclass(frozen=True)
class StudyRecord:
    """A study and the stages of it that have begun."""

    name: str
    """The study's name."""
    file: Path
    """Its `study.json`."""
    status: str
    """FINISHED when every planned stage is; else the gravest state among them."""
    stages: tuple[StageRecord, ...]
    """Stages with a directory."""
    tags: dict[str, str]
    """What was asked for (commit, how many points and stages, the command where it is recorded), and the points that
    failed."""
    skipped: tuple[str, ...] = field(default=())
    """Result files that could not be read, each with the reason."""
    analysis: str = ""
    """Kind of analysis that it says it is for; empty where it says none."""
