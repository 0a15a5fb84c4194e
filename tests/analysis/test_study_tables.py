"""A study read from the database's tables is the one that MLflow's own interface gives, dtype for dtype."""

import json
import math
import shutil
import sqlite3
import tempfile
from pathlib import Path

import outputs_tree
import pandas as pd
import pytest
from servers import missing_for_postgres, postgres

from analysis import experiment_store, study_tables
from analysis.load import load_study

SMALL = {"sizes": {"m0_03": 30_000, "m0_1": 100_000}, "budgets": (50_000, 100_000), "row_every": 20}


def both_ways(name, uri, monkeypatch):
    """The frame from the tables, after it has been compared with MLflow's."""
    read = []
    with monkeypatch.context() as patch:
        patch.setattr(experiment_store, "open_study", lambda *_: pytest.fail("MLflow was asked"))
        read.append(load_study(name, uri))
    with monkeypatch.context() as patch:
        patch.setattr(experiment_store, "read_tables", lambda *_: None)
        read.append(load_study(name, uri))
    pd.testing.assert_frame_equal(read[0], read[1])
    assert read[0].attrs == read[1].attrs
    return read[0]


def publish(made):
    from workbench.tracking.mlflow import default_uri, publish_study

    publish_study(made.layout, made.study)
    return default_uri(made.layout)


def test_a_whole_study(published, monkeypatch):
    made, uri = published
    assert len(both_ways(made.study, uri, monkeypatch)) == len(made.values)


def test_lacking_and_several_evaluations(root, monkeypatch):
    """Two studies in one database; one has a checkpoint without result, one with two, and values that are not finite."""
    from workbench.study.evaluation_files import write_result

    made = outputs_tree.make_study(root, **SMALL)
    first, *_, last = sorted(root.glob("stages/*/checkpoints/*/evals/embedded-*6789.json"))
    first.unlink()
    result = json.loads(last.read_text())
    result |= {"eval_id": "ffff", "date": result["date"] + 100}
    result["results"] = {"heldout_prose": {"bits_per_byte,none": math.inf, "bits_per_byte_stderr,none": 0.5}}
    write_result(last.with_name("embedded-ffff.json"), result, {})
    uri = publish(made)
    publish(outputs_tree.make_study(root, "other", sizes={"m1": 5}, budgets=(9_000,), evaluated=False))
    frame = both_ways(made.study, uri, monkeypatch)
    assert frame["value"].isna().sum() == 4
    assert math.inf in set(frame["value"])
    assert both_ways("other", uri, monkeypatch)["metric"].isna().all()


def test_tags_dropped_stages_and_deleted_runs(root, monkeypatch):
    from mlflow import MlflowClient

    made = outputs_tree.make_study(root, **SMALL)
    file = made.layout.study_file(made.study)
    plan = json.loads(file.read_text()) | {"analysis": "isoflop"}
    status = made.layout.stage(plan["points"][0]["chain"][-1]["stage"])
    for checkpoint in status.list_checkpoints():
        (checkpoint / "manifest.json").unlink()
    status.status.write_text(json.dumps({"state": "failed", "error": "loss is nan", "time": 1.0, "host": "h"}))
    file.write_text(json.dumps(plan))
    uri = publish(made)
    frame = both_ways(made.study, uri, monkeypatch)
    assert frame.attrs["analysis"] == "isoflop"
    assert json.loads(frame.attrs["failed_points"])[0]["error"] == "loss is nan"
    fewer = {i: stage for i, stage in plan["stages"].items() if stage["stage"]["model"]["name"] == "m0_1"}
    points = [point for point in plan["points"] if point["chain"][0]["stage"] in fewer]
    file.write_text(json.dumps({**plan, "stages": fewer, "points": points}))
    publish(made)
    assert set(both_ways(made.study, uri, monkeypatch)["model"]) == {"m0_1"}
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(made.study).experiment_id
    [run, *_] = client.search_runs([experiment], "tags.kind = 'stage' and tags.planned = 'true'")
    client.delete_run(run.info.run_id)
    [model, *_] = client.search_logged_models([experiment])
    client.delete_logged_model(model.model_id)
    frame = both_ways(made.study, uri, monkeypatch)
    assert run.info.run_id not in set(frame["run_id"])


def test_other_stores_are_left_to_mlflow(root, monkeypatch):
    """A server, a schema that is not known, an unknown study, a file that is no database."""
    made = outputs_tree.make_study(root, **SMALL)
    uri = publish(made)
    assert study_tables.read_tables(made.study, uri) is not None
    assert study_tables.read_tables(made.study, "http://127.0.0.1:5000") is None
    assert study_tables.read_tables("nothing", uri) is None
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    assert study_tables.read_tables(made.study, uri) is None
    monkeypatch.delenv("MLFLOW_ENABLE_WORKSPACES")
    with sqlite3.connect(made.layout.database) as connection:
        connection.execute("update alembic_version set version_num = '0000'")
    connection.close()
    assert study_tables.read_tables(made.study, uri) is None
    (root / "none.db").write_text("this is no database, " * 100)
    assert study_tables.read_tables(made.study, f"sqlite:///{root / 'none.db'}") is None


@pytest.fixture
def postgres_uri():
    reason = missing_for_postgres()
    if reason:
        pytest.skip(reason)
    # pytest's folders are closed to other users, and PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="workbench-postgres-"))
    folder.chmod(0o755)
    try:
        with postgres(folder / "postgres") as address:
            yield f"postgresql+psycopg://{address}"
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_study_in_postgresql(tmp_path, postgres_uri, monkeypatch):
    """Its SQL has other types and quotes other names, and its booleans and numbers that are not finite are its own."""
    from workbench.study.evaluation_files import write_result
    from workbench.tracking.mlflow import publish_study

    made = outputs_tree.make_study(tmp_path, **SMALL)
    *_, last = sorted(tmp_path.glob("stages/*/checkpoints/*/evals/embedded-*6789.json"))
    result = json.loads(last.read_text())
    result |= {"eval_id": "ffff", "date": result["date"] + 100}
    result["results"] = {"heldout_prose": {"bits_per_byte,none": math.inf, "bits_per_byte_stderr,none": 0.5}}
    write_result(last.with_name("embedded-ffff.json"), result, {})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    publish_study(made.layout, made.study, postgres_uri)
    assert not list(elsewhere.iterdir())
    assert list((made.layout.artifacts / made.study).glob("*/artifacts/stage.yaml"))
    assert math.inf in set(both_ways(made.study, postgres_uri, monkeypatch)["value"])
    assert study_tables.read_tables("another", postgres_uri) is None
