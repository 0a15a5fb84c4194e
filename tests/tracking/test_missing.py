"""Which points failed is read from the stages' files and stands on the study's run, for as long as it is so."""

import json
import shutil

import pytest
from outputs_tree import make_study

from analysis.failed import FAILED_POINTS, read_tag
from analysis.load import load_study
from workbench.forecast.study_facts import make_facts
from workbench.tracking.missing import failed_points, failed_points_tag
from workbench.tracking.mlflow import default_uri, publish_study

SMALL = {"sizes": {"m0_03": 30_000}, "budgets": (50_000, 100_000), "row_every": 5}
ERROR = "NonFiniteLossError: step 12: loss nan"


class Study:
    """A made-up study and its plan."""

    def __init__(self, root):
        made = make_study(root, **SMALL)
        self.layout, self.study = made.layout, made.study
        self.plan = json.loads(made.layout.study_file(made.study).read_text())


@pytest.fixture
def files(tmp_path):
    """The study as files alone."""
    return Study(tmp_path)


@pytest.fixture
def made(root):
    """The study beside an MLflow database."""
    return Study(root)


def fail(made, stage, **more):
    """Take a stage's checkpoints away, as if it had diverged before the first."""
    directory = made.layout.stage(stage)
    shutil.rmtree(directory.checkpoints, ignore_errors=True)
    status = json.loads(directory.status.read_text())
    directory.status.write_text(
        json.dumps({**status, "state": "failed", "error": ERROR, "error_class": "NonFiniteLossError", **more})
    )


def test_a_failed_stage_takes_the_points_behind_it_and_no_others(files):
    assert failed_points(files.layout, files.plan) == []
    first, second = files.plan["points"]
    fail(files, first["chain"][-1]["stage"])
    [found] = failed_points(files.layout, files.plan)
    assert (found["point"], found["cause"], found["error"]) == (first["name"], "diverged", ERROR)
    trunk = first["chain"][0]["stage"]
    fail(files, trunk)
    shutil.rmtree(files.layout.stage(second["chain"][-1]["stage"]).checkpoints)
    assert [(f["point"], f["stage"]) for f in failed_points(files.layout, files.plan)] == [
        (first["name"], trunk),
        (second["name"], trunk),
    ]


def test_a_checkpoint_that_could_not_be_scored_counts(files):
    last = files.layout.stage(files.plan["points"][0]["chain"][-1]["stage"])
    status = json.loads(last.status.read_text())
    last.status.write_text(json.dumps({**status, "evaluation_error": "task 'x' has no documents"}))
    plan = {**files.plan, "evaluation_ids": {"embedded": ["f" * 16]}}
    [found] = failed_points(files.layout, plan)
    assert (found["cause"], found["error"]) == ("evaluation", "task 'x' has no documents")


def test_an_evaluation_that_another_study_asked_for_does_not_count(files):
    """Studies share stages, and an error in `status.json` is of the latest evaluation of any of them."""
    last = files.layout.stage(files.plan["points"][0]["chain"][-1]["stage"])
    status = json.loads(last.status.read_text())
    last.status.write_text(json.dumps({**status, "evaluation_error": "another study's"}))
    [result] = [path for path in (last.list_checkpoints()[-1] / "evals").glob("*.json") if "documents" not in path.name]
    suite, _, evaluation = result.stem.rpartition("-")
    assert failed_points(files.layout, {**files.plan, "evaluation_ids": {suite: [evaluation]}}) == []
    [found] = failed_points(files.layout, {**files.plan, "evaluation_ids": {suite: [evaluation], "more": ["a" * 16]}})
    assert found["cause"] == "evaluation"


def test_a_tag_holds_as_many_as_fit_and_counts_the_rest():
    failed = [{"point": f"rate={n}", "cause": "diverged", "stage": "a", "error": "e"} for n in range(100)]
    text = failed_points_tag(failed, 1000)
    assert len(text) <= 1000
    points, left_out = read_tag(text)
    assert 5 < len(points) < 100
    assert len(points) + left_out == 100
    assert read_tag(failed_points_tag(failed, 10**6)) == (read_tag(json.dumps(failed))[0], 0)


def test_the_tag_is_there_for_as_long_as_points_lack(made):
    directory = made.layout.stage(made.plan["points"][0]["chain"][-1]["stage"])
    kept = directory.checkpoints.with_name("kept")
    shutil.copytree(directory.checkpoints, kept)
    fail(made, directory.id)
    uri = default_uri(made.layout)
    publish_study(made.layout, made.study)
    [point], _ = read_tag(load_study(made.study, uri).attrs[FAILED_POINTS])
    assert point.point == made.plan["points"][0]["name"]
    kept.rename(directory.checkpoints)
    publish_study(made.layout, made.study)
    assert read_tag(load_study(made.study, uri).attrs[FAILED_POINTS]) == ([], 0)


def test_a_study_of_nothing_says_in_one_line_what_is_missing(
    made, capsys, monkeypatch, compose, overrides, experiments
):
    from workbench.cli.show import show_results

    for stage in made.plan["stages"]:
        fail(made, stage)
    publish_study(made.layout, made.study)
    facts = make_facts(compose([*overrides, f"study={made.study}", f"paths.outputs={made.layout.root}"], experiments))
    assert not show_results(facts)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("no table and no figures: study")
    assert all(point["name"] in line for point in made.plan["points"])
    assert "diverged (NonFiniteLossError: step 12" in line
