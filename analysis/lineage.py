"""From a mark on a figure back to what made it: run, stage, config, commit, data, checkpoint, evaluation.

Every saved figure has `<name>.lineage.json` beside it:

    {"figure": "token_scaling",
     "marks": {"p0": {"panel": ..., "role": ..., "x": ..., "y": ...,
                      "sources": [{"study": ..., "run_id": ..., "stage": ..., "config": ..., ...}]}}}

A mark is what a reader points at; its sources are the rows of the frame it was drawn from: one for a measured
point, several for a mean over seeds, a fitted optimum or an effect. What is not known is null.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Source:
    """One row of a frame behind a mark, with the location of everything that produced it."""

    study: str | None
    """Study, which is the MLflow experiment's name."""
    point: str | None
    """Sweep points whose chain goes through the checkpoint."""
    run_id: str | None
    """MLflow run of the stage; a reference run has one too."""
    stage: str | None
    """Stage id: a hash of what changes the weights."""
    config: str | None
    """The frozen config on disk, `<outputs>/stages/<id>/stage.yaml`."""
    config_artifact: str | None
    """The same config in MLflow, `runs:/<run>/stage.yaml`."""
    commit: str | None
    """Git commit that trained it; the run's artifact `code/` has the diff beside it."""
    data_fingerprint: str | None
    """Fingerprint of the prepared data."""
    data: str | None
    """Folder of that data, `<outputs>/data/<fingerprint>`."""
    checkpoint: str | None
    """Folder of the checkpoint."""
    evaluation: str | None
    """Evaluation id: a hash of tasks, versions, limits, held-out data and precision."""
    metric: str | None
    """Metric's name."""
    value: float | None
    """The measured value."""


@dataclass(frozen=True)
class Mark:
    """One mark of a figure."""

    name: str
    """Its id in the figure, the same in the SVG, the CSV and the lineage file."""
    panel: str
    """Its panel."""
    role: str
    """What it is: cooled_down, milestone, fitted, held_out, optimum, effect, ..."""
    x: float | None
    """Its position, in the axis' unit."""
    y: float | None
    """Likewise."""
    sources: tuple[Source, ...]
    """The rows it was drawn from."""


def marks_of(points: pd.DataFrame) -> dict[str, Mark]:
    """Gather the plotted points by mark.

    Parameters
    ----------
    points
        As a figure function returns it: columns mark, panel, role, x, y and those of the tidy frame, one row
        per source.

    Returns
    -------
    dict
        Marks by id, in the order drawn.
    """
    marks: dict[str, Mark] = {}
    for row in points.to_dict("records"):
        name = str(row["mark"])
        known = marks[name].sources if name in marks else ()
        place = {axis: _plain(row[axis]) for axis in ("x", "y")}
        marks[name] = Mark(name, str(row["panel"]), str(row["role"]), **place, sources=(*known, source_of(row)))
    return marks


def source_of(row: dict[Any, Any]) -> Source:
    """Trace where one row of a frame comes from; columns that the frame lacks are None.

    Paths follow the outputs' layout, `<outputs>/stages/<id>/checkpoints/<step>`; a checkpoint elsewhere has no
    config and no data folder on disk.
    """
    facts = {name: _text(row.get(name)) for name in _COPIED}
    config = data = None
    checkpoint = Path(facts["checkpoint"] or "")
    if len(checkpoint.parts) >= 5 and checkpoint.parts[-4:-1] == ("stages", str(facts["stage"]), "checkpoints"):
        config = str(checkpoint.parents[1] / "stage.yaml")
        fingerprint = facts["data_fingerprint"]
        data = str(checkpoint.parents[3] / "data" / fingerprint) if fingerprint else None
    return Source(
        **facts,
        config=config,
        config_artifact=f"runs:/{facts['run_id']}/stage.yaml" if config and facts["run_id"] else None,
        data=data,
        evaluation=_text(row.get("eval_id")),
        value=_plain(row.get("value")),
    )


def write_lineage(points: pd.DataFrame, path: Path) -> Path:
    """Write a figure's lineage file and return its path."""
    marks = {name: dataclasses.asdict(mark) for name, mark in marks_of(points).items()}
    body = {"figure": path.name.removesuffix(".lineage.json"), "marks": marks}
    path.write_text(json.dumps(body, indent=1), encoding="utf-8")
    return path


def read_lineage(path: Path) -> dict[str, Mark]:
    """Read what `write_lineage` wrote, marks by id.

    Raises
    ------
    ValueError
        The file is not a lineage file.
    """
    try:
        marks: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["marks"]
        return {name: _mark(values) for name, values in marks.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a figure's lineage file: {error!r}") from error


def source_table(marks: Sequence[Mark]) -> pd.DataFrame:
    """Arrange the sources of marks as a table, one row per mark and source."""
    rows = [
        {"mark": mark.name, "panel": mark.panel, "role": mark.role, "x": mark.x, "y": mark.y}
        | dataclasses.asdict(source)
        for mark in marks
        for source in mark.sources
    ]
    return pd.DataFrame(rows)


_COPIED = ("study", "point", "run_id", "stage", "commit", "data_fingerprint", "checkpoint", "metric")


def _mark(values: dict[str, Any]) -> Mark:
    sources = tuple(Source(**source) for source in values["sources"])
    return Mark(values["name"], values["panel"], values["role"], values["x"], values["y"], sources)


def _text(value: Any) -> str | None:
    return None if value is None or pd.isna(value) or value == "" else str(value)


def _plain(value: Any) -> float | None:
    """Return a number that JSON can hold; NaN and infinity become None."""
    if value is None or pd.isna(value):
        return None
    return float(value) if not math.isinf(float(value)) else None
