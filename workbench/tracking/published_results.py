"""Published results in MLflow: a frame of reference checkpoints becomes runs and logged models like those of a study.

There is one run per model and one logged model per checkpoint, so that `analysis.load.load_study` reads them like
a study. There is no directory behind them to compare with later: importing compares the frame with what MLflow
holds and sends the difference, once each. What else MLflow has (earlier imports of other files) stays; a checkpoint
whose facts have changed is recreated from the frame.
"""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.study.layout import Layout
from workbench.tracking import experiment, spool
from workbench.tracking.connection import artifact_location, connect, default_uri, hold_lock
from workbench.tracking.mlflow import MAX_BATCH_METRICS

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

SUITE = "lm-eval"
"""Name of the data set that every imported metric is logged for; its digest is the evaluation id."""
LARGEST_STORED = 1.7976931348623157e308
"""MLflow's stand-in for infinity."""
FACTS = ("params", "params_non_embedding", "unique_tokens", "epochs", "flops", "seed_init", "seed_data")
TEXTS = ("commit", "data_fingerprint")


@dataclass(frozen=True)
class ImportReport:
    """What one import sent; all zero when nothing was missing."""

    runs: int = 0
    """MLflow runs created, one per model."""
    checkpoints: int = 0
    """Logged models created."""
    replaced: int = 0
    """Logged models among them whose facts had changed."""
    metrics: int = 0
    """Values and standard errors."""
    others: int = 0
    """Checkpoints of earlier imports that are not in the frame; they stay."""


@dataclass(frozen=True)
class _Checkpoint:
    """One checkpoint of the frame, as MLflow should have it."""

    model: str
    tokens: int
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, tuple[float, str]]
    """Value and evaluation id by metric, including standard errors."""


def import_reference(
    layout: Layout, frame: pd.DataFrame, uri: str | None = None, timeout_seconds: float = 20.0
) -> ImportReport:
    """Bring MLflow up to a frame of reference results.

    Parameters
    ----------
    layout
        Where the outputs lie.
    frame
        As `analysis.reference.load_lm_eval` gives it, of one study; the MLflow experiment is called so.
    uri
        MLflow tracking URI; None is URI of the SQLite file in the outputs' root.
    timeout_seconds
        A server that is silent for longer counts as down.

    Raises
    ------
    PublishError
        The server is down, refuses, or is silent. What was sent stays; import again for the rest.
    ValueError
        The frame has several studies, tokens of a checkpoint are unknown, two checkpoints of a model have the same
        tokens, or the study has trainings.
    """
    study = _study_name(frame)
    checkpoints = _checkpoints(frame)
    if layout.study_file(study).exists():
        raise ValueError(f"study {study!r} has trainings: import under another name, such as reference/{study}")
    uri = uri or default_uri(layout)
    with connect(uri, timeout_seconds, layout) as client, hold_lock(layout.root / "import.lock"):
        return _Importer(client, study, artifact_location(layout, study, uri)).send(checkpoints)


class _Importer:
    """One comparison of a frame with its MLflow experiment."""

    def __init__(self, client: MlflowClient, study: str, location: str | None) -> None:
        self.client, self.study = client, study
        self.experiment = experiment.ensure(client, study, location)
        self._refuse_trainings()
        self.runs = experiment.single_runs(client, self.experiment)
        self.models = experiment.single_models(client, self.experiment, self.runs)
        self.sent = {"runs": 0, "checkpoints": 0, "replaced": 0, "metrics": 0}

    def send(self, checkpoints: list[_Checkpoint]) -> ImportReport:
        """Send what is missing, model by model."""
        wanted: set[tuple[str | None, str]] = set()
        parent = self._ensure_run("", self.study, {"kind": "study"})
        for label in dict.fromkeys(checkpoint.model for checkpoint in checkpoints):
            mine = [checkpoint for checkpoint in checkpoints if checkpoint.model == label]
            run = self._ensure_run(label, f"{label} (reference)", _run_tags(mine[0], parent.info.run_id))
            models = [self._ensure_model(checkpoint, run) for checkpoint in mine]
            self._link(run, [(model, each.tokens) for model, each in zip(models, mine, strict=True)])
            for model, checkpoint in zip(models, mine, strict=True):
                self._send_metrics(model, checkpoint, run)
                wanted.add((run.info.run_id, str(checkpoint.tokens)))
        return ImportReport(**self.sent, others=len(set(self.models) - wanted))

    def _refuse_trainings(self) -> None:
        for run in self.client.search_runs([self.experiment], "tags.kind = 'stage'", max_results=1):
            if run.data.tags.get("reference") != "true":
                raise ValueError(
                    f"study {self.study!r} has trainings: import under another name, such as reference/{self.study}"
                )

    def _ensure_run(self, stage: str, name: str, tags: dict[str, str]) -> Run:
        tags = {**tags, "study": self.study, "reference": "true"}
        run = self.runs.get(stage)
        if run is None:
            run = self.client.create_run(self.experiment, run_name=name, tags=tags)
            self.sent["runs"] += bool(stage)
        for key, value in tags.items():
            if run.data.tags.get(key) != value:
                self.client.set_tag(run.info.run_id, key, value)
        if run.info.status != "FINISHED":
            self.client.set_terminated(run.info.run_id, "FINISHED")
        return run

    def _ensure_model(self, checkpoint: _Checkpoint, run: Run) -> LoggedModel:
        key = (run.info.run_id, str(checkpoint.tokens))
        model = self.models.get(key)
        if model is not None and (model.params != checkpoint.params or str(model.status) != "READY"):
            # A logged model's params cannot be changed.
            self.client.delete_logged_model(model.model_id)
            self.sent["replaced"] += 1
            model = None
        if model is None:
            self.sent["checkpoints"] += 1
            model = self.client.create_logged_model(
                self.experiment,
                name=re.sub(r"[/:.%'\"@]", "_", checkpoint.tags["checkpoint"].rsplit("/", 1)[-1]),
                source_run_id=run.info.run_id,
                tags={**checkpoint.tags, "study": self.study, "mlflow.model.isExternal": "true"},
                params=checkpoint.params,
                model_type="checkpoint",
            )
            self.models[key] = model = self.client.finalize_logged_model(model.model_id, "READY")
        changed = {name: value for name, value in checkpoint.tags.items() if model.tags.get(name) != value}
        if changed:
            self.client.set_logged_model_tags(model.model_id, changed)
        return model

    def _link(self, run: Run, models: list[tuple[LoggedModel, int]]) -> None:
        """Name the checkpoints as the run's outputs."""
        from mlflow.entities import LoggedModelOutput

        outputs = self.client.get_run(run.info.run_id).outputs
        known = {output.model_id for output in outputs.model_outputs} if outputs else set[str]()
        lacking = [LoggedModelOutput(model.model_id, step) for model, step in models if model.model_id not in known]
        if lacking:
            self.client.log_outputs(run.info.run_id, lacking)

    def _send_metrics(self, model: LoggedModel, checkpoint: _Checkpoint, run: Run) -> None:
        from mlflow.entities import Metric

        there = sorted(model.metrics or (), key=lambda metric: metric.timestamp)
        latest = {metric.key: (metric.value, metric.dataset_digest) for metric in there}
        # The latest counts: whatever is sent again after another evaluation must be later than all.
        now = max(int(time.time() * 1000), there[-1].timestamp + 1 if there else 0)
        metrics = [
            Metric(
                key,
                value,
                now,
                # The axis of MLflow's charts; the steps of others are not known.
                checkpoint.tokens,
                model_id=model.model_id,
                dataset_name=SUITE,
                dataset_digest=eval_id,
            )
            for key, (value, eval_id) in checkpoint.metrics.items()
            if latest.get(key) != (value, eval_id)
        ]
        for start in range(0, len(metrics), MAX_BATCH_METRICS):
            self.client.log_batch(run.info.run_id, metrics=metrics[start : start + MAX_BATCH_METRICS])
        self.sent["metrics"] += len(metrics)


