"""Publishing is exact whatever happened before: nothing twice, nothing missing."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import outputs_tree
import pytest
from outputs_tree import make_study, row_of
from stored_runs import SMALL, run_infos, stored_counts

from workbench.study.evaluation_files import documents_path
from workbench.study.files import exclusive
from workbench.study.layout import Layout
from workbench.tracking import spool
from workbench.tracking.mlflow import default_uri, publish_study


def stored_rows(layout: Layout) -> Counter:
    """Every stored training metric as (stage, key, step, timestamp, value), with how often it is there."""
    with sqlite3.connect(layout.database) as connection:
        query = """select tags.value, metrics.key, metrics.step, metrics.timestamp, metrics.value from metrics
                   join tags on tags.run_uuid = metrics.run_uuid and tags.key = 'stage'
                   where metrics.key like 'train/%'"""
        found = Counter(connection.execute(query).fetchall())
    connection.close()
    return found


def expected_rows(layout: Layout, study: str) -> Counter:
    """What the files say, up to each stage's last complete checkpoint."""
    expected = Counter()
    for stage_id in json.loads(layout.study_file(study).read_text())["stages"]:
        stage = layout.stage(stage_id)
        last = max(int(path.name.split("_")[1]) for path in stage.list_checkpoints())
        for row in spool.read_rows(stage.path, last):
            values = {key: value for key, value in row.items() if key.startswith("train/")}
            for key, value in {**values, "train/tokens": row["tokens"]}.items():
                expected[stage_id, key, row["step"], int(row["time"] * 1000), float(value)] += 1
    return expected


def test_everything_arrives_and_again_adds_nothing(root):
    made = make_study(root, **SMALL)
    report = publish_study(made.layout, made.study)
    assert (report.rows, report.checkpoints, report.evaluations) == (made.rows, made.checkpoints, made.evaluations)
    assert report.runs == 6
    assert stored_rows(made.layout) == expected_rows(made.layout, made.study)
    before = stored_counts(made.layout)
    again = publish_study(made.layout, made.study)
    assert (again.rows, again.checkpoints, again.evaluations, again.runs) == (0, 0, 0, 0)
    assert stored_counts(made.layout) == before


def test_rows_in_several_batches_arrive_once(root, monkeypatch):
    monkeypatch.setattr("workbench.tracking.mlflow.MAX_BATCH_METRICS", 20)
    made = make_study(root, **SMALL)
    publish_study(made.layout, made.study)
    assert stored_rows(made.layout) == expected_rows(made.layout, made.study)


def test_rows_after_the_last_checkpoint_wait(root):
    """A resumed stage truncates and computes them again, with other times and, here, other values."""
    made = make_study(root, **SMALL)
    stage_id = next(iter(json.loads(made.layout.study_file(made.study).read_text())["stages"]))
    stage = made.layout.stage(stage_id)
    durable = max(int(path.name.split("_")[1]) for path in stage.list_checkpoints())
    with spool.MetricsWriter(stage.metrics) as writer:
        for step in range(durable + 1, durable + 8):
            writer.write(row_of(step, 30_000))
    publish_study(made.layout, made.study)
    assert stored_rows(made.layout) == expected_rows(made.layout, made.study)

    spool.truncate_after(stage.metrics, durable)
    with spool.MetricsWriter(stage.metrics) as writer:
        for step in range(durable + 1, durable + 11):
            writer.write(row_of(step, 31_000, offset=500.0))
    manifest = json.loads((stage.checkpoint(durable) / "manifest.json").read_text())
    manifest |= {"step": durable + 10, "tokens": (durable + 10) * outputs_tree.BATCH_TOKENS}
    stage.checkpoint(durable + 10).mkdir()
    (stage.checkpoint(durable + 10) / "manifest.json").write_text(json.dumps(manifest))
    assert publish_study(made.layout, made.study).rows == 10
    found = stored_rows(made.layout)
    assert found == expected_rows(made.layout, made.study)
    assert set(found.values()) == {1}


