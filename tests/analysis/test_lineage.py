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
from analysis.fitting import fit_law
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
    "duplicates_figure": lambda frame: analysis.figures.duplicates_figure(made_studies.duplicates(frame), BITS),
    "diagnostics_figure": lambda frame: analysis.figures.diagnostics_figure(*fitted(frame)),
    "fit_figure": lambda frame: analysis.figures.fit_figure(*fitted(frame)),
    "isoflop_figure": lambda frame: analysis.figures.isoflop_figure(select_loss(made_studies.isoflop(frame), BITS)),
    "loss_surface_figure": lambda frame: analysis.figures.loss_surface_figure(*fitted(frame)),
    "position_figure": lambda frame: analysis.figures.position_figure(made_studies.extend(frame)),
    "predicted_figure": lambda frame: analysis.figures.predicted_figure(*fitted(frame)),
    "repetition_figure": drawn_repetition,
    "seeds_figure": lambda frame: analysis.figures.seeds_figure(made_studies.seeds(frame), BITS),
    "sweep_figure": lambda frame: analysis.figures.sweep_figure(
        made_studies.sweep(frame), BITS, "optimizer.learning_rate", panels="recipe.batch_sequences"
    ),
    "token_scaling_figure": lambda frame: analysis.figures.token_scaling_figure(frame, [BITS]),
    "tuned_figure": lambda frame: analysis.figures.tuned_figure(made_studies.tuning(frame), [BITS]),
    "transfer_figure": lambda frame: analysis.figures.transfer_figure(made_studies.transfer(frame), BITS, noise=0.01),
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


def at_rates(study):
    """Every run of an ablation at three rates; `gelu` is best at the highest, the others at the middle one."""
    runs = []
    for place, rate in enumerate(("0.004", "0.008", "0.016")):
        best = study["point"].str.contains("gelu").map({True: 2, False: 1})
        more = {name: study[name] + f"/{rate}" for name in ("checkpoint", "run_id")}
        value = study["value"] + 0.05 * (best - place).abs()
        runs.append(study.assign(point=study["point"] + f",optimizer.learning_rate={rate}", value=value, **more))
    return pd.concat(runs, ignore_index=True)


def test_behind_a_difference_are_its_own_runs_alone(frame):
    """Each side at the rate chosen for it, and the seeds that both have: nothing else made the number."""
    study, rate = at_rates(made_studies.ablation(frame)), partial(override_of, key="optimizer.learning_rate")
    lost = (VARIANT(study) == "base") & (study["seed_init"] == 3)
    study = study[~lost]
    table = ablation_table(study, [BITS], baseline="base", variant=VARIANT, rate=rate)
    _, points = analysis.figures.ablation_figure(table, study, variant=VARIANT, rate=rate)
    chosen = {"base": "0.008", "gelu": "0.016", "layernorm": "0.008", "more_code": "0.008"}
    assert set(table["baseline_rate"]) == {"0.008"}
    assert dict(zip(table["variant"], table["rate"], strict=True)) == {k: v for k, v in chosen.items() if k != "base"}
    known = study[study["metric"] == BITS].assign(label=VARIANT(study), rate=rate(study))
    for place, name in enumerate(table["variant"]):
        sides = [known[(known["label"] == one) & (known["rate"] == chosen[one])] for one in (name, "base")]
        wanted = pd.concat(sides)
        rows = points[points["mark"] == f"p{place}"]
        assert set(rows["run_id"]) == set(wanted.loc[wanted["seed_init"] != 3, "run_id"])
        assert len(rows) == 2 * table["seeds"][place] == 6
        own = VARIANT(rows) == name
        difference = rows.loc[own, "value"].mean() - rows.loc[~own, "value"].mean()
        assert rows["x"].iloc[0] == pytest.approx(difference)
    with pytest.raises(ValueError, match="give the same rate="):
        analysis.figures.ablation_figure(table, study, variant=VARIANT)


def test_behind_a_branchs_difference_are_its_pairs_alone(frame):
    """A branch whose trunk has no baseline makes no part of the difference."""
    study = made_studies.continual(frame)
    study = study[study["metric"] == BITS]
    alone = study.assign(
        trajectory="other",
        value=study["value"] + 1,
        run_id=study["run_id"] + "/2",
        checkpoint=study["checkpoint"] + "/.",
    )
    alone["stage"] = alone["stage"].where(study["stage"] != study["trajectory"], "other")
    alone = alone[~alone["model"].str.endswith("continual_prose")]
    both = pd.concat([study, alone], ignore_index=True)
    _, points = analysis.figures.continual_figure(both, [BITS], baseline="continual_prose")
    behind = points[points["role"] == "difference"]
    ends = study[study["annealed"]]
    assert set(behind["run_id"]) == set(ends["run_id"])
