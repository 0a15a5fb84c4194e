"""All training rows of a stage, from the outputs folder that published it: MLflow has a thousand or so of a long stage.

The folder is where the experiment says that it lay last, or beside the SQLite file; its `outputs.id` tells whether it is
the one. A stage that is finished has its rows in `metrics.parquet`, which is read where it fits `metrics.jsonl`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

OUTPUTS_TAG, OWNER_TAG = "workbench.outputs", "workbench.owner"
"""Tags of an experiment: id of the outputs folder that publishes into it, and where that lay last (`user@host:path`)."""
SOURCE_BYTES = b"workbench.metrics_bytes"
"""Key of the Parquet file's metadata: size of the `metrics.jsonl` that it was made of."""
TOKENS = "train/tokens"
"""MLflow's name of a row's tokens."""


def find_outputs(tags: Mapping[str, str], uri: str) -> Path | None:
    """Find the outputs folder that an experiment is of; None where it cannot be seen from here.

    Parameters
    ----------
    tags
        Of the experiment.
    uri
        Tracking URI of its store.
    """
    candidates = [Path(tags[OWNER_TAG].partition(":")[2])] if OWNER_TAG in tags else []
    if uri.startswith("sqlite"):
        from sqlalchemy.engine import make_url

        candidates += [Path(make_url(uri).database or "").parent]
    for folder in candidates:
        try:
            identity = (folder / "outputs.id").read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if identity and identity == tags.get(OUTPUTS_TAG):
            return folder
    return None


def read_stage_rows(outputs: Path, stage: str, metrics: Sequence[str]) -> pd.DataFrame | None:
    """Read the rows of one stage up to its last complete checkpoint; None where its files are not there.

    Parameters
    ----------
    outputs
        Outputs folder.
    stage
        The stage's id.
    metrics
        Names of the metrics wanted.

    Returns
    -------
    DataFrame or None
        Columns step, tokens, time (Unix seconds, to the millisecond) and the metrics, NaN where a row has none.
    """
    folder = outputs / "stages" / stage
    last = _last_step(folder)
    if last is None:
        return None
    rows = _read_table(folder, metrics)
    if rows is None:
        rows = _read_lines(folder / "metrics.jsonl", metrics)
    if rows is None:
        return None
    rows = rows[rows["step"] <= last].reset_index(drop=True)
    milliseconds = [int(seconds * 1000) for seconds in rows["time"]]
    return rows.assign(time=[value / 1000 for value in milliseconds])


def _read_table(folder: Path, metrics: Sequence[str]) -> pd.DataFrame | None:
    """Rows of a `metrics.parquet` that is there, whole and of the present `metrics.jsonl`."""
    path, source = folder / "metrics.parquet", folder / "metrics.jsonl"
    if not path.exists():
        return None
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            size = int((file.schema_arrow.metadata or {})[SOURCE_BYTES])
            if source.exists() and source.stat().st_size != size:
                return None
            there = [name for name in ("step", "tokens", "time", *metrics) if name in file.schema_arrow.names]
            table = file.read(list(dict.fromkeys(there)))
    except (OSError, KeyError, ValueError, pyarrow.ArrowException):
        return None
    columns = {name: table[name].to_pylist() for name in table.column_names}
    return _frame(columns, metrics)


def _read_lines(path: Path, metrics: Sequence[str]) -> pd.DataFrame | None:
    """Complete rows of a `metrics.jsonl`, up to the first damaged one; None where it is not there."""
    rows: list[dict[str, Any]] = []
    try:
        with path.open("rb") as file:
            for line in file:
                row = _parse(line)
                if row is None:
                    break
                rows.append(row)
    except OSError:
        return None
    return _frame({name: [row.get(name) for row in rows] for name in ("step", "tokens", "time", *metrics)}, metrics)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) and all(key in row for key in ("step", "tokens", "time")) else None


def _frame(columns: Mapping[str, list[Any]], metrics: Sequence[str]) -> pd.DataFrame:
    found: dict[str, Any] = {name: columns[name] for name in ("step", "tokens", "time")}
    missing = [None] * len(found["step"])
    for metric in metrics:
        values = found["tokens"] if metric == TOKENS else columns.get(metric, missing)
        found[metric] = [float(v) if isinstance(v, int | float) else math.nan for v in values]
    return pd.DataFrame(found)


def _last_step(folder: Path) -> int | None:
    """Step of the last complete checkpoint: later rows are not final; None where there is none."""
    found = [path.parent.name.removeprefix("step_") for path in folder.glob("checkpoints/step_*/manifest.json")]
    return max((int(step) for step in found if step.isdecimal()), default=None)
