"""Two outputs folders, one store: neither deletes what the other has published, and a folder may be moved."""

import argparse
import json
import shutil

import pytest
from outputs_tree import make_study

from workbench.cli.study_verbs import _check_store
from workbench.study.layout import Layout
from workbench.tracking.connection import default_uri
from workbench.tracking.mlflow import PublishError, log_figures, publish_study
from workbench.tracking.owner import OUTPUTS, OWNER, ForeignExperimentError, check_store, make_owner

SMALL = {"sizes": {"m0_03": 30_000}, "budgets": (250_000,), "evaluated": False}


@pytest.fixture
def store(tmp_path, empty_database):
    """A store that everybody shares, and its client."""
    from mlflow import MlflowClient

    folder = tmp_path / "shared"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    uri = default_uri(Layout(folder))
    return uri, MlflowClient(tracking_uri=uri)


def person(root, *, later=0.0, **changes):
    """One person's outputs with a study `synthetic`, trained so many seconds later."""
    root.mkdir()
    made = make_study(root, **(SMALL | changes))
    shift_rows(made.layout, later)
    return made.layout


def shift_rows(layout, seconds):
    for file in (layout.root / "stages").glob("*/metrics.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**row, "time": row["time"] + seconds}) + "\n" for row in rows))


def runs_of(client):
    [found] = [e for e in client.search_experiments() if e.name == "synthetic"]
    runs = client.search_runs([found.experiment_id])
    return found, {run.info.run_id: (run.data.tags, run.data.metrics, run.info.status) for run in runs}


def forget(client, *tags):
    """Make an experiment look as earlier versions left it."""
    found, _ = runs_of(client)
    for tag in tags:
        client.delete_experiment_tag(found.experiment_id, tag)


def test_another_folders_runs_are_left_alone(tmp_path, store):
    uri, client = store
    mine, theirs = person(tmp_path / "mine"), person(tmp_path / "theirs", seeds=(1,))
    publish_study(mine, "synthetic", uri)
    before = runs_of(client)[1]
    with pytest.raises(ForeignExperimentError, match=r"^[^\n]*$") as error:
        publish_study(theirs, "synthetic", uri)
    assert all(part in str(error.value) for part in ("'synthetic'", str(mine.root), "study=", "tracking.uri"))
    with pytest.raises(ForeignExperimentError):
        log_figures(theirs, "synthetic", [], uri)
    assert runs_of(client)[1] == before
    assert publish_study(mine, "synthetic", uri).runs == 0


def test_a_folder_that_was_moved_is_known_and_says_where_it_is_now(tmp_path, store):
    uri, client = store
    publish_study(person(tmp_path / "mine"), "synthetic", uri)
    before = runs_of(client)[1]
    moved = Layout((tmp_path / "mine").rename(tmp_path / "moved"))
    publish_study(moved, "synthetic", uri)
    found, after = runs_of(client)
    assert set(after) == set(before)
    assert found.tags[OWNER].endswith(f":{tmp_path / 'moved'}")
    assert found.tags[OUTPUTS] == make_owner(moved).id


def test_an_experiment_without_a_mark_is_taken_by_whose_runs_it_holds(tmp_path, store):
    """Both have trained the same stages; the times of their rows tell whose the runs are."""
    uri, client = store
    mine, theirs = person(tmp_path / "mine"), person(tmp_path / "theirs", later=60.0)
    publish_study(mine, "synthetic", uri)
    forget(client, OUTPUTS, OWNER)
    with pytest.raises(ForeignExperimentError, match=str(mine.root)):
        publish_study(theirs, "synthetic", uri)
    moved = Layout(mine.root.rename(tmp_path / "moved"))
    publish_study(moved, "synthetic", uri)
    assert runs_of(client)[0].tags[OUTPUTS] == make_owner(moved).id


def test_it_is_taken_too_where_a_stage_was_begun_afresh(tmp_path, store):
    uri, client = store
    mine = person(tmp_path / "mine")
    publish_study(mine, "synthetic", uri)
    forget(client, OUTPUTS)
    shift_rows(mine, 60.0)
    publish_study(mine, "synthetic", uri)
    assert OUTPUTS in runs_of(client)[0].tags


def test_results_of_others_under_the_studys_name_are_left_alone(tmp_path, store):
    uri, client = store
    experiment = client.create_experiment("synthetic", artifact_location=tmp_path.as_uri())
    client.create_run(experiment, tags={"kind": "stage", "stage": "a", "reference": "true"})
    with pytest.raises(ForeignExperimentError, match="import"):
        publish_study(person(tmp_path / "mine"), "synthetic", uri)
    assert len(runs_of(client)[1]) == 1


def test_a_foreign_store_is_refused_before_anything_is_trained(tmp_path, store, closed_port):
    uri, _ = store
    mine, theirs = person(tmp_path / "mine"), person(tmp_path / "theirs")
    check_store(mine, "synthetic", uri, 5.0)
    publish_study(mine, "synthetic", uri)
    check_store(mine, "synthetic", uri, 5.0)
    with pytest.raises(ForeignExperimentError):
        check_store(theirs, "synthetic", uri, 5.0)
    with pytest.raises(PublishError, match="nonsense"):
        check_store(theirs, "synthetic", "nonsense://x", 5.0)
    check_store(theirs, "synthetic", closed_port, 5.0)  # may be up later
    tracking = argparse.Namespace(publish=True, uri=uri, timeout_seconds=5.0)
    plan, config = argparse.Namespace(study="synthetic"), argparse.Namespace(tracking=tracking)
    with pytest.raises(ForeignExperimentError):
        _check_store(argparse.Namespace(config=config, layout=theirs, plan=plan))
    tracking.publish = False
    _check_store(argparse.Namespace(config=config, layout=theirs, plan=plan))