def test_killed_between_calls_then_published_again(root, monkeypatch):
    """The publisher dies before its first call to MLflow, then before its second, and so on to the end."""
    from mlflow import MlflowClient

    monkeypatch.setattr("workbench.tracking.mlflow.MAX_BATCH_METRICS", 20)
    made = make_study(root, sizes={"m0_03": 30_000}, budgets=(50_000,), row_every=5)
    calls = ("log_batch", "create_run", "create_logged_model", "finalize_logged_model", "log_outputs", "log_artifact")
    calls += ("set_logged_model_tags", "set_terminated", "update_run", "set_tag", "create_experiment")
    state = {"left": 0}

    class Killed(BaseException):
        pass

    for name in calls:
        original = getattr(MlflowClient, name)

        def dying(self, *args, _original=original, **kwargs):
            if state["left"] == 0:
                raise Killed
            state["left"] -= 1
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(MlflowClient, name, dying)
    deaths = 0
    for survived in range(200):
        state["left"] = survived
        try:
            publish_study(made.layout, made.study)
            break
        except Killed:
            deaths += 1
    assert deaths > 5
    state["left"] = -1
    counts = stored_counts(made.layout)
    assert stored_rows(made.layout) == expected_rows(made.layout, made.study)
    # The study's run and its stages'; a model and an output a checkpoint; value and error of three metrics.
    assert counts["runs"] == 3
    assert counts["logged_models"] == counts["inputs"] == made.checkpoints
    assert counts["logged_model_metrics"] == 7 * made.evaluations


@pytest.mark.slow
def test_sigkill_then_published_again(root):
    made = make_study(root, **SMALL)
    code = (
        "import sys; from pathlib import Path; import workbench.tracking.mlflow as m;"
        "m.MAX_BATCH_METRICS = 20; from workbench.study.layout import Layout;"
        f"print('go', flush=True); m.publish_study(Layout(Path({str(root)!r})), {made.study!r})"
    )
    for pause in (1.5, 1.8, 2.2):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    publish_study(made.layout, made.study)
    assert stored_rows(made.layout) == expected_rows(made.layout, made.study)


@pytest.mark.slow
def test_four_processes_at_once_on_a_new_database(tmp_path):
    made = make_study(tmp_path, **SMALL)
    code = (
        "from pathlib import Path; from workbench.tracking.mlflow import publish_study;"
        f"from workbench.study.layout import Layout; publish_study(Layout(Path({str(tmp_path)!r})), {made.study!r})"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(4)]
    errors = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    assert stored_rows(made.layout) == expected_rows(made.layout, made.study)
    counts = stored_counts(made.layout)
    assert (counts["runs"], counts["logged_models"]) == (7, made.checkpoints)


def test_status_is_true(root):
    made = make_study(root, **SMALL)
    ids = list(json.loads(made.layout.study_file(made.study).read_text())["stages"])
    states = {
        ids[0]: ({"state": "failed", "error": "loss is nan at step 7"}, "FAILED"),
        ids[1]: ({"state": "killed"}, "KILLED"),
        ids[2]: ({"state": "running", "host": os.uname().nodename}, "RUNNING"),
        ids[3]: ({"state": "running", "host": os.uname().nodename}, "KILLED"),
    }
    for stage_id, (change, _) in states.items():
        path = made.layout.stage(stage_id).status
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        # With all its checkpoints a stage is finished, whatever a later attempt at more came to.
        shutil.rmtree(made.layout.stage(stage_id).list_checkpoints()[-1])
    with exclusive(made.layout.stage(ids[2]).lock):  # as the process that trains it does
        publish_study(made.layout, made.study)
    found = run_infos(made.layout, made.study)
    assert {stage_id: found[stage_id].info.status for stage_id in states} == {k: v for k, (_, v) in states.items()}
    assert found[ids[4]].info.status == "FINISHED"
    assert found[ids[4]].info.end_time == int((outputs_tree.START + 1e5) * 1000)
    assert found[ids[0]].data.tags["error"] == "loss is nan at step 7"
    assert "error" not in found[ids[4]].data.tags
    assert found[ids[4]].data.tags["mlflow.source.name"] == "workbench"
    assert found[""].info.status == "RUNNING"

    path = made.layout.stage(ids[2]).status
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "finished"}))
    publish_study(made.layout, made.study)
    assert run_infos(made.layout, made.study)[ids[2]].info.status == "FINISHED"


