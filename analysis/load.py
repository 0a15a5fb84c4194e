"""From MLflow to tidy frames.

Columns of `load_study` (`FRAME_COLUMNS`), one row per checkpoint and metric:

====================  =====================================================================================
study                 name of the study
point                 sweep points whose chain goes through the checkpoint, joined by ` | `
stage                 id of the stage that made it
trajectory            id of the chain's first stage; cooldowns off one trunk share it
run_id                MLflow run of (study, stage)
model                 short name of the model
params                parameters, all
params_non_embedding  parameters without input embedding, output head and position table
tokens                tokens trained on since the start of the chain
unique_tokens         distinct tokens among them
epochs                tokens over unique tokens
flops                 training FLOPs since the start of the chain
seed_init, seed_data  seeds of the initial weights and of the data's order
annealed              whether the learning rate has been decayed: only such points belong in fits
metric                name, as `heldout/prose/bits_per_byte`
value, stderr         the result and its standard error; NaN is "not evaluated" and "not known". An error of 0 is as
                      it was published, and no certainty: see `analysis.columns.known_errors`
eval_id               evaluation that produced the value; None where there is none
checkpoint            directory of the checkpoint
commit                git commit that trained it
data_fingerprint      prepared data it was trained on
mixture               weights of its sources, JSON as in `stage.yaml`
kinds                 kinds of the stages behind it, first to last, as `imported>pretrain>sft`; `pretrain` alone is
                      what fits are of. None in studies that were published before there were others
start_tokens          tokens since the start of the chain at which its stage begins
====================  =====================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.columns import truth
from analysis.experiment_store import (
    checkpoints,
    joined,
    latest_results,
    open_study,
    read_documents,
    read_results,
    resolve_uri,
    stage_runs,
)
from analysis.failed import FAILED_POINTS, read_tag
from analysis.overrides import label_variants
from analysis.stage_rows import find_outputs, read_stage_rows
from analysis.study_tables import StoredCheckpoint

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

FRAME_COLUMNS = (
    "study",
    "point",
    "stage",
    "trajectory",
    "run_id",
    "model",
    "params",
    "params_non_embedding",
    "tokens",
    "unique_tokens",
    "epochs",
    "flops",
    "seed_init",
    "seed_data",
    "annealed",
    "metric",
    "value",
    "stderr",
    "eval_id",
    "checkpoint",
    "commit",
    "data_fingerprint",
    "mixture",
    "kinds",
    "start_tokens",
)
ANALYSIS_TAG = "workbench.analysis"
"""Tag of a study's experiment: the kind of analysis that it says it is for."""


def load_study(name: str, tracking_uri: str | None = None) -> pd.DataFrame:
    """One study's results, one row per checkpoint and metric; the module's docstring lists the columns.

    Every checkpoint has a row for every metric of the study: where it was not evaluated, `value` and
    `stderr` are NaN. Of several evaluations of a checkpoint by one suite, the one that the study asks for is used,
    else the latest; `eval_id` names it. `attrs["analysis"]` is the kind of analysis that the study says it is for;
    `attrs["failed_points"]` says which points have no result because a stage failed (`analysis.failed.read_tag`).

    Parameters
    ----------
    name
        The study.
    tracking_uri
        MLflow tracking URI; None takes MLFLOW_TRACKING_URI, else the database found by
        `analysis.experiment_store.find_database`.

    Raises
    ------
    ValueError
        There is no such study, or no store.
    """
    study = read_results(name, tracking_uri)
    rows: list[dict[str, Any]] = []
    for model in study.checkpoints:
        facts = _checkpoint_facts(name, model)
        facts["mixture"] = study.mixtures[model.source_run_id]
        results = latest_results(model)
        rows += [facts | {"metric": metric, **result} for metric, result in results.items()] or [facts]
    tag = study.own_tags.get(FAILED_POINTS, "")
    frame = label_variants(pd.DataFrame(rows, columns=pd.Index(FRAME_COLUMNS)), _failed(tag))
    order = ["metric", "params", "trajectory", "tokens", "annealed"]
    frame = (frame if _is_complete(frame) else with_missing(frame)).sort_values(order, ignore_index=True)
    analysis = study.tags.get(ANALYSIS_TAG)
    if analysis:
        frame.attrs["analysis"] = analysis
    frame.attrs[FAILED_POINTS] = tag
    return frame


def _is_complete(frame: pd.DataFrame) -> bool:
    """Whether every checkpoint has a row for every metric, so that `with_missing` would change nothing."""
    cells = set(zip(frame["checkpoint"], frame["metric"], strict=True))
    metrics = {metric for _, metric in cells}
    complete = len(cells) == len({checkpoint for checkpoint, _ in cells}) * len(metrics)
    return complete and all(isinstance(metric, str) for metric in metrics)


