"""The one writer to MLflow: what a study's files hold and MLflow lacks is sent, once each.

Publishing compares and sends the difference, so it may be asked for at any time, killed at any time and
asked for again. Three facts make that exact:

- A row's metrics travel in one batch, and MLflow stores a batch's metrics in one transaction; tokens grow
  from row to row, so the latest `train/tokens` of a run says which rows are there.
- Rows after the last complete checkpoint are not final (a resumed stage computes them again) and stay. Of a long
  stage's rows some are sent (`workbench.tracking.thinning`), the same ones whenever it is published.
- Rows and results carry their own timestamps; MLflow ignores a metric whose step, timestamp and value it
  has already, so that even two machines that publish at once add nothing twice.

MLflow is imported inside functions: it takes over a second, and training must not need it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.study.layout import Layout
from workbench.tracking import experiment, intended, spool
from workbench.tracking.connection import (
    PublishError,
    artifact_location,
    connect,
    default_uri,
    hold_lock,
    init_store,
)
from workbench.tracking.owner import claim, make_owner
from workbench.tracking.pages import PAGE_TAGS, settle_page
from workbench.tracking.published_state import PublishedState
from workbench.tracking.report_artifacts import replace_report
from workbench.tracking.run_records import CheckpointRecord, EvaluationRecord, StageRecord, StudyRecord
from workbench.tracking.thinning import is_sent

__all__ = ["PublishError", "PublishReport", "default_uri", "init_store", "log_figures", "publish_study"]

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

MAX_BATCH_METRICS = 1000
"""MLflow's limit for one `log_batch`; 16,000 metrics per second, against 350 sent one by one."""
MAX_BATCH_PARAMS = 100
SOURCE = {"mlflow.source.name": "workbench", "mlflow.source.type": "LOCAL"}
"""What MLflow's pages show as a run's source, with its commit."""
ANALYSIS_TAG = "workbench.analysis"
"""Tag of an experiment: the kind of analysis its study says it is for; `analysis.load` reads it."""
NAMED_BY = "named_by"
"""Tag of runs that are named with what their study varies; those without it, of earlier versions, keep their names."""


@dataclass(frozen=True)
class PublishReport:
    """What one publishing sent; all zero when everything was there."""

    rows: int = 0
    """Training rows."""
    checkpoints: int = 0
    """Logged models."""
    evaluations: int = 0
    """Result files."""
    runs: int = 0
    """MLflow runs made, one a stage."""
    skipped: tuple[str, ...] = field(default=())
    """Damaged result files, each with the reason."""


def publish_study(layout: Layout, study: str, uri: str | None = None, timeout_seconds: float = 20.0) -> PublishReport:
    """Bring MLflow up to what the study's files say.

    Parameters
    ----------
    layout
        Where the outputs lie.
    study
        Name of the study; its MLflow experiment is called so.
    uri
        MLflow tracking URI; None is SQLite in the outputs' root.
    timeout_seconds
        A server that is silent for longer counts as down.

    Raises
    ------
    PublishError
        The server is down, refuses, or is silent. What was sent stays; publish again for the rest.
    ValueError
        There is no such study, or its plan is damaged.
    """
    uri = uri or default_uri(layout)
    state = PublishedState(layout, study, uri)
    if state.is_current():
        return PublishReport()
    with connect(uri, timeout_seconds, layout) as client, hold_lock(layout.study(study) / "publish.lock"):
        if state.is_current(client):  # another publisher was faster, or a server says so
            return PublishReport()
        # Before they are read: whatever changes later differs from this.
        files = state.take()
        record = intended.read_study(layout, study)
        certain = state.begin()
        publisher = _Publisher(client, uri, layout, record)
        report = publisher.publish()
        at_rest = all(stage.status != "RUNNING" for stage in record.stages)
        state.end(client, publisher.runs[""], files if certain and at_rest and not report.skipped else None)
        return report


def log_figures(
    layout: Layout,
    study: str,
    files: list[Path],
    uri: str | None = None,
    timeout_seconds: float = 20.0,
    *,
    description: str = "",
) -> None:
    """Store what a study comes to with its own run: figures, tables and fits in folders of their names, the page on top.

    What an earlier call stored there and this one does not is removed; an artifact lists them.

    Parameters
    ----------
    layout
        Where the outputs lie.
    study
        Name of the study.
    files
        Figures, tables (`.table.csv`), records of data (`.data.json`), fits (`.json` beside no figure) and a page (`.html`).
    uri
        MLflow tracking URI; None is SQLite in the outputs' root.
    timeout_seconds
        A server that is silent for longer counts as down.
    description
        Markdown that MLflow shows on the run's page; empty leaves what is there.

    Raises
    ------
    PublishError
        The server is down, refuses, or is silent.
    ValueError
        There is no such study, or its plan is damaged.
    """
    uri = uri or default_uri(layout)
    with connect(uri, timeout_seconds, layout) as client, hold_lock(layout.study(study) / "publish.lock"):
        state = PublishedState(layout, study, uri)
        was_current = state.is_current(client)
        publisher = _Publisher(client, uri, layout, intended.read_study(layout, study))
        run_id = publisher.ensure_study_run()
        replace_report(client, run_id, files, uri)
        if description:
            client.set_tag(run_id, "mlflow.note.content", description)
        if was_current:
            state.renew(client, publisher.runs[""])