def test_tags_params_and_artifacts(root):
    from mlflow import MlflowClient

    made = make_study(root, **SMALL)
    publish_study(made.layout, made.study)
    plan = json.loads(made.layout.study_file(made.study).read_text())
    runs = run_infos(made.layout, made.study)
    client = MlflowClient(tracking_uri=default_uri(made.layout))
    for stage_id, entry in plan["stages"].items():
        run, tags = runs[stage_id], runs[stage_id].data.tags
        parent = entry["stage"]["parent"]
        assert tags["parent"] == (parent["stage"] if parent else "")
        assert (tags["study"], tags["trajectory"]) == (made.study, entry["trajectory"])
        assert (tags["commit"], tags["dirty"], tags["host"]) == ("c0ffee", "false", "elsewhere")
        assert json.loads(tags["numerics"]) == {"device": "cpu", "threads": 1}
        assert tags["mlflow.parentRunId"] == runs[""].info.run_id
        assert run.data.params["model.width"] == "32"
        assert run.data.params["stream.mixture"].startswith("[{")
        names = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert {"stage.yaml", "code", "evals"} <= names
        points = [p["name"] for p in plan["points"] for part in p["chain"] if part["stage"] == stage_id]
        assert tags["points"] == " | ".join(points)
    assert Path(client.download_artifacts(runs[""].info.run_id, "study.json")).exists()


def test_shared_stage_is_published_into_each_study_and_paid_once(root):
    first = make_study(root, "first", **SMALL)
    plan = json.loads(first.layout.study_file("first").read_text())
    second = plan | {"study": "second", "created": plan["created"] + 10}
    first.layout.study("second").mkdir()
    first.layout.study_file("second").write_text(json.dumps(second))
    publish_study(first.layout, "second")
    publish_study(first.layout, "first")
    for study, counted in (("first", "true"), ("second", "false")):
        tags = [run.data.tags for key, run in run_infos(first.layout, study).items() if key]
        assert len(tags) == 6
        assert {(one["cost_owner"], one["cost_counted"]) for one in tags} == {("first", counted)}


def test_longer_budget_extends_a_trunk_that_is_published(root):
    """Targets are no params: a trunk that goes on is the same run."""
    made = make_study(root, **SMALL)
    publish_study(made.layout, made.study)
    file = made.layout.study_file(made.study)
    plan = json.loads(file.read_text())
    for entry in plan["stages"].values():
        entry["stage"]["end_tokens"] *= 2
        entry["stage"]["model"]["name"] = "renamed"
    file.write_text(json.dumps(plan))
    assert publish_study(made.layout, made.study).runs == 0
    assert all(
        run.info.run_name.startswith("renamed") for key, run in run_infos(made.layout, made.study).items() if key
    )


def test_runs_say_what_the_study_varies_and_older_ones_keep_their_names(root):
    from mlflow import MlflowClient

    made = make_study(root, **SMALL)
    file = made.layout.study_file(made.study)
    plan = json.loads(file.read_text())
    for point in plan["points"]:
        point["name"] += ",variant=gelu,optimizer.learning_rate=0.004"
        point["config"] = {"variant": {"name": "gelu"}}
    file.write_text(json.dumps(plan))
    publish_study(made.layout, made.study)
    client = MlflowClient(tracking_uri=default_uri(made.layout))
    stages = {key: run for key, run in run_infos(made.layout, made.study).items() if key}
    assert {run.data.tags["variant"] for run in stages.values()} == {"gelu"}
    assert all(" gelu rate 0.004 " in run.info.run_name for run in stages.values())
    older = next(iter(stages))
    client.delete_tag(stages[older].info.run_id, "named_by")
    publish_study(made.layout, made.study)
    named = {key: run.info.run_name for key, run in run_infos(made.layout, made.study).items() if key}
    assert named[older] == stages[older].info.run_name.replace(" gelu rate 0.004", "")
    assert all(named[key] == run.info.run_name for key, run in stages.items() if key != older)


def test_damaged_result_is_named_and_the_rest_arrives(root):
    made = make_study(root, **SMALL)
    victim = next(iter(sorted(root.glob("stages/*/checkpoints/*/evals/embedded-*6789.json"))))
    whole = victim.read_text()
    victim.write_text(whole.replace('"acc,none": 0.', '"acc,none": 1.'))
    assert victim.read_text() != whole
    report = publish_study(made.layout, made.study)
    assert report.evaluations == made.evaluations - 1
    assert len(report.skipped) == 1
    assert f"{victim} is damaged: it does not match its checksum" in report.skipped[0]
    victim.write_text(whole)
    documents = documents_path(victim)
    columns = documents.read_text()
    documents.write_text(columns[: len(columns) // 2])
    assert str(documents) in publish_study(made.layout, made.study).skipped[0]
    documents.write_text(columns)
    report = publish_study(made.layout, made.study)
    assert (report.evaluations, report.skipped) == (1, ())


def test_unknown_study_is_refused(root):
    with pytest.raises(ValueError, match="study 'nothing' has no"):
        publish_study(Layout(root), "nothing")
