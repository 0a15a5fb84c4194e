"""Each kind of figure holds the numbers it was given, checked through its axes and its marks."""

import importlib.util
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.ablation import ablation_table
from analysis.figures import (
    ablation_figure,
    continual_figure,
    diagnostics_figure,
    isoflop_figure,
    loss_surface_figure,
    position_figure,
    predicted_figure,
    repetition_figure,
    seeds_figure,
    sweep_figure,
    token_scaling_figure,
)
from analysis.figures.continual import branch_labels, has_branches
from analysis.fitting import fit_law
from analysis.frames import select_loss
from analysis.isoflop import fit_isoflop
from analysis.laws import Chinchilla
from analysis.overrides import override_of

if "made_studies" not in sys.modules:
    spec = importlib.util.spec_from_file_location("made_studies", Path(__file__).with_name("made_studies.py"))
    sys.modules["made_studies"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["made_studies"])
made_studies = sys.modules["made_studies"]
BITS = made_studies.BITS
DECAY = 6.0


def loss(params, tokens):
    return 1.2 + 60 / params**0.42 + 350 / tokens**0.44


@pytest.fixture
def repeated():
    """Fresh runs on a law, and repeated ones worth exactly D' tokens of it."""
    rows = [
        {"params": 1e5, "tokens": d, "unique_tokens": d, "loss": loss(1e5, d)} for d in np.geomspace(125e3, 4e6, 41)
    ]
    for unique in (125e3, 500e3):
        for epochs in (2, 4, 8):
            worth = unique * (1 + DECAY * (1 - math.exp(-(epochs - 1) / DECAY)))
            row = {"params": 1e5, "tokens": unique * epochs, "unique_tokens": unique, "loss": loss(1e5, worth)}
            rows.append(row)
    return pd.DataFrame(rows)


def test_effective_tokens_are_those_of_equal_loss(repeated):
    _, points = repetition_figure(repeated, decay=DECAY)
    effective = points[points["role"] == "effective"]
    assert len(effective) == 6
    for row in effective.to_dict("records"):
        pools = [pool for pool in (125e3, 500e3) if pool < row["x"]]
        truths = [pool * (1 + DECAY * (1 - math.exp(-(row["x"] / pool - 1) / DECAY))) for pool in pools]
        assert min(abs(row["y"] / truth - 1) for truth in truths) < 0.01


def test_half_life_is_marked(repeated):
    figure, _ = repetition_figure(repeated, decay=DECAY)
    (line,) = [one for one in figure.axes[0].get_lines() if list(one.get_xdata()) == [1 + DECAY * math.log(2)] * 2]
    assert line.get_linestyle() == ":"
    figure, _ = repetition_figure(repeated)
    assert not [one for one in figure.axes[0].get_lines() if one.get_linestyle() == ":"]


def test_losses_beyond_the_fresh_runs_are_counted(repeated):
    """Nothing is extrapolated: a repeated run worse than every fresh one has no effective tokens."""
    repeated.loc[len(repeated) - 1, "loss"] = 9.0
    figure, points = repetition_figure(repeated, decay=DECAY)
    assert (points["role"] == "effective").sum() == 5
    assert "their loss lies outside that of the fresh runs: 1." in figure.legends[0].get_title().get_text()
    with pytest.raises(ValueError, match="no run repeats its data"):
        repetition_figure(repeated[repeated["tokens"] == repeated["unique_tokens"]])
    with pytest.raises(ValueError, match="lacks the column 'unique_tokens'"):
        repetition_figure(repeated.drop(columns="unique_tokens"))


def test_branches_and_their_differences(frame):
    study = made_studies.continual(frame)
    assert has_branches(study)
    assert not has_branches(frame)
    assert set(branch_labels(study)) == {"trunk", *made_studies.BRANCHES}
    figure, points = continual_figure(study, [BITS], baseline="continual_prose")
    ends = study[(study["metric"] == BITS) & study["annealed"]].assign(branch=branch_labels(study))
    means = ends.groupby("branch")["value"].mean()
    (gap,) = points.loc[points["role"] == "difference", "y"].unique()
    # One pair of ends shares its trajectory and tokens for each run of either branch.
    assert gap == pytest.approx(means["continual_code"] - means["continual_prose"])
    trunk = study[(study["metric"] == BITS) & ~study["annealed"]]
    assert set(points.loc[points["role"] == "trunk", "y"]) == set(trunk["value"])
    branch_point = [
        line for line in figure.axes[0].get_lines() if line.get_linestyle() == ":" and len(line.get_xdata()) == 2
    ]
    assert set(branch_point[0].get_xdata()) == {trunk["tokens"].max()}
    with pytest.raises(ValueError, match="not a branch; the branches are: continual_code, continual_prose"):
        continual_figure(study, [BITS], baseline="other")
    with pytest.raises(ValueError, match="at least two"):
        continual_figure(study[study["point"] != "recipe=continual_code"], [BITS])


