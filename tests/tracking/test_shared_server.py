"""Outputs that several machines share: one writer of SQLite, states as the files have them, no run twice."""

import json
import socket
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient
from outputs_tree import make_study, row_of

from workbench.study.files import is_held
from workbench.tracking import connection
from workbench.tracking.mlflow import PublishError, PublishReport, default_uri, publish_study

SMALL = {"sizes": {"m0_03": 30_000}, "budgets": (50_000, 100_000), "row_every": 5}


def stage_ids(made):
    return list(json.loads(made.layout.study_file(made.study).read_text())["stages"])


def stored_runs(made):
    client = MlflowClient(default_uri(made.layout))
    experiment = client.get_experiment_by_name(made.study).experiment_id
    return client, experiment, client.search_runs([experiment])


def test_the_database_is_locked_while_it_is_written(root, monkeypatch):
    made = make_study(root, **SMALL)
    lock, held = made.layout.database.with_name("mlflow.db.lock"), set()
    send = MlflowClient.log_batch

    def send_and_look(client, *arguments, **options):
        held.add(is_held(lock))
        return send(client, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "log_batch", send_and_look)
    publish_study(made.layout, made.study)
    assert held == {True}
    assert not is_held(lock)


def test_another_studys_publisher_is_waited_for_in_bounded_time(root, monkeypatch):
    made = make_study(root, **SMALL)
    lock = made.layout.database.with_name("mlflow.db.lock")
    code = (
        "import sys; from pathlib import Path; from workbench.tracking.connection import hold_lock\n"
        f"with hold_lock(Path({str(lock)!r})): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        monkeypatch.setattr(connection, "LOCK_SECONDS", 1.0)
        began = time.monotonic()
        with pytest.raises(PublishError, match=f"process {other.pid} on {socket.gethostname()} has held") as caught:
            publish_study(made.layout, made.study)
        assert 1 <= time.monotonic() - began < 10
        assert "\n" not in str(caught.value)
    finally:
        other.communicate()
    assert publish_study(made.layout, made.study).rows == made.rows


def test_a_folder_without_locks_is_said(root, monkeypatch):
    made = make_study(root, **SMALL)

    def refuse(file):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("workbench.study.files._try_lock", refuse)
    with pytest.raises(PublishError, match=r"mlflow\.db\.lock cannot be locked: .*No locks available"):
        publish_study(made.layout, made.study)


def test_a_stage_on_another_host_runs_as_its_file_says(root):
    made = make_study(root, **SMALL)
    trunk = made.layout.stage(stage_ids(made)[0])
    for checkpoint in trunk.list_checkpoints()[1:]:
        (checkpoint / "manifest.json").unlink()
    status = json.loads(trunk.status.read_text())
    for host, state in (("n2", "RUNNING"), (socket.gethostname(), "KILLED")):
        trunk.status.write_text(json.dumps(status | {"state": "running", "host": host}))
        publish_study(made.layout, made.study)
        _, _, runs = stored_runs(made)
        assert {run.info.status for run in runs if run.data.tags.get("stage") == trunk.id} == {state}


def test_queued_stages_are_published_as_such_and_complete_later(root):
    """A study is published at any moment: a claimed stage, one without a checkpoint, one that is done."""
    made = make_study(root, **SMALL)
    trunk, first, second = (made.layout.stage(stage) for stage in stage_ids(made))
    whole = {path: path.read_bytes() for stage in (first, second) for path in stage.path.rglob("*") if path.is_file()}
    for path in whole:
        path.unlink()
    second.jobs.mkdir()
    (second.jobs / "claim.json").write_text("{}")
    first.metrics.write_text(json.dumps(row_of(21, 30_000)) + "\n")
    assert publish_study(made.layout, made.study).runs == 3
    _, _, runs = stored_runs(made)
    states = {run.data.tags.get("stage", ""): run.info.status for run in runs}
    assert states == {"": "SCHEDULED", trunk.id: "FINISHED", first.id: "SCHEDULED", second.id: "SCHEDULED"}
    for path, content in whole.items():
        path.write_bytes(content)
    report = publish_study(made.layout, made.study)
    assert (report.runs, report.evaluations) == (0, 2)
    _, _, runs = stored_runs(made)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert publish_study(made.layout, made.study) == PublishReport()


def test_a_run_made_twice_is_dropped_and_others_are_left_alone(root):
    """What a request does whose answer was lost and that was carried out late."""
    made = make_study(root, **SMALL)
    publish_study(made.layout, made.study)
    client, experiment, runs = stored_runs(made)
    for run in runs:
        tags = {key: run.data.tags[key] for key in ("kind", "study", "stage") if key in run.data.tags}
        client.create_run(experiment, tags=tags)
    [model, *_] = client.search_logged_models([experiment])
    client.create_logged_model(
        experiment, source_run_id=model.source_run_id, tags={"kind": "checkpoint"}, params=model.params
    )
    mine = client.create_run(experiment, tags={"note": "made by hand"})
    assert publish_study(made.layout, made.study) == PublishReport()
    _, _, left = stored_runs(made)
    assert {run.info.run_id for run in left} == {run.info.run_id for run in [*runs, mine]}
    assert len(client.search_logged_models([experiment])) == made.checkpoints


def test_the_servers_address_comes_from_the_environment(monkeypatch):
    from workbench.config.compose import composer

    for address in ("http://login1:5000", None):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        if address:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with composer() as hydra:
            [point] = hydra.points(["tracking=server"])
        assert point.config.tracking.uri == (address or "http://127.0.0.1:5000")
