"""From a mark on every figure to the config, commit, data, checkpoint and evaluation that made it."""

import importlib.util
import json
import math
import re
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import yaml

import analysis.figures
from analysis.ablation import ablation_table
from analysis.figures import FIGURES, POINT_COLUMNS, save_figure
from analysis.fit import fit_law
from analysis.frames import select_loss
from analysis.laws import Chinchilla
from analysis.lineage import read_lineage, source_of, source_table
from analysis.overrides import override_of

spec = importlib.util.spec_from_file_location("made_studies", Path(__file__).with_name("made_studies.py"))
made_studies = importlib.util.module_from_spec(spec)
sys.modules["made_studies"] = made_studies
spec.loader.exec_module(made_studies)

BITS = made_studies.BITS
VARIANT = partial(override_of, key="variant")


def fitted(frame):
    rows = select_loss(frame, BITS)
    return rows, fit_law(Chinchilla(), rows, holdout=1e6, starts=20)


def drawn_ablation(frame):
    study = made_studies.ablation(frame)
    table = ablation_table(study, [BITS], baseline="base", variant=VARIANT)
    return analysis.figures.ablation_figure(table, study, variant=VARIANT)


def drawn_repetition(frame):
    rows = select_loss(made_studies.repetition(frame), BITS)
    return analysis.figures.repetition_figure(rows, decay=5.0)


DRAW = {
    "ablation_figure": drawn_ablation,
    "continual_figure": lambda frame: analysis.figures.continual_figure(
        made_studies.continual(frame), [BITS], baseline="continual_prose"
    ),
    "diagnostics_figure": lambda frame: analysis.figures.diagnostics_figure(*fitted(frame)),
    "fit_figure": lambda frame: analysis.figures.fit_figure(*fitted(frame)),
    "isoflop_figure": lambda frame: analysis.figures.isoflop_figure(select_loss(made_studies.isoflop(frame), BITS)),
    "loss_surface_figure": lambda frame: analysis.figures.loss_surface_figure(*fitted(frame)),
    "predicted_figure": lambda frame: analysis.figures.predicted_figure(*fitted(frame)),
    "repetition_figure": drawn_repetition,
    "sweep_figure": lambda frame: analysis.figures.sweep_figure(
        made_studies.sweep(frame), BITS, "optimizer.learning_rate", panels="recipe.batch_sequences"
    ),
    "token_scaling_figure": lambda frame: analysis.figures.token_scaling_figure(frame, [BITS]),
}


def test_no_figure_is_forgotten():
    """Every public figure function is in the list, and every one in the list is walked below."""
    public = {name for name in analysis.figures.__all__ if name.endswith("_figure") and name != "save_figure"}
    assert public == set(FIGURES) == set(DRAW)


@pytest.mark.parametrize("name", sorted(DRAW))
def test_a_mark_leads_to_everything_that_made_it(name, published, frame, tmp_path):
    made, uri = published
    figure, points = DRAW[name](frame)
    paths = save_figure(figure, points, tmp_path, name)
    assert [path.name for path in paths] == [f"{name}.{kind}" for kind in ("svg", "png", "csv", "lineage.json")]
    marks = read_lineage(paths[3])
    assert list(pd.read_csv(paths[2]).columns) == POINT_COLUMNS
    # The same marks in the SVG, the CSV and the lineage file.
    in_svg = re.findall(r'<a xlink:href="#(p\d+)"', paths[0].read_text())
    assert sorted(in_svg) == sorted(marks) == sorted(set(points["mark"]))
    assert len(in_svg) == len(set(in_svg))
    for mark in marks.values():
        assert mark.sources
        assert mark.x is not None
        assert mark.y is not None
    for mark in list(marks.values())[:3] + list(marks.values())[-3:]:
        for source in mark.sources:
            walk(made, uri, source)


def walk(made, uri, source):
    """Follow one source to files and to MLflow, and compare what they say."""
    from mlflow import MlflowClient

    config = yaml.safe_load(Path(source.config).read_text())
    assert config["id"] == source.stage
    manifest = json.loads((Path(source.checkpoint) / "manifest.json").read_text())
    assert manifest["stage"] == source.stage
    assert manifest["commit"] == source.commit == (Path(source.config).parent / "code" / "commit").read_text().strip()
    assert manifest["data_fingerprint"] == source.data_fingerprint
    assert config["stage"]["stream"]["data_fingerprint"] == source.data_fingerprint
    assert Path(source.data) == made.layout.data(source.data_fingerprint)
    (evaluation,) = (Path(source.checkpoint) / "evals").glob(f"*-{source.evaluation}.json")
    assert json.loads(evaluation.read_text())["eval_id"] == source.evaluation
    run = MlflowClient(tracking_uri=uri).get_run(source.run_id)
    assert run.data.tags["stage"] == source.stage
    assert source.config_artifact == f"runs:/{source.run_id}/stage.yaml"


def test_a_measured_mark_stands_at_its_source(frame):
    """A mark of one run is drawn at that run's tokens and value; one of several at their mean."""
    _, points = analysis.figures.token_scaling_figure(frame, [BITS])
    for row in points.to_dict("records"):
        assert (row["x"], row["y"]) == (row["tokens"], row["value"])
    twice = pd.concat([frame, frame.assign(seed_init=1, seed_data=1, value=frame["value"] + 0.2)])
    _, points = analysis.figures.token_scaling_figure(twice, [BITS])
    cooled = points[points["role"] == "cooled_down"]
    assert (cooled.groupby("mark").size() == 2).all()
    means = cooled.groupby("mark")["value"].mean()
    assert cooled.groupby("mark")["y"].first().to_dict() == pytest.approx(means.to_dict())


def test_what_is_not_known_is_null():
    """A frame without lineage, and a checkpoint outside our layout, make up nothing."""
    bare = source_of({"study": None, "value": math.nan, "tokens": 5})
    assert set(vars(bare).values()) == {None}
    elsewhere = source_of({"checkpoint": "step300000", "stage": "pythia", "run_id": "r", "value": 0.5})
    assert (elsewhere.config, elsewhere.config_artifact, elsewhere.data) == (None, None, None)
    assert (elsewhere.checkpoint, elsewhere.run_id, elsewhere.value) == ("step300000", "r", 0.5)


def test_lineage_files_are_checked(tmp_path):
    path = tmp_path / "x.lineage.json"
    path.write_text('{"figure": "x"}')
    with pytest.raises(ValueError, match="not a figure's lineage file"):
        read_lineage(path)


def test_sources_as_a_table(frame, tmp_path):
    path = save_figure(*analysis.figures.token_scaling_figure(frame, [BITS]), tmp_path, "x")[3]
    table = source_table(list(read_lineage(path).values()))
    assert len(table) == 32
    assert set(table["run_id"]) == set(frame["run_id"])
