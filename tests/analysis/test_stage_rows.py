"""Histories have all rows where the files are there, from either file, and MLflow's elsewhere; and say which."""

import json
import math
import os
import shutil

import outputs_tree
import pandas as pd
import pytest

from analysis import load, stage_rows
from analysis.load import load_history
from workbench.tracking import spool
from workbench.tracking.metrics_table import write_table
from workbench.tracking.mlflow import default_uri, publish_study

METRICS = ("train/loss", "train/gradient_norm", "train/tokens", "train/nothing")
BUDGET = 3_000_000


@pytest.fixture
def made(root):
    """A trunk of 1,200 steps and its cooldown of 300."""
    made = outputs_tree.make_study(root, sizes={"m0_03": 30_000}, budgets=(BUDGET,), row_every=1, evaluated=False)
    publish_study(made.layout, made.study)
    return made


def stages(made):
    return [made.layout.stage(stage) for stage in json.loads(made.layout.study_file(made.study).read_text())["stages"]]


def test_all_rows_come_from_the_files_and_mlflows_are_among_them(made, monkeypatch):
    whole = load_history(made.study, METRICS, default_uri(made.layout))
    assert len(whole) == made.rows == 1_500
    assert set(whole["read_from"]) == {"files"}
    monkeypatch.setattr(load, "find_outputs", lambda *_: None)
    thin = load_history(made.study, METRICS, default_uri(made.layout))
    assert set(thin["read_from"]) == {"mlflow"}
    assert 1_300 < len(thin) < 1_320
    assert {"step": 1_200, "tokens": BUDGET * 4 // 5} in thin[["step", "tokens"]].to_dict("records")
    keys = ["run_id", "step"]
    same = whole.set_index(keys).loc[thin.set_index(keys).index].reset_index()
    columns = list(whole.columns.drop("read_from"))
    pd.testing.assert_frame_equal(same[columns], thin[columns], check_exact=True)


def test_the_table_gives_the_same_as_the_lines(made):
    lines = load_history(made.study, METRICS, default_uri(made.layout))
    for stage in stages(made):
        assert write_table(stage) == stage.path / "metrics.parquet"
    table = load_history(made.study, METRICS, default_uri(made.layout))
    pd.testing.assert_frame_equal(table, lines, check_exact=True)
    for stage in stages(made):
        stage.metrics.unlink()
    pd.testing.assert_frame_equal(load_history(made.study, METRICS, default_uri(made.layout)), lines, check_exact=True)


def test_what_is_missing_or_not_finite_stays_so(made):
    stage = stages(made)[0]
    rows = spool.read_rows(stage.path)
    del rows[3]["train/loss"]
    rows[4]["train/loss"], rows[5]["train/loss"] = math.inf, math.nan
    stage.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = stage_rows.read_stage_rows(made.layout.root, stage.id, METRICS)
    write_table(stage)
    table = stage_rows.read_stage_rows(made.layout.root, stage.id, METRICS)
    pd.testing.assert_frame_equal(table, lines, check_exact=True)
    assert table["train/loss"].isna().sum() == 2
    assert table.loc[4, "train/loss"] == math.inf


@pytest.mark.parametrize("damage", ["grown", "cut", "empty"])
def test_a_table_that_is_out_of_date_or_damaged_is_not_read(made, damage):
    stage = stages(made)[0]
    path = write_table(stage)
    before = stage_rows.read_stage_rows(made.layout.root, stage.id, METRICS)
    if damage == "grown":
        with spool.MetricsWriter(stage.metrics) as writer:
            writer.write(outputs_tree.row_of(1_201, 30_000))
        last = stage.list_checkpoints()[-1]
        manifest = json.loads((last / "manifest.json").read_text()) | {"step": 1_201}
        stage.checkpoint(1_201).mkdir()
        (stage.checkpoint(1_201) / "manifest.json").write_text(json.dumps(manifest))
    else:
        os.truncate(path, 100 if damage == "cut" else 0)
    after = stage_rows.read_stage_rows(made.layout.root, stage.id, METRICS)
    assert len(after) == len(before) + (damage == "grown")


def test_rows_after_the_last_checkpoint_are_not_final(made):
    stage = stages(made)[0]
    with spool.MetricsWriter(stage.metrics) as writer:
        writer.write(outputs_tree.row_of(1_201, 30_000))
    with stage.metrics.open("a") as file:
        file.write('{"step": 1202, "tok')
    assert stage_rows.read_stage_rows(made.layout.root, stage.id, METRICS)["step"].max() == 1_200
    for checkpoint in stage.list_checkpoints():
        shutil.rmtree(checkpoint)
    assert stage_rows.read_stage_rows(made.layout.root, stage.id, METRICS) is None


def test_the_outputs_are_found_where_they_are_and_only_these(made, tmp_path_factory):
    tags = {"workbench.outputs": (made.layout.root / "outputs.id").read_text().strip()}
    uri = default_uri(made.layout)
    assert stage_rows.find_outputs(tags, uri) == made.layout.root
    tags |= {"workbench.owner": f"ada@host:{made.layout.root}"}
    assert stage_rows.find_outputs(tags, "http://host:5000") == made.layout.root
    assert stage_rows.find_outputs(tags | {"workbench.owner": "ada@host:/nowhere"}, "http://host:5000") is None
    assert stage_rows.find_outputs({**tags, "workbench.outputs": "another"}, uri) is None
    assert stage_rows.find_outputs({}, uri) is None
