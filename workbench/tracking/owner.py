"""Owner of an experiment: one outputs folder publishes into it, wherever that folder is moved.

Two people may run studies of the same name against one server. Publishing deletes runs that were made twice and marks
those that the plan no longer has, so it must never see another folder's runs.
"""

from __future__ import annotations

import getpass
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.study.files import exclusive
from workbench.study.layout import Layout
from workbench.tracking import spool
from workbench.tracking.connection import PublishError, connect
from workbench.tracking.experiment import search_models, search_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

OUTPUTS = "workbench.outputs"
"""Tag of an experiment: id of the outputs folder that publishes into it."""
OWNER = "workbench.owner"
"""Tag of an experiment: the last location of that folder, as `user@host:path`, for people."""
SERVERS = ("http:", "https:", "postgresql", "mysql", "mssql")
"""Beginnings of addresses of servers, which may be down for a while."""


class ForeignExperimentError(PublishError):
    """The experiment belongs to another outputs folder."""


@dataclass(frozen=True)
class Owner:
    """One outputs folder, as an experiment names it."""

    id: str
    """Id stored in the folder."""
    place: str
    """`user@host:path`."""
    root: Path
    """The folder."""

    @property
    def tags(self) -> dict[str, str]:
        """Tags of an experiment that this folder publishes into."""
        return {OUTPUTS: self.id, OWNER: self.place}


def make_owner(layout: Layout) -> Owner:
    """Identify an outputs folder, which gets an id the first time."""
    path = layout.identity
    with exclusive(path):
        identity = path.read_text(encoding="utf-8").strip()
        if not identity:
            identity = uuid.uuid4().hex
            path.write_text(f"{identity}\n", encoding="utf-8")
    root = layout.root.resolve()
    return Owner(identity, f"{_user()}@{socket.gethostname()}:{root}", root)


def claim(client: MlflowClient, experiment: str, layout: Layout) -> None:
    """Mark an experiment as this outputs folder's.

    Parameters
    ----------
    client, experiment
        The store and the experiment's id.
    layout
        The outputs folder that wants to publish.

    Raises
    ------
    ForeignExperimentError
        It belongs to another folder; so does one without a mark, from earlier versions, unless its runs are this
        folder's.
    """
    owner, found = make_owner(layout), client.get_experiment(experiment)
    _refuse_marked(found, owner)
    if OUTPUTS not in found.tags:
        other = _foreign_runs(client, experiment, layout)
        if other:
            raise _refusal(found.name, other, owner)
    for key, value in owner.tags.items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(experiment, key, value)


def refuse_foreign(client: MlflowClient, layout: Layout, study: str) -> None:
    """Refuse a study whose experiment is marked as another folder's.

    Raises
    ------
    ForeignExperimentError
        It is.
    """
    found = client.get_experiment_by_name(study)
    if found is not None:
        _refuse_marked(found, make_owner(layout))


def check_store(layout: Layout, study: str, uri: str, timeout_seconds: float) -> None:
    """Refuse, before anything is trained, a store that could never accept a study; one that is down may recover.

    Raises
    ------
    PublishError
        The experiment belongs to another folder, or the address is invalid.
    """
    try:
        with connect(uri, timeout_seconds, layout) as client:
            refuse_foreign(client, layout, study)
    except ForeignExperimentError:
        raise
    except PublishError:
        if not uri.startswith(SERVERS):
            raise


def _refuse_marked(found: Experiment, owner: Owner) -> None:
    if found.tags.get(OUTPUTS, owner.id) != owner.id:
        raise _refusal(found.name, f"the outputs {found.tags.get(OWNER, 'of somebody else')}", owner)


def _refusal(name: str, other: str, owner: Owner) -> ForeignExperimentError:
    return ForeignExperimentError(
        f"MLflow's experiment {name!r} belongs to {other}, not to {owner.root}, and was not changed: "
        f"give this study another name, such as study={name}_{_user()}, or set another store with tracking.uri; if those "
        f"outputs are these, in a copy or elsewhere, set the experiment's tag {OUTPUTS} to {owner.id}"
    )


def _foreign_runs(client: MlflowClient, experiment: str, layout: Layout) -> str:
    """Describe the owner of the runs in an experiment without a mark; empty if all are this folder's."""
    runs = [run for run in search_runs(client, experiment) if run.data.tags.get("kind") in ("study", "stage")]
    if any(run.data.tags.get("reference") == "true" for run in runs):
        return "an import of others' results"
    if all(_is_from(client, run, layout) for run in runs if run.data.tags["kind"] == "stage"):
        return ""
    paths = [model.tags["checkpoint"] for model in search_models(client, experiment) if "checkpoint" in model.tags]
    others = [path for path in paths if not Path(path).is_relative_to(layout.root.resolve())]
    return next(iter(others), "" if paths else "another outputs folder")


def _is_from(client: MlflowClient, run: Run, layout: Layout) -> bool:
    """Whether a stage's run shows this folder's training of it, by the time of the first row.

    The id is not enough, because whoever trains the same stage elsewhere gets the same id. A path would not survive a
    move.
    """
    stage = layout.stage(run.data.tags["stage"])
    if spool.TRAIN_TOKENS not in run.data.metrics:
        return stage.path.exists()
    row = next(iter(spool.read_rows(stage.path)), None)
    began = None if row is None else int(row[spool.TIME] * 1000)
    if run.info.start_time == began:
        return True
    history = client.get_metric_history(run.info.run_id, spool.TRAIN_TOKENS)
    return min(metric.timestamp for metric in history) == began


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