def test_forest_plot_holds_the_table(frame):
    study = made_studies.ablation(frame)
    variant = partial(override_of, key="variant")
    table = ablation_table(study, [BITS], baseline="base", variant=variant)
    figure, points = ablation_figure(table, study, variant=variant)
    assert points.groupby("mark")["x"].first().tolist() == pytest.approx(table["difference"].tolist())
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == table["variant"].tolist()
    for mark, rows in points.groupby("mark"):
        row = table.iloc[int(mark[1:])]
        assert set(variant(rows)) == {row["variant"], "base"}
        assert len(rows) == 2 * row["seeds"]
    bars = [group.get_segments()[0] for group in figure.axes[0].collections if hasattr(group, "get_segments")]
    assert sorted(float(bar[0][0]) for bar in bars) == pytest.approx(sorted(table["low"]))
    assert sorted(float(bar[1][0]) for bar in bars) == pytest.approx(sorted(table["high"]))
    with pytest.raises(ValueError, match="empty"):
        ablation_figure(table.iloc[:0], study, variant=variant)


def test_best_of_a_sweep_is_ringed(frame):
    study = made_studies.sweep(frame)
    _, points = sweep_figure(study, BITS, "optimizer.learning_rate")
    best = points[points["role"] == "best"]
    assert set(best["x"]) == {made_studies.RATES[2]}
    assert len(best) == 4
    with pytest.raises(ValueError, match=r"no number above 0 for 'optimizer\.weight_decay'"):
        sweep_figure(study, BITS, "optimizer.weight_decay")


def test_a_best_at_the_edge_is_not_ringed_as_one(frame):
    study = made_studies.sweep(frame)
    worse = (study["model"].str.split(" ").str[0] == "m1") & study["point"].str.contains("rate=0.00[24],")
    study.loc[worse, "value"] += 1
    figure, points = sweep_figure(study, BITS, "optimizer.learning_rate")
    best = points[points["role"] == "best"]
    assert set(best["x"]) == {made_studies.RATES[2]}
    assert len(best) == 3
    assert points.loc[points["role"] == "edge", "x"].tolist() == [made_studies.RATES[3]]
    rings = [group for group in figure.axes[0].collections if group.get_sizes().tolist() == [121]]
    assert sum(ring.get_linestyles()[0][1] is not None for ring in rings) == 1
    assert "dashed" in figure.legends[0].get_title().get_text()


def test_a_line_of_a_sweep_pools_nothing(frame):
    study = made_studies.sweep(frame)
    longer = study.assign(tokens=500_000, checkpoint=study["checkpoint"] + "/.")
    with pytest.raises(ValueError, match="would pool 250K, 500K tokens: select the rows of one"):
        sweep_figure(pd.concat([study, longer]), BITS, "optimizer.learning_rate")
    other = study.assign(point=study["point"].str.replace("=8", "=32"), checkpoint=study["checkpoint"] + "/.")
    both = pd.concat([study, other])
    with pytest.raises(ValueError, match=r"would pool recipe\.batch_sequences=32, 8"):
        sweep_figure(both, BITS, "optimizer.learning_rate")
    sweep_figure(both, BITS, "optimizer.learning_rate", panels="recipe.batch_sequences")


def test_isoflop_marks_its_optima(frame):
    rows = select_loss(made_studies.isoflop(frame), BITS)
    allocation = fit_isoflop(rows)
    figure, points = isoflop_figure(rows, allocation)
    found = points[points["role"] == "optimum"].groupby("mark")[["panel", "x", "y"]].first()
    known = allocation.optima[allocation.optima["refused"] == ""]
    valley = found[found["panel"] == BITS]
    assert sorted(valley["x"]) == pytest.approx(sorted(known["params"]))
    assert sorted(valley["y"]) == pytest.approx(sorted(known["loss"]))
    growth = found[found["panel"] == "best size"]
    assert sorted(growth["x"]) == pytest.approx(sorted(known["flops"]))
    refused = fit_isoflop(rows).optima.assign(refused="no reason")
    figure, points = isoflop_figure(rows, type(allocation)(**{**vars(allocation), "optima": refused}))
    assert "optimum" not in set(points["role"])
    assert "has no optimum: no reason." in figure.legends[0].get_title().get_text()
    warned = type(allocation)(**{**vars(allocation), "flags": ("the method alone is expected to move N* by +20%",)})
    figure, _ = isoflop_figure(rows, warned)
    assert "The method alone is expected to move N* by +20%." in figure.legends[0].get_title().get_text()
    with pytest.raises(ValueError, match="budgets and the allocation"):
        isoflop_figure(rows[rows["flops"] < 3e12], allocation)


