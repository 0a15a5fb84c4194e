"""A study's results straight from the tables of MLflow's database, which its own interface reads a hundred times slower.

The tables are no public contract of MLflow: only those of a version that is known here are read, and whatever else is
found is left to the public interface (`analysis.experiment_store.read_results`), with which the tests compare this.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

DATABASES = ("sqlite", "postgresql")
"""Beginnings of the addresses of databases whose SQL the queries are in; of a server nobody sees the tables."""
SCHEMAS = ("dc11669786a5",)
"""Versions of MLflow's schema (Alembic's) that the queries below have been compared with: that of MLflow 3.17."""
MIXTURE = "stream.mixture"
"""Parameter of a stage's run: weights of its sources."""


class StoredMetric(NamedTuple):
    """One value of a checkpoint, with the fields of MLflow's `Metric` that are read."""

    key: str
    """Name of the metric."""
    value: float
    """Its value; MLflow has the largest number in place of infinity."""
    timestamp: int
    """When it was scored, Unix time in milliseconds."""
    dataset_name: str | None
    """Suite."""
    dataset_digest: str | None
    """Evaluation id."""


@dataclass(frozen=True)
class StoredCheckpoint:
    """One checkpoint, with the fields of MLflow's `LoggedModel` that are read."""

    source_run_id: str
    """Run of the stage that made it."""
    params: dict[str, str] = field(default_factory=dict)
    """Facts that never change."""
    tags: dict[str, str] = field(default_factory=dict)
    """Facts that may."""
    metrics: list[StoredMetric] = field(default_factory=list)
    """Everything that it was scored with."""


@dataclass(frozen=True)
class StoredStudy:
    """What a frame of results is made of."""

    tags: Mapping[str, str]
    """Of the experiment."""
    own_tags: Mapping[str, str]
    """Of the study's own run; empty where there is none."""
    mixtures: Mapping[str, str | None]
    """Weights of the sources by run, of the stages of the latest plan."""
    checkpoints: list[StoredCheckpoint]
    """Those that these runs made, the latest logged first."""


def read_tables(name: str, uri: str) -> StoredStudy | None:
    """Read one study; None where `uri` is no database of a known version, or has no such study.

    Parameters
    ----------
    name
        The study.
    uri
        MLflow tracking URI.
    """
    # With workspaces, which experiment a name means is MLflow's to say.
    if not uri.startswith(DATABASES) or os.environ.get("MLFLOW_ENABLE_WORKSPACES"):
        return None
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = create_engine(uri)
        try:
            with engine.connect() as connection:
                return _read(connection, name)
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError):  # MLflow itself says what is wrong
        return None


def _read(connection: Connection, name: str) -> StoredStudy | None:
    versions = _rows(connection, "select version_num from alembic_version")
    if [tuple(row) for row in versions] not in [[(schema,)] for schema in SCHEMAS]:
        return None
    found = _rows(connection, "select experiment_id from experiments where name = :name", name=name)
    if len(found) != 1:
        return None
    experiment = found[0][0]
    tags = _rows(connection, 'select "key", value from experiment_tags where experiment_id = :id', id=experiment)
    kinds = _run_tags(connection, experiment, "kind")
    # As MLflow sorts them: the latest first.
    own = next((run for run, kind in kinds.items() if kind == "study"), None)
    dropped = {run for run, planned in _run_tags(connection, experiment, "planned").items() if planned == "false"}
    mixtures = _rows(
        connection,
        'select run_uuid, value from params where "key" = :key and run_uuid in '
        "(select run_uuid from runs where experiment_id = :id and lifecycle_stage = 'active')",
        key=MIXTURE,
        id=experiment,
    )
    by_run: dict[str, str] = dict(mixtures)
    stages = {run: by_run.get(run) for run, kind in kinds.items() if kind == "stage" and run not in dropped}
    return StoredStudy(
        tags=dict(tags),
        own_tags={} if own is None else _tags_of(connection, own),
        mixtures=stages,
        checkpoints=[c for c in _checkpoints(connection, experiment, stages) if c.tags.get("kind") == "checkpoint"],
    )


def _run_tags(connection: Connection, experiment: int, key: str) -> dict[str, str]:
    """One tag by the runs of an experiment, the latest run first."""
    query = (
        "select runs.run_uuid, tags.value from runs join tags on tags.run_uuid = runs.run_uuid "
        "where runs.experiment_id = :id and runs.lifecycle_stage = 'active' and tags.\"key\" = :key "
        "order by runs.start_time desc, runs.run_uuid"
    )
    return dict(_rows(connection, query, id=experiment, key=key))


def _tags_of(connection: Connection, run: str) -> dict[str, str]:
    return dict(_rows(connection, 'select "key", value from tags where run_uuid = :run', run=run))


def _checkpoints(connection: Connection, experiment: int, runs: Iterable[str]) -> list[StoredCheckpoint]:
    """Read the logged models of some runs, in MLflow's order."""
    mine = "from logged_models where experiment_id = :id and lifecycle_stage <> 'deleted'"
    order = "order by creation_timestamp_ms desc, model_id"
    known = set(runs)
    found = {
        model: StoredCheckpoint(run)
        for model, run in _rows(connection, f"select model_id, source_run_id {mine} {order}", id=experiment)
        if run in known
    }
    those = f"where model_id in (select model_id {mine})"
    for table, name in (("params", "param"), ("tags", "tag")):
        query = f"select model_id, {name}_key, {name}_value from logged_model_{table} {those}"
        for model, key, value in _rows(connection, query, id=experiment):
            if model in found:
                getattr(found[model], table)[key] = value
    columns = "metric_name, metric_value, metric_timestamp_ms, dataset_name, dataset_digest"
    query = f"select model_id, {columns} from logged_model_metrics {those}"
    for model, *values in _rows(connection, query, id=experiment):
        if model in found:
            found[model].metrics.append(StoredMetric(*values))
    return list(found.values())


def _rows(connection: Connection, query: str, **values: Any) -> list[Any]:
    from sqlalchemy import text

    return list(connection.execute(text(query), values).all())