def _failed(tag: str) -> list[tuple[str, str]]:
    """Models and names of the points that failed."""
    return [(point.model, point.point) for point in read_tag(tag)[0] if point.model]


def _failed_points_tag(client: MlflowClient, experiment: str) -> str:
    """Tag of the study's own run that lists the points that failed; empty where there is none."""
    runs = client.search_runs([experiment], "tags.kind = 'study'", max_results=1)
    return runs[0].data.tags.get(FAILED_POINTS, "") if runs else ""


def load_documents(
    name: str, metric: str, tracking_uri: str | None = None, *, models: Iterable[str] | None = None
) -> pd.DataFrame:
    """Per-document sums behind one metric, one row per checkpoint and document.

    Parameters
    ----------
    name
        The study.
    metric
        Name as in `load_study`'s frame, such as `heldout/prose/bits_per_byte`.
    tracking_uri
        As in `load_study`.
    models
        Short names of the models wanted; None takes all.

    Returns
    -------
    DataFrame
        Columns stage, model, params_non_embedding, tokens, annealed, seed_init, seed_data, eval_id,
        checkpoint and doc_id; then loglikelihood (nats) and bytes for bits per byte, and correct (0 or 1,
        and loglikelihood where it is known) for accuracy.

    Raises
    ------
    ValueError
        There is no such study, or no checkpoint of it keeps documents for the metric.
    """
    if not metric.endswith(("/bits_per_byte", "/acc")):
        raise ValueError(f"metric {metric!r}: documents are kept only for bits_per_byte and acc")
    client, experiment = open_study(name, tracking_uri)
    task, bucket = _task_of(metric)
    wanted = None if models is None else set(models)
    parts: list[pd.DataFrame] = []
    runs = {run.info.run_id for run in stage_runs(client, experiment)}
    for model in checkpoints(client, experiment, runs):
        facts = _checkpoint_facts(name, model)
        result = latest_results(model).get(metric)
        if result is None or (wanted is not None and facts["model"] not in wanted):
            continue
        sums = read_documents(client, model, result["suite"], result["eval_id"]).get(task)
        if sums is None:
            continue
        part = pd.DataFrame(_of_bucket(sums, bucket) if bucket else sums)
        keep = ("stage", "model", "params_non_embedding", "tokens", "annealed", "seed_init", "seed_data", "checkpoint")
        for position, column in enumerate(keep):
            part.insert(position, column, facts[column])
        part.insert(len(keep), "eval_id", result["eval_id"])
        parts.append(part.assign(point=facts["point"]))
    if not parts:
        raise ValueError(f"study {name!r} keeps no documents for metric {metric!r}")
    failed = _failed(_failed_points_tag(client, experiment))
    return label_variants(pd.concat(parts, ignore_index=True), failed).drop(columns="point")


def _task_of(metric: str) -> tuple[str, str]:
    """Task that a metric is of, and the bucket of positions, which is empty but in `position/prose/0064-0127/bits_per_byte`."""
    *names, _ = metric.split("/")
    if names[0] == "position" and len(names) == 3:
        return f"position_{names[1]}", names[2]
    return "_".join(names), ""


def _of_bucket(sums: Mapping[str, Sequence[Any]], bucket: str) -> dict[str, list[Any]]:
    """Take the sums of the documents that fill a bucket of positions."""
    columns = {"doc_id": sums["doc_id"], **{name: sums[f"{bucket}/{name}"] for name in ("loglikelihood", "bytes")}}
    filled = [place for place, size in enumerate(columns["bytes"]) if size is not None]
    return {name: [values[place] for place in filled] for name, values in columns.items()}


def load_history(name: str, metrics: Sequence[str] = ("train/loss",), tracking_uri: str | None = None) -> pd.DataFrame:
    """Training rows, one row per stage and optimizer step.

    All rows are in the files of the outputs folder that published the study; where these can be seen, they are read.
    From elsewhere MLflow's are taken, which of a stage's steps beyond the first thousand has some.

    Parameters
    ----------
    name
        The study.
    metrics
        Names of training metrics, such as `train/loss` or `train/learning_rate`.
    tracking_uri
        As in `load_study`.

    Returns
    -------
    DataFrame
        Columns study, stage, trajectory, run_id, model, phase, read_from (`files`: all rows, or `mlflow`), step, tokens,
        time (Unix seconds, to the millisecond) and one for each metric, NaN where a row has none.

    Raises
    ------
    ValueError
        There is no such study, or no store.
    """
    client, experiment = open_study(name, tracking_uri)
    outputs = find_outputs(client.get_experiment(experiment).tags, resolve_uri(tracking_uri))
    parts: list[pd.DataFrame] = []
    for run in stage_runs(client, experiment):
        tags = run.data.tags
        part, read_from = None if outputs is None else read_stage_rows(outputs, tags["stage"], metrics), "files"
        if part is None:
            part, read_from = _published_rows(client, run, metrics), "mlflow"
        facts = {"study": name, "stage": tags["stage"], "trajectory": tags["trajectory"], "run_id": run.info.run_id}
        facts |= {"model": tags["model"], "phase": tags["phase"], "read_from": read_from}
        for position, (column, value) in enumerate(facts.items()):
            part.insert(position, column, value)
        parts.append(part)
    columns = ["study", "stage", "trajectory", "run_id", "model", "phase", "read_from", "step", "tokens", "time"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=pd.Index([*columns, *metrics]))