@pytest.fixture
def fitted(law_frame):
    rows = select_loss(law_frame, BITS)
    return rows, fit_law(Chinchilla(), rows, holdout=1e6, starts=20)


def test_isoloss_lines_lie_on_the_law(fitted):
    rows, fit = fitted
    figure, points = loss_surface_figure(rows, fit)
    assert len(points) == len(rows)
    contours = next(group for group in figure.axes[0].collections if hasattr(group, "levels"))
    checked = 0
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
        for tokens, params in path.vertices[::20]:
            assert loss(params, tokens) == pytest.approx(level, rel=2e-3)
            checked += 1
    assert checked > 50
    # The lines are of 6 N D, which leaves head and attention out: no FLOPs.
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert any(text.startswith("6ND = 10") for text in texts)
    assert not any("FLOPs" in text for text in texts)
    assert "head and attention are not counted" in figure.legends[0].get_title().get_text()
    # The dashed path is the law's own optimum.
    (path,) = [line for line in figure.axes[0].get_lines() if line.get_label().startswith("lowest fitted loss")]
    for tokens, params in zip(path.get_xdata(), path.get_ydata(), strict=True):
        best = fit.optimal(6 * tokens * params)
        assert params == pytest.approx(best["params"].iloc[0], rel=1e-3)


def test_the_surface_counts_flops_as_the_runs_do(fitted):
    """With a head of its own, FLOPs grow more slowly than N, and the best size at equal FLOPs is another one."""
    rows, fit = fitted
    own = rows.assign(flops=500 * rows["params"] ** 0.6 * rows["tokens"])
    own.attrs = rows.attrs
    figure, _ = loss_surface_figure(own, fit)
    assert "500 N^0.60 D as counted by the runs" in figure.legends[0].get_title().get_text()
    (path,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "lowest fitted loss at equal FLOPs"]
    assert len(path.get_xdata()) > 10
    for tokens, params in zip(path.get_xdata(), path.get_ydata(), strict=True):
        best = fit.optimal(500 * params**0.6 * tokens, flops={"k": 500.0, "n": 0.6, "d": 1.0})
        assert params == pytest.approx(best["params"].iloc[0], rel=1e-3)


def test_residuals_are_those_of_the_fit(fitted):
    rows, fit = fitted
    rows = rows.assign(loss=rows["loss"] * np.where(rows.index == 0, 1.02, 1.0))
    rows.attrs = {"metric": BITS}
    _, points = diagnostics_figure(rows, fit)
    first = points[points["panel"] == "residual against tokens"]
    odd = first.loc[first["y"].abs().idxmax()]
    assert odd["y"] == pytest.approx(-100 * math.log(1.02), abs=0.05)
    assert (first["role"] == "held_out").sum() == 8
    quantiles = points[points["panel"] == "quantiles"].sort_values("x")
    assert (np.diff(quantiles["y"]) >= 0).all()
    assert len(quantiles) == fit.n


def test_predictions_stand_against_measurements(fitted):
    rows, fit = fitted
    _, points = predicted_figure(rows, fit)
    np.testing.assert_allclose(points["x"], points["y"], rtol=1e-3)
    assert points.loc[points["role"] == "held_out", "params_non_embedding"].unique().tolist() == [1_000_000]


def test_overlay_and_zero_tokens(law_frame):
    """A reference is drawn beside the study in its own role; what a log axis cannot show is counted."""
    reference = law_frame[law_frame["model"] == "m1"].assign(study="reference/x", model="other", tokens=3e9)
    figure, points = token_scaling_figure(law_frame, BITS, overlay=reference)
    assert (points["role"] == "reference").sum() == len(reference)
    assert figure.axes[0].get_xlim()[1] > 3e9
    law_frame.loc[law_frame.index[:3], "tokens"] = 0
    figure, points = token_scaling_figure(law_frame, BITS)
    assert len(points) == len(law_frame) - 3
    assert "a log axis cannot show 0 or unknown tokens: 3 scores." in figure.legends[0].get_title().get_text()


