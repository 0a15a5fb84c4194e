"""Training rows on disk, and the names of every metric.

A stage appends one row per optimizer step to its `metrics.jsonl`; `workbench.tracking.mlflow` reads
them afterwards. Nothing here uses a tracking server, so nothing here can wait for one.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

STEP = "step"
"""Optimizer steps since the start of the chain, including this row's."""
TOKENS = "tokens"
"""Tokens trained on since the start of the chain."""
TIME = "time"
"""Unix time in seconds at which the step was done."""

TRAIN_LOSS = "train/loss"
"""Mean cross-entropy of the batch in nats per token."""
TRAIN_DIVERGENCE = "train/divergence"
"""Mean KL divergence of the batch from a teacher's distribution to the student's, at the temperature of a distillation,
in nats per token."""
TRAIN_LEARNING_RATE = "train/learning_rate"
TRAIN_GRADIENT_NORM = "train/gradient_norm"
"""Global norm before clipping."""
TRAIN_SKIPPED_UPDATES = "train/skipped_updates"
"""Updates skipped since the start of the chain, for loss or gradient were not finite (`optimizer.non_finite=skip`); what
was not finite is absent from its row."""
TRAIN_TOKENS = "train/tokens"
"""Name of the row's `tokens` in MLflow, whose own axis is the step."""
TRAIN_TOKENS_PER_SECOND = "train/tokens_per_second"
TRAIN_MODEL_FLOPS_UTILISATION = "train/model_flops_utilisation"
"""FLOPs done over the device's peak, between 0 and 1; absent where the peak is unknown."""
TRAIN_MEMORY_BYTES = "train/memory_bytes"
"""Peak of rank 0 since the stage (or its present attempt) began: resident memory, or on a GPU what PyTorch has
allocated; absent where the system cannot tell."""

WALL_CLOCK = (TIME, TRAIN_TOKENS_PER_SECOND, TRAIN_MODEL_FLOPS_UTILISATION, TRAIN_MEMORY_BYTES)
"""Columns in which two runs of equal numerics may differ."""

STDERR_SUFFIX = "_stderr"
"""`<metric>_stderr` is the standard error of `<metric>`."""

_HELDOUT_KINDS = ("last_word", "continuation")


def source_loss(source: str) -> str:
    """Name of the training loss on one source, `train/loss/<source>`."""
    return f"{TRAIN_LOSS}/{source}"


def metric_name(task: str, metric: str) -> str:
    """Name of an lm-eval result in MLflow and in every frame.

    `heldout_prose`, `bits_per_byte,none` gives `heldout/prose/bits_per_byte`;
    `heldout_prose_last_word`, `acc,none` gives `heldout/prose/last_word/acc`;
    `position_prose`, `0064-0127/bits_per_byte,none` gives `position/prose/0064-0127/bits_per_byte`;
    `piqa`, `acc_norm,none` gives `piqa/acc_norm`. A filter other than `none` is kept as a last part, and
    `acc_stderr,none` gives `piqa/acc_stderr`.

    Parameters
    ----------
    task
        lm-eval's task name.
    metric
        Key of lm-eval's results, `<metric>,<filter>` or `<metric>`.
    """
    key, _, metric_filter = metric.partition(",")
    is_error, key = key.endswith(STDERR_SUFFIX), key.removesuffix(STDERR_SUFFIX)
    parts = [task, key]
    if task.startswith("heldout_"):
        source = task.removeprefix("heldout_")
        parts = ["heldout", source, key]
        for kind in _HELDOUT_KINDS:
            if source.endswith(f"_{kind}"):
                parts = ["heldout", source.removesuffix(f"_{kind}"), kind, key]
    if task.startswith("position_") and "/" in key:
        parts = ["position", task.removeprefix("position_"), *key.split("/")]
    if metric_filter not in ("", "none"):
        parts.append(metric_filter)
    if is_error:
        parts[-1] += STDERR_SUFFIX
    return "/".join(re.sub(r"[^A-Za-z0-9_.\- ]", "_", part) for part in parts)


class MetricsWriter:
    """Appends rows to a stage's `metrics.jsonl`, each completely and immediately.

    A row reaches the operating system when `write` returns, so that SIGKILL loses none; `sync` writes it
    to the disk, before a checkpoint that is to count as durable.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab", buffering=0)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; `step`, `tokens` and `time` are required.

        Raises
        ------
        ValueError
            One of the three is missing.
        OSError
            The disk is full or gone.
        """
        missing = [key for key in (STEP, TOKENS, TIME) if key not in row]
        if missing:
            raise ValueError(f"a metrics row lacks {', '.join(missing)}: {row!r}")
        line = (json.dumps(row) + "\n").encode()
        if self._file.write(line) != len(line):
            raise OSError(f"{self.path}: a row was only partly written; is the disk full?")

    def sync(self) -> None:
        """Write all rows to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_rows(stage_dir: Path, upto_step: int | None = None) -> list[dict[str, Any]]:
    """Rows of a stage in order of their steps.

    Parameters
    ----------
    stage_dir
        The stage's directory, holding `metrics.jsonl`; without that file there are no rows.
    upto_step
        Last step to read; None takes every complete row.

    Raises
    ------
    ValueError
        Steps do not increase: the file was not truncated before training continued.
    """
    rows = [row for row, _ in _scan(stage_dir / "metrics.jsonl", upto_step)]
    for before, after in itertools.pairwise(rows):
        if after[STEP] <= before[STEP]:
            raise ValueError(f"{stage_dir / 'metrics.jsonl'}: step {after[STEP]} follows step {before[STEP]}")
    return rows


def truncate_after(path: Path, step: int) -> int | None:
    """Drop every row after `step`, and a row that a killed writer left incomplete.

    Called before training continues from the checkpoint of that step; rows are in order of their steps,
    so this only shortens the file.

    Parameters
    ----------
    path
        A `metrics.jsonl`; it need not exist.
    step
        Last step to keep.

    Returns
    -------
    int or None
        Last remaining step; None without any.
    """
    if not path.exists():
        return None
    last, end = None, 0
    for row, row_end in _scan(path, step):
        last, end = row[STEP], row_end
    with path.open("r+b") as file:
        file.truncate(end)
        os.fsync(file.fileno())
    return last


def _scan(path: Path, upto_step: int | None) -> Iterator[tuple[dict[str, Any], int]]:
    """Complete rows up to a step, each with the byte offset of its end; stops at the first damaged line."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for line in file:
            end += len(line)
            row = _parse(line)
            if row is None or (upto_step is not None and row[STEP] > upto_step):
                return
            yield row, end


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and all(key in row for key in (STEP, TOKENS, TIME)) else None
