"""A study's experiment in MLflow, through MLflow's public interface: its runs, its checkpoints, and their results.

The results of a whole study are read from the database's tables where that is possible (`analysis.study_tables`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.study_tables import MIXTURE, StoredCheckpoint, StoredMetric, StoredStudy, read_tables

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

STDERR_SUFFIX = "_stderr"
LARGEST_STORED = 1.7976931348623157e308
"""MLflow's stand-in for infinity."""


def find_database(start: Path | None = None) -> Path:
    """`outputs/mlflow.db` or `mlflow.db` in a folder or the nearest folder above it.

    Parameters
    ----------
    start
        Where to begin; None is the working directory.

    Raises
    ------
    ValueError
        There is none in any folder up to the root.
    """
    begin = (start or Path.cwd()).resolve()
    for folder in (begin, *begin.parents):
        for database in (folder / "outputs" / "mlflow.db", folder / "mlflow.db"):
            if database.exists():
                return database
    raise ValueError(f"no outputs/mlflow.db in {begin} or above it: run a study first, or pass tracking_uri")


def resolve_uri(tracking_uri: str | None = None) -> str:
    """Tracking URI: the one given, else MLFLOW_TRACKING_URI, else the database found upward from here."""
    return tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or _sqlite_uri(find_database())


def _sqlite_uri(database: Path) -> str:
    from sqlalchemy.engine import URL

    # Pasted, a `?` in the path would begin the URL's query, and `%20` be read as a space.
    url = URL.create("sqlite", database=str(database))
    text = url.render_as_string(hide_password=False)
    if text == f"sqlite:///{database}":
        return text
    # With a quoted path behind `sqlite:///`, MLflow 3.17 makes a second folder that is called so; the driver's name
    # keeps it from that.
    return url.set(drivername="sqlite+pysqlite").render_as_string(hide_password=False)


def _lacks_database(uri: str) -> bool:
    from sqlalchemy.engine import make_url

    database = make_url(uri).database if uri.startswith("sqlite") else None
    return database is not None and not Path(database).exists()


def open_study(name: str, tracking_uri: str | None) -> tuple[MlflowClient, str]:
    """Connect, and find a study's experiment: the client and the experiment's id.

    Raises
    ------
    ValueError
        There is no such study, or no store.
    """
    uri = resolve_uri(tracking_uri)
    if _lacks_database(uri):
        raise ValueError(f"tracking_uri={uri!r}: no such database")
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    for variable, value in quiet.items():
        os.environ.setdefault(variable, value)
    # Importing takes over a second, which reading a frame's columns should not need.
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        known = sorted(found.name for found in client.search_experiments() if found.name != "Default")
        raise ValueError(f"no study {name!r} in {uri}; there are: {', '.join(known) or 'none'}")
    return client, experiment.experiment_id


def read_results(name: str, tracking_uri: str | None) -> StoredStudy:
    """Read everything that a frame of a study's results is made of.

    Raises
    ------
    ValueError
        There is no such study, or no store.
    """
    uri = resolve_uri(tracking_uri)
    found = None if _lacks_database(uri) else read_tables(name, uri)
    if found is not None:
        return found
    client, experiment = open_study(name, uri)
    mixtures = {run.info.run_id: run.data.params.get(MIXTURE) for run in stage_runs(client, experiment)}
    own = client.search_runs([experiment], "tags.kind = 'study'", max_results=1)
    return StoredStudy(
        tags=client.get_experiment(experiment).tags,
        own_tags=own[0].data.tags if own else {},
        mixtures=mixtures,
        checkpoints=[_stored(model) for model in checkpoints(client, experiment, mixtures)],
    )


def _stored(model: LoggedModel) -> StoredCheckpoint:
    metrics = [StoredMetric(m.key, m.value, m.timestamp, m.dataset_name, m.dataset_digest) for m in model.metrics or ()]
    return StoredCheckpoint(str(model.source_run_id), dict(model.params or {}), dict(model.tags or {}), metrics)


def checkpoints(client: MlflowClient, experiment: str, runs: Collection[str]) -> list[LoggedModel]:
    """Checkpoints that these runs made."""
    found: list[LoggedModel] = []
    token = None
    while True:
        page = client.search_logged_models([experiment], max_results=100, page_token=token)
        found += [m for m in page if m.tags.get("kind") == "checkpoint" and m.source_run_id in runs]
        token = page.token
        if not token:
            return found


def stage_runs(client: MlflowClient, experiment: str) -> list[Run]:
    """Find the runs of the study's latest plan; runs of an earlier plan stay in MLflow only."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment], "tags.kind = 'stage'", max_results=1000, page_token=token)
        found += [run for run in page if run.data.tags.get("planned") != "false"]
        token = page.token
        if not token:
            return sorted(found, key=lambda run: (run.info.start_time, run.data.tags["stage"]))


def joined(tags: Mapping[str, str], key: str) -> str:
    """Names that stand in several tags where one does not hold them: each but the last ends in ` |`."""
    text, i = tags[key], 2
    while text.endswith(" |"):
        text += f" {tags[f'{key}.{i}']}"
        i += 1
    return text


def latest_results(model: LoggedModel | StoredCheckpoint) -> dict[str, dict[str, Any]]:
    """Value, standard error, evaluation id and suite by metric, of the latest evaluation that has it.

    Where the study says which evaluations of a suite count, the suite's others are left out.
    """
    counted = json.loads(model.tags.get("evaluation_ids", "{}"))
    metrics = [m for m in model.metrics or () if m.dataset_digest in counted.get(m.dataset_name, [m.dataset_digest])]
    found = sorted(metrics, key=lambda metric: (metric.timestamp, metric.dataset_digest))
    errors = {(m.key.removesuffix(STDERR_SUFFIX), m.dataset_digest): m.value for m in found if _is_error(m.key)}
    return {
        m.key: {
            "value": math.copysign(math.inf, m.value) if abs(m.value) >= LARGEST_STORED else m.value,
            "stderr": errors.get((m.key, m.dataset_digest), math.nan),
            "eval_id": m.dataset_digest,
            "suite": m.dataset_name,
        }
        for m in found
        if not _is_error(m.key)
    }


def _is_error(key: str) -> bool:
    return key.endswith(STDERR_SUFFIX)


def read_documents(client: MlflowClient, model: LoggedModel, suite: str, eval_id: str) -> dict[str, Any]:
    """Read the sums by document that one evaluation of a checkpoint keeps, by task; empty where it keeps none."""
    run_id = model.source_run_id
    if run_id is None:
        return {}
    folder = f"evals/step_{int(model.params['step']):08d}"
    path = f"{folder}/{suite}-{eval_id}.documents.json"
    if path not in {file.path for file in client.list_artifacts(run_id, folder)}:
        return {}
    return json.loads(Path(client.download_artifacts(run_id, path)).read_text(encoding="utf-8"))