def test_seeds_are_dots_over_their_data_order(frame):
    """A line an initialisation, its runs in order; the band is the mean and the deviation of both seeds."""
    from analysis.noise.crossed import seed_components

    study = made_studies.seeds(frame)
    figure, points = seeds_figure(study, BITS)
    (axes,) = figure.axes
    table = study[study["metric"] == BITS].pivot_table(index="seed_init", columns="seed_data", values="value")
    assert len(points) == table.size
    for row in points.to_dict("records"):
        assert (row["x"], row["y"]) == (row["seed_data"], table.loc[row["seed_init"], row["seed_data"]])
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == table.shape[1]]
    assert [list(line.get_ydata()) for line in lines] == table.to_numpy().tolist()
    total = {part.source: part for part in seed_components(study, BITS)}["both seeds"]
    (band,) = axes.patches
    assert band.get_height() == pytest.approx(2 * total.sd)
    assert band.get_y() + total.sd == pytest.approx(table.to_numpy().mean())
    assert f"sd {total.sd:.3f}" in axes.get_title(loc="left")
    with pytest.raises(ValueError, match="evaluated on no cooled-down checkpoint"):
        seeds_figure(study, "nothing")
    lacking = study[~((study["seed_init"] == 0) & (study["seed_data"] == 1))]
    with pytest.raises(ValueError, match="seed"):
        seeds_figure(lacking, BITS)


@pytest.fixture
def extended():
    """A model of 64 positions, extended to 256 by two methods and trained further with one."""
    buckets = [(0, 15), (16, 31), (32, 63), (64, 127), (128, 255)]
    stages = [
        ("m0_1", "pretrain", 1_000, 3, 2.0),
        ("m0_1", "pretrain", 500, 3, 2.5),  # a milestone on the way
        ("m0_1 linear x4", "pretrain>rescale", 1_000, 5, 3.0),
        ("m0_1 linear x4 trained", "pretrain>rescale>extend", 1_200, 5, 1.9),
        ("m0_1 unscaled x4", "pretrain>rescale", 1_000, 5, 2.0),
    ]
    rows = [
        {
            "study": "longer", "model": model, "kinds": kinds, "tokens": tokens, "trajectory": "t", "stage": model,
            "metric": f"position/{source}/{first:04d}-{last:04d}/bits_per_byte", "value": loss - 0.1 * place,
            "stderr": 0.02,
        }
        for model, kinds, tokens, known, loss in stages
        for source in ("prose", "code")
        for place, (first, last) in enumerate(buckets[:known])
    ]  # fmt: skip
    more = {"study": "longer", "model": "m0_1", "kinds": "pretrain", "tokens": 1_000, "trajectory": "t"}
    return pd.DataFrame([*rows, {**more, "metric": "heldout/prose/bits_per_byte", "value": 2.0}])


def test_positions_are_drawn_per_method_and_the_old_context_is_marked(extended):
    figure, points = position_figure(extended)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        *("prose, unscaled x4", "prose, linear x4"),
        *("code, unscaled x4", "code, linear x4"),
    ]
    linear = points[points["panel"] == "prose, linear x4"]
    assert linear.groupby("role").size().to_dict() == {"before": 3, "scaled": 5, "trained": 5}
    assert linear[linear["role"] == "before"]["y"].tolist() == pytest.approx([2.0, 1.9, 1.8])
    assert linear[linear["role"] == "trained"]["x"].tolist() == [0, 1, 2, 3, 4]
    [old] = [line for line in figure.axes[1].get_lines() if list(line.get_xdata()) == [2.5, 2.5]]
    assert old.get_linestyle() == ":"
    bars = [line for container in figure.axes[1].containers for line in container[2][0].get_segments()]
    assert len(bars) == 13
    assert all(high[1] - low[1] == pytest.approx(0.04) for low, high in bars)


def test_without_positions_or_longer_contexts_there_is_no_figure(extended):
    with pytest.raises(ValueError, match="nothing was scored by position"):
        position_figure(extended[extended["metric"].str.startswith("heldout")])
    with pytest.raises(ValueError, match="was given a longer context"):
        position_figure(extended[extended["kinds"] == "pretrain"])
    with pytest.raises(ValueError, match="select the rows of one"):
        position_figure(pd.concat([extended, extended.assign(model="m0_3")]))
