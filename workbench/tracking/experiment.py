"""What an MLflow experiment holds already: one run a stage, one logged model a checkpoint.

A request whose answer is lost (the server was stopped, the network was cut) may be carried out after the next
publisher has looked, which then makes the same run again. Publishing keeps one of the two and deletes the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from workbench.tracking import spool
from workbench.tracking.connection import PublishError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run


def ensure(client: MlflowClient, name: str, location: str | None, tags: Mapping[str, str] | None = None) -> str:
    """Id of the experiment, which is made where it is not there.

    Parameters
    ----------
    client
        Of the store.
    name
        The study's name.
    location
        URI of the folder of its artifacts; None leaves that to the server.
    tags
        What a new experiment is made with.

    Raises
    ------
    PublishError
        It has been deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=location, tags=dict(tags or {}))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise PublishError(
            f"MLflow's experiment {name!r} is deleted: restore it, or remove it for good with `mlflow gc`"
        )
    return experiment.experiment_id


def settle_tag(client: MlflowClient, experiment: str, key: str, value: str) -> None:
    """Give an experiment's tag a value, or remove it where that is empty."""
    found = client.get_experiment(experiment).tags.get(key, "")
    if value and found != value:
        client.set_experiment_tag(experiment, key, value)
    elif found and not value:
        client.delete_experiment_tag(experiment, key)


def single_runs(client: MlflowClient, experiment: str) -> dict[str, Run]:
    """Find the run of each stage by its id, the study's own under ""; what others log into the experiment is left alone.

    Of two runs of one stage the one with more rows stays, or else with more tags.
    """
    kept: dict[str, Run] = {}
    ours = [run for run in search_runs(client, experiment) if run.data.tags.get("kind") in ("study", "stage")]
    for run in sorted(ours, key=_progress, reverse=True):
        stage = run.data.tags.get("stage", "")
        if stage in kept:
            client.delete_run(run.info.run_id)
        else:
            kept[stage] = run
    return kept


def single_models(
    client: MlflowClient, experiment: str, runs: dict[str, Run]
) -> dict[tuple[str | None, str], LoggedModel]:
    """Find the logged model of each checkpoint by run id and step; second ones and those of deleted runs go.

    Of two models of one checkpoint the one whose evaluations were marked as sent stays.
    """
    kept: dict[tuple[str | None, str], LoggedModel] = {}
    known = {run.info.run_id for run in runs.values()}
    ours = [model for model in search_models(client, experiment) if model.tags.get("kind") == "checkpoint"]
    for model in sorted(ours, key=lambda model: (len(model.tags), model.model_id), reverse=True):
        key = model.source_run_id, str(model.params.get("step"))
        if key in kept or model.source_run_id not in known:
            client.delete_logged_model(model.model_id)
        else:
            kept[key] = model
    return kept


def _progress(run: Run) -> tuple[float, int, str]:
    # A run of no rows that has artifacts has the tag that says so.
    return run.data.metrics.get(spool.TRAIN_TOKENS, -1.0), len(run.data.tags), run.info.run_id


def search_runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    """Every run of an experiment."""
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def search_models(client: MlflowClient, experiment: str) -> Iterator[LoggedModel]:
    """Every logged model of an experiment."""
    token = None
    while True:
        page = client.search_logged_models([experiment], max_results=100, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