class _Publisher:
    """One comparison of a study's record with its MLflow experiment."""

    def __init__(self, client: MlflowClient, uri: str, layout: Layout, record: StudyRecord) -> None:
        self.client = client
        self.record = record
        tags = {**make_owner(layout).tags, **PAGE_TAGS}
        self.experiment = experiment.ensure(client, record.name, artifact_location(layout, record.name, uri), tags)
        claim(client, self.experiment, layout)
        settle_page(client, self.experiment)
        experiment.settle_tag(client, self.experiment, ANALYSIS_TAG, record.analysis)
        self.runs = experiment.single_runs(client, self.experiment)
        self.models = experiment.single_models(client, self.experiment, self.runs)
        self.sent = {"rows": 0, "checkpoints": 0, "evaluations": 0, "runs": 0}

    def publish(self) -> PublishReport:
        """Send what is missing, stage by stage."""
        parent = self.ensure_study_run()
        for stage in self.record.stages:
            run = self._ensure_run(stage, parent)
            self._send_rows(stage, run)
            for checkpoint in stage.checkpoints:
                self._send_checkpoint(checkpoint, stage, run)
            self._settle_status(run, stage.status, stage.ended_ms)
        self._mark_dropped()
        self._settle_status(self.runs[""], self.record.status, None)
        return PublishReport(**self.sent, skipped=self.record.skipped)

    def _mark_dropped(self) -> None:
        """Mark the runs of stages that the study's latest plan does not have; frames leave them out."""
        dropped = set(self.runs) - {stage.id for stage in self.record.stages} - {""}
        for run in (self.runs[stage] for stage in dropped):
            if run.data.tags.get("planned") != "false":
                self.client.set_tag(run.info.run_id, "planned", "false")
                self.client.set_tag(run.info.run_id, "cost_counted", "false")

    def ensure_study_run(self) -> str:
        """Run id of the study's own run, which its stages' runs are children of; holds `study.json`."""
        run, tags = self.runs.get(""), {"kind": "study", "study": self.record.name, **self.record.tags}
        if run is not None and intended.FAILED_POINTS in run.data.tags:
            tags.setdefault(intended.FAILED_POINTS, "[]")  # they are there by now
        if run is None:
            run = self.client.create_run(self.experiment, run_name=self.record.name, tags=tags)
            self.runs[""] = run
        self._log_facts(run, {}, tags)
        self._store_artifacts(run, ((self.record.file, ""),))
        return run.info.run_id

    def _ensure_run(self, stage: StageRecord, parent: str) -> Run:
        tags = {**stage.tags, "planned": "true"}
        tags |= {"mlflow.parentRunId": parent, **SOURCE, "mlflow.source.git.commit": stage.tags["commit"]}
        run = self.runs.get(stage.id)
        if not tags["error"] and (run is None or "error" not in run.data.tags):
            del tags["error"]  # an empty one only ever takes the place of an error that is over
        if run is None:
            first = next(iter(spool.read_rows(stage.path)), None)
            started = int(first[spool.TIME] * 1000) if first else None
            run = self.client.create_run(self.experiment, started, {**tags, NAMED_BY: "overrides"}, stage.run_name)
            self.sent["runs"] += 1
        name = stage.run_name if NAMED_BY in run.data.tags else stage.plain_name
        if run.info.run_name != name:
            self.client.update_run(run.info.run_id, name=name)
        self._log_facts(run, stage.params, tags)
        self._store_artifacts(run, stage.artifacts)
        return run

    def _log_facts(self, run: Run, params: dict[str, str], tags: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        # A param is never sent twice: MLflow refuses a changed one.
        new_params = [Param(key, value) for key, value in params.items() if key not in run.data.params]
        new_tags = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
        for start in range(0, len(new_params), MAX_BATCH_PARAMS):
            self.client.log_batch(run.info.run_id, params=new_params[start : start + MAX_BATCH_PARAMS])
        if new_tags:
            self.client.log_batch(run.info.run_id, tags=new_tags)

    def _store_artifacts(self, run: Run, files: tuple[tuple[Path, str], ...]) -> None:
        digest = intended.artifacts_digest(files)
        if run.data.tags.get("artifacts") == digest:
            return
        for path, folder in files:
            self.client.log_artifact(run.info.run_id, str(path), folder or None)
        self.client.set_tag(run.info.run_id, "artifacts", digest)

    def _send_rows(self, stage: StageRecord, run: Run) -> None:
        done = run.data.metrics.get(spool.TRAIN_TOKENS, -1)
        if done >= stage.durable_tokens:
            return
        batch: list[Any] = []
        for number, row in enumerate(spool.read_rows(stage.path, stage.durable_step), 1):
            tokens = row[spool.TOKENS]
            if tokens <= done or not is_sent(number, tokens, stage.wanted_tokens):
                continue
            metrics = _row_metrics(row)
            if len(batch) + len(metrics) > MAX_BATCH_METRICS:
                self.client.log_batch(run.info.run_id, metrics=batch)
                batch = []
            batch += metrics
            self.sent["rows"] += 1
        if batch:
            self.client.log_batch(run.info.run_id, metrics=batch)

    def _send_checkpoint(self, checkpoint: CheckpointRecord, stage: StageRecord, run: Run) -> None:
        model = self._ensure_model(checkpoint, run)
        known = model.tags
        changed = {key: value for key, value in checkpoint.tags.items() if known.get(key) != value}
        if changed:
            self.client.set_logged_model_tags(model.model_id, changed)
        for evaluation in checkpoint.evaluations:
            marker = f"evaluation.{evaluation.suite}.{evaluation.eval_id}"
            if marker in known:
                continue
            self._send_evaluation(evaluation, checkpoint, model, run)
            # Last of all: a marker says that metrics and files are both there.
            self.client.set_logged_model_tags(model.model_id, {marker: evaluation.files[0].name})
            self.sent["evaluations"] += 1

    def _ensure_model(self, checkpoint: CheckpointRecord, run: Run) -> LoggedModel:
        from mlflow.entities import LoggedModelOutput

        model = self.models.get((run.info.run_id, str(checkpoint.step)))
        if model is not None and _is_of_other_weights(model, checkpoint):
            # The step was trained again to other weights: metrics of a logged model cannot be taken back one by one.
            self.client.delete_logged_model(model.model_id)
            model = None
        if model is not None and str(model.status) == "READY":
            return model
        found = model
        if model is None:
            model = self.client.create_logged_model(
                self.experiment,
                name=f"step-{checkpoint.step:08d}",
                source_run_id=run.info.run_id,
                # The weights stay where they are.
                tags={**checkpoint.tags, "mlflow.model.isExternal": "true"},
                params=checkpoint.params,
                model_type="checkpoint",
            )
        if found is None or not self._is_output(run, model):
            self.client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, checkpoint.step)])
        self.sent["checkpoints"] += 1
        return self.client.finalize_logged_model(model.model_id, "READY")

    def _is_output(self, run: Run, model: LoggedModel) -> bool:
        outputs = self.client.get_run(run.info.run_id).outputs
        return outputs is not None and model.model_id in {output.model_id for output in outputs.model_outputs}

    def _send_evaluation(
        self,
        evaluation: EvaluationRecord,
        checkpoint: CheckpointRecord,
        model: LoggedModel,
        run: Run,
    ) -> None:
        from mlflow.entities import Metric

        # Suite and evaluation id stand in the metric's data set: two evaluations of one checkpoint stay apart.
        there = {metric.key for metric in model.metrics or () if metric.dataset_digest == evaluation.eval_id}
        metrics = [
            Metric(
                key,
                value,
                evaluation.timestamp_ms,
                checkpoint.step,
                model_id=model.model_id,
                dataset_name=evaluation.suite,
                dataset_digest=evaluation.eval_id,
            )
            for key, value in evaluation.values.items()
            if key not in there
        ]
        for start in range(0, len(metrics), MAX_BATCH_METRICS):
            self.client.log_batch(run.info.run_id, metrics=metrics[start : start + MAX_BATCH_METRICS])
        for file in evaluation.files:
            self.client.log_artifact(run.info.run_id, str(file), f"evals/step_{checkpoint.step:08d}")

    def _settle_status(self, run: Run, status: str, ended_ms: int | None) -> None:
        same_end = ended_ms is None or run.info.end_time == ended_ms
        if run.info.status == status and same_end:
            return
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run.info.run_id, status=status)
        else:
            self.client.set_terminated(run.info.run_id, status, ended_ms)


def _is_of_other_weights(model: LoggedModel, checkpoint: CheckpointRecord) -> bool:
    """Whether a logged model has the scores of weights that are no more; those logged without a hash count as equal."""
    logged, ours = model.tags.get(intended.WEIGHTS), checkpoint.tags.get(intended.WEIGHTS)
    return logged is not None and ours is not None and logged != ours


def _row_metrics(row: dict[str, Any]) -> list[Any]:
    from mlflow.entities import Metric

    values = {key: value for key, value in row.items() if key not in (spool.STEP, spool.TIME, spool.TOKENS)}
    values[spool.TRAIN_TOKENS] = row[spool.TOKENS]
    timestamp_ms = int(row[spool.TIME] * 1000)
    return [
        Metric(key, float(value), timestamp_ms, row[spool.STEP])
        for key, value in values.items()
        if isinstance(value, int | float)
    ]