def _run_tags(checkpoint: _Checkpoint, parent: str) -> dict[str, str]:
    """Tags of a model's run: those that `analysis.load` reads of every stage, and what is known of the model."""
    tags = {key: checkpoint.tags[key] for key in ("stage", "model", "points")}
    tags |= {"kind": "stage", "phase": "reference", "planned": "true", "trajectory": checkpoint.model}
    tags |= dict.fromkeys(("parent", "commit", "dirty", "host", "cost_owner"), "")
    tags |= {"cost_counted": "false", "mlflow.parentRunId": parent}
    tags["checkpoint"] = checkpoint.tags["checkpoint"].rsplit("@", 1)[0]
    # Tags instead of params: MLflow refuses to change a param, but a fact may be corrected.
    return tags | {key: checkpoint.params.get(key, "") for key in ("params", "params_non_embedding")}


def _study_name(frame: pd.DataFrame) -> str:
    names = sorted(set(frame["study"]))
    if len(names) != 1:
        raise ValueError(f"an import is one study, but the frame has {names}")
    return str(names[0])


def _checkpoints(frame: pd.DataFrame) -> list[_Checkpoint]:
    unknown = frame.loc[frame["tokens"].isna(), "checkpoint"].unique()
    if len(unknown):
        raise ValueError(
            f"tokens of {len(unknown)} checkpoints are unknown, such as {unknown[0]}: give tokens= or facts="
        )
    found: dict[tuple[str, int], str] = {}
    checkpoints: list[_Checkpoint] = []
    for name, rows in frame.groupby("checkpoint", sort=False):
        checkpoint = _checkpoint(rows)
        other = found.setdefault((checkpoint.model, checkpoint.tokens), str(name))
        if other != name:
            raise ValueError(
                f"{other} and {name} are both {checkpoint.model} at {checkpoint.tokens} tokens: rename one"
            )
        checkpoints.append(checkpoint)
    return checkpoints


def _checkpoint(rows: pd.DataFrame) -> _Checkpoint:
    from analysis.columns import truth

    first = rows.iloc[0]
    tokens, label = int(first["tokens"]), str(first["model"])
    facts: dict[str, Any] = {key: first[key] for key in FACTS if first[key] is not None and first[key] == first[key]}
    whole = ("epochs", "flops")
    params = {key: repr(float(value)) if key in whole else str(int(value)) for key, value in facts.items()}
    params |= {key: str(first[key]) for key in TEXTS if isinstance(first[key], str)}
    params |= {"step": str(tokens), "tokens": str(tokens), "annealed": json.dumps(truth(first["annealed"]) is True)}
    params |= {"stage": label, "trajectory": label}
    tags = {"kind": "checkpoint", "stage": label, "model": label, "points": label}
    tags |= {"checkpoint": str(first["checkpoint"])}
    metrics: dict[str, tuple[float, str]] = {}
    for row in rows.loc[rows["value"].notna()].to_dict("records"):
        eval_id = str(row["eval_id"])
        tags[f"evaluation.{SUITE}.{eval_id}"] = str(row["source"])
        metrics[row["metric"]] = (_stored(row["value"]), eval_id)
        if not math.isnan(row["stderr"]):
            metrics[row["metric"] + spool.STDERR_SUFFIX] = (_stored(row["stderr"]), eval_id)
    return _Checkpoint(label, tokens, params, tags, metrics)


def _stored(value: float) -> float:
    """Value as MLflow stores it."""
    return max(-LARGEST_STORED, min(LARGEST_STORED, float(value)))