def _published_rows(client: MlflowClient, run: Run, metrics: Sequence[str]) -> pd.DataFrame:
    """Rows of one stage that MLflow has, with the columns of `analysis.stage_rows.read_stage_rows`."""
    tokens = client.get_metric_history(run.info.run_id, "train/tokens")
    rows = pd.DataFrame(
        {
            "step": [row.step for row in tokens],
            "tokens": [int(row.value) for row in tokens],
            "time": [row.timestamp / 1000 for row in tokens],
        }
    )
    for metric in metrics:
        values = {row.step: row.value for row in client.get_metric_history(run.info.run_id, metric)}
        rows[metric] = [values.get(step, math.nan) for step in rows["step"]]
    return rows


def load_runs(name: str, tracking_uri: str | None = None) -> pd.DataFrame:
    """Load one row per stage: where it came from, how it ended, and which study bears its cost.

    Parameters
    ----------
    name
        The study.
    tracking_uri
        As in `load_study`.

    Returns
    -------
    DataFrame
        Columns study, run_id, run (readable name), status, stage, model, phase, points, parent, commit,
        dirty, host, cost_owner and cost_counted (a shared stage's cost counts in only one study); cost_counted and dirty are truth
        values, dirty None where it is not known.

    Raises
    ------
    ValueError
        There is no such study, or no store.
    """
    client, experiment = open_study(name, tracking_uri)
    keys = ("stage", "model", "phase", "points", "parent", "commit", "dirty", "host", "cost_owner", "cost_counted")
    rows = [
        {"study": name, "run_id": run.info.run_id, "run": run.info.run_name, "status": run.info.status}
        | {key: joined(run.data.tags, key) for key in keys}
        | {key: truth(run.data.tags[key] or None) for key in ("dirty", "cost_counted")}
        for run in stage_runs(client, experiment)
    ]
    return pd.DataFrame(rows)


def _checkpoint_facts(name: str, model: LoggedModel | StoredCheckpoint) -> dict[str, Any]:
    params, tags = model.params, model.tags
    integers = ("params", "params_non_embedding", "tokens", "unique_tokens", "seed_init", "seed_data")
    facts: dict[str, Any] = {key: int(params[key]) if key in params else None for key in integers}
    return facts | {
        "study": name,
        "point": joined(tags, "points"),
        "stage": params["stage"],
        "trajectory": params["trajectory"],
        "run_id": model.source_run_id,
        "model": tags["model"],
        "epochs": float(params["epochs"]) if "epochs" in params else math.nan,
        "flops": float(params.get("flops", math.nan)),
        "annealed": truth(params["annealed"]),
        "checkpoint": tags["checkpoint"],
        # Reference runs were trained elsewhere: neither is known.
        "commit": params.get("commit"),
        "data_fingerprint": params.get("data_fingerprint"),
        "kinds": params.get("kinds"),
        "start_tokens": int(params["start_tokens"]) if "start_tokens" in params else None,
    }


def with_missing(frame: pd.DataFrame) -> pd.DataFrame:
    """Add a row of NaN for every checkpoint and metric of the frame that has no result.

    Parameters
    ----------
    frame
        With the columns checkpoint, metric, value, stderr and eval_id; columns of the checkpoint are repeated.
    """
    metrics = sorted({metric for metric in frame["metric"] if isinstance(metric, str)})
    if not metrics:
        return frame
    rows = frame.to_dict("records")
    scored = {(row["checkpoint"], row["metric"]) for row in rows}
    facts = {row["checkpoint"]: row for row in rows}
    lacking = [
        {**row, "metric": metric, "value": math.nan, "stderr": math.nan, "eval_id": None}
        for checkpoint, row in facts.items()
        for metric in metrics
        if (checkpoint, metric) not in scored
    ]
    kept = [row for row in rows if isinstance(row["metric"], str)]
    return pd.DataFrame(kept + lacking, columns=frame.columns)
