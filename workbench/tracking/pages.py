"""What MLflow's web pages show of a study: its runs, and a chart of the training loss against tokens.

MLflow 3.17 opens an experiment on a page of GenAI traces, unless the address selects model training; earlier and hosted
versions use the experiment's kind. So a study's experiment has that kind, and `workbench ui` prints the addresses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from workbench.tracking import spool

if TYPE_CHECKING:
    from mlflow import MlflowClient

KIND = "mlflow.experimentKind"
TRAINING = "custom_model_development"
"""MLflow's kind for an experiment of trainings (`mlflow/server/js`, `ExperimentKind`)."""
INFERRED = ("", "no_inferred_type", "genai_development_inferred", "custom_model_development_inferred")
"""Kinds that the page itself has guessed: replacing them loses nobody's choice."""
CHART = "loss_by_tokens"
"""Name of the view that is stored with the experiment."""
_STAGES = {"searchFilter": "tags.kind = 'stage'", "orderByKey": f"metrics.`{spool.TRAIN_TOKENS}`", "orderByAsc": True}
"""All stages side by side. Sorted by creation they would be collapsed below the study's own run."""


def _chart_view() -> str:
    """State of MLflow's page of charts, as its `Share` stores it in a tag of the experiment."""
    chart = {
        "type": "LINE",
        "uuid": CHART,
        "metricSectionId": CHART,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 100,
        "metricKey": spool.TRAIN_LOSS,
        "selectedMetricKeys": [spool.TRAIN_LOSS],
        "xAxisKey": "metric",
        "selectedXAxisMetricKey": spool.TRAIN_TOKENS,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
    }
    section = {"uuid": CHART, "name": "Loss against tokens", "display": True, "isReordered": True}
    section |= {"columns": 1, "cardHeight": 600}
    view = {"compareRunCharts": [chart], "compareRunSections": [section], "isAccordionReordered": True}
    return json.dumps({**_STAGES, **view, "runsHiddenMode": "SHOW_ALL"})


PAGE_TAGS = {KIND: TRAINING, f"mlflow.sharedViewState.{CHART}": _chart_view()}
"""Tags of an experiment for its page."""


def settle_page(client: MlflowClient, experiment: str) -> None:
    """Update an experiment's page from an earlier version; a kind that somebody has chosen stays."""
    tags = client.get_experiment(experiment).tags
    for key, value in PAGE_TAGS.items():
        chosen = key == KIND and tags.get(KIND, "") not in INFERRED
        if tags.get(key) != value and not chosen:
            client.set_experiment_tag(experiment, key, value)


def study_addresses(server: str, experiment: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Addresses of a study's pages by what they show.

    Parameters
    ----------
    server
        Address of the MLflow server, as `http://127.0.0.1:5000`.
    experiment
        Id of the study's experiment.
    tags
        Of the experiment; the chart is there once the study has been published by a version that stores it.
    """
    page, training = f"{server.rstrip('/')}/#/experiments/{experiment}/runs?", {"workflowType": "machine_learning"}
    addresses = {"runs": page + urlencode({**training, **_STAGES, "orderByAsc": "true"})}
    if f"mlflow.sharedViewState.{CHART}" in tags:
        chart = {**training, "compareRunsMode": "CHART", "viewStateShareKey": CHART}
        addresses["loss against tokens"] = page + urlencode(chart)
    return addresses
