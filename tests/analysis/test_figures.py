"""A figure is right when its axes hold the frame's numbers."""

import json
import math

import numpy as np
import outputs_tree
import pandas as pd
import pytest
from matplotlib.text import Text

from analysis import style
from analysis.figures import fit_figure, save_figure, token_scaling_figure
from analysis.fitting import fit_law
from analysis.frames import select_loss
from analysis.laws import Chinchilla
from analysis.report import (
    NOT_EVALUATED,
    choose_metrics,
    compression_rows,
    draw_study,
    format_table,
    summary_table,
)

BITS = "heldout/prose/bits_per_byte"


def drawn(axes, marker_filled):
    """Points of the lines with filled, or hollow, markers."""
    found = set()
    for line in axes.get_lines():
        hollow = line.get_markerfacecolor() == "white"
        if line.get_marker() in style.MARKERS and hollow != marker_filled:
            found |= {(x, round(float(y), 12)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
    return found


def test_axes_hold_the_frame(frame):
    figure, points = token_scaling_figure(frame, [BITS, "heldout/prose/last_word/acc"])
    assert len(figure.axes) == 2
    for axes, metric in zip(figure.axes, [BITS, "heldout/prose/last_word/acc"], strict=True):
        rows = frame[frame["metric"] == metric]
        for annealed in (True, False):
            expected = rows[rows["annealed"] == annealed]
            wanted = {(row.tokens, round(row.value, 12)) for row in expected.itertuples()}
            assert drawn(axes, marker_filled=annealed) == wanted
        assert axes.get_xscale() == "log"
        labels = [label.get_text() for label in axes.get_xticklabels()]
        assert {"250K", "500K", "1M", "2M"} <= set(labels)
    assert len(points) == 2 * 32
    assert set(points["run_id"]) == set(frame["run_id"])
    assert points["role"].value_counts().to_dict() == {"cooled_down": 32, "milestone": 32}


def test_bars_are_one_standard_error(law_frame):
    law_frame.loc[law_frame["model"] == "m1", "stderr"] = math.nan
    figure, _ = token_scaling_figure(law_frame, BITS)
    bars = [c.get_segments() for c in figure.axes[0].collections if hasattr(c, "get_segments")]
    heights = {round(float(segment[1][1] - segment[0][1]), 9) for group in bars for segment in group if len(segment)}
    assert {height for height in heights if not math.isnan(height)} == {0.06}


def test_seeds_are_a_band_around_their_mean(law_frame):
    up = law_frame["seed_init"] == 1
    law_frame.loc[up, "value"] += 0.1
    figure, points = token_scaling_figure(law_frame, BITS)
    means = drawn(figure.axes[0], marker_filled=True)
    expected = {
        (tokens, round(outputs_tree.bits_per_byte(params, tokens) + 0.05, 12))
        for params in outputs_tree.SIZES.values()
        for tokens in outputs_tree.BUDGETS
    }
    assert means == expected
    assert sum(type(c).__name__ == "FillBetweenPolyCollection" for c in figure.axes[0].collections) == 4
    assert "range of 2 seeds" in figure.legends[0].get_title().get_text()
    assert len(points) == len(law_frame)


def test_missing_is_counted_and_not_drawn(law_frame):
    law_frame.loc[[0, 1], "value"] = math.nan
    figure, points = token_scaling_figure(law_frame, BITS)
    assert "Not evaluated: 2." in figure.legends[0].get_title().get_text()
    assert len(points) == len(law_frame) - 2
    law_frame["value"] = math.nan
    with pytest.raises(ValueError, match="evaluated on no checkpoint"):
        token_scaling_figure(law_frame, BITS)


def test_the_legend_shows_what_is_drawn(law_frame):
    """Also where the study's smallest model was not evaluated yet."""
    law_frame.loc[law_frame["model"] == "m0_03", "value"] = math.nan
    figure, _ = token_scaling_figure(law_frame, BITS)
    handles = figure.legends[0].legend_handles[:3]
    lines = {line.get_color(): line for line in figure.axes[0].get_lines() if line.get_linewidth() == 1.8}
    assert [handle.get_label().split(":")[0] for handle in handles] == ["m0_1", "m0_3", "m1"]
    for handle, params in zip(handles, (100_000, 300_000, 1_000_000), strict=True):
        truth = [outputs_tree.bits_per_byte(params, tokens) for tokens in outputs_tree.BUDGETS]
        assert list(lines[handle.get_color()].get_ydata()) == pytest.approx(truth)


def test_variants_and_mixed_studies_are_refused(law_frame):
    twice = pd.concat([law_frame, law_frame.assign(stage="other")])
    with pytest.raises(ValueError, match="share model, tokens and seeds"):
        token_scaling_figure(twice, BITS)
    mixed = pd.concat([law_frame, law_frame.assign(study="other", seed_init=9)])
    with pytest.raises(ValueError, match="frame has \\['law', 'other'\\]"):
        token_scaling_figure(mixed, BITS)
    with pytest.raises(ValueError, match="metric 'x' is not in the frame"):
        token_scaling_figure(law_frame, "x")


def test_fit_figure_draws_the_law_and_marks_the_held_out(law_frame):
    fit = fit_law(Chinchilla(), select_loss(law_frame, BITS), holdout=1e6, starts=20)
    figure, points = fit_figure(law_frame, fit)
    curves = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 200]
    assert len(curves) == 4
    for curve, params in zip(curves, outputs_tree.SIZES.values(), strict=True):
        truth = [outputs_tree.bits_per_byte(params, tokens) for tokens in curve.get_xdata()]
        np.testing.assert_allclose(curve.get_ydata(), truth, rtol=1e-4)
    assert set(points.loc[points["role"] == "held_out", "model"]) == {"m1"}
    assert "8 largest runs held out" in figure.legends[0].get_title().get_text()


def test_fit_figure_says_not_identifiable(law_frame):
    few = law_frame[law_frame["params_non_embedding"] > 50_000]
    figure, _ = fit_figure(few, fit_law(Chinchilla(), select_loss(few, BITS), holdout=1e6))
    assert "not identifiable: 2 sizes" in figure.legends[0].get_title().get_text()
    assert "not identifiable" in figure.axes[0].get_title(loc="left")


def test_files_stand_side_by_side_and_are_the_same_twice(law_frame, tmp_path):
    for folder in ("a", "b"):
        paths = save_figure(*token_scaling_figure(law_frame, BITS), tmp_path / folder, "figure")
    assert [path.name for path in paths] == ["figure.svg", "figure.png", "figure.csv", "figure.lineage.json"]
    assert (tmp_path / "a/figure.svg").read_bytes() == (tmp_path / "b/figure.svg").read_bytes()
    table = pd.read_csv(paths[2])
    assert table["run_id"].tolist() == token_scaling_figure(law_frame, BITS)[1]["run_id"].tolist()


def test_whole_study_is_drawn(frame, tmp_path):
    written = draw_study(frame, tmp_path / "figures", tmp_path / "fits")
    assert all(path.stat().st_size > 0 for path in written)
    names = {path.name for path in written}
    assert {"token_scaling.png", "token_scaling_tasks.svg"} <= names
    fit = json.loads((tmp_path / "fits" / "chinchilla-heldout-code-bits_per_byte.json").read_text())
    assert fit["settings"]["metric"] == "heldout/code/bits_per_byte"
    assert draw_study(frame.assign(value=math.nan), tmp_path / "none", tmp_path / "none") == []


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (950, "950"),
        (500_000, "500K"),
        (999_999, "1M"),
        (1_048_576, "1.05M"),
        (2e6, "2M"),
        (1e9, "1B"),
        (1.5e12, "1.5T"),
    ],
)
def test_count_label(count, text):
    assert style.count_label(count) == text


def test_table(frame):
    sizes = {"prose": {"bytes": 1000, "gzip_bytes": 300, "xz_bytes": 250}}
    one = frame["checkpoint"].unique()[-1]
    frame.loc[(frame["checkpoint"] == one), ["value", "stderr"]] = math.nan
    table = summary_table(frame, compression_rows(sizes))
    assert len(table) == 16 + 2
    bits = table.set_index(["model", "tokens"])["Bits per byte, held-out prose"]
    row = frame[(frame["metric"] == BITS) & frame["annealed"] & frame["value"].notna()].iloc[0]
    assert bits[row["model"], style.count_label(row["tokens"])] == f"{row['value']:.3f} ±{row['stderr']:.3f}"
    assert (bits["gzip -9", ""], bits["xz -9", ""]) == ("2.400", "2.000")
    assert (table == NOT_EVALUATED).sum().sum() == len(choose_metrics(frame))
    text = format_table(table)
    assert len({len(line) for line in text.splitlines()}) == 1


def test_rows_of_a_table_are_ordered_by_rank(frame):
    one = frame.loc[frame["checkpoint"] == frame.loc[frame["annealed"], "checkpoint"].iloc[0]]
    ranks = [one.assign(model=f"m1 chat r{rank}", stage=f"{rank}", checkpoint=f"{rank}") for rank in (32, 2, 8)]
    assert summary_table(pd.concat(ranks))["model"].tolist() == ["m1 chat r2", "m1 chat r8", "m1 chat r32"]


def test_empty_source_is_refused():
    with pytest.raises(ValueError, match="'prose' holds 0 bytes"):
        compression_rows({"prose": {"bytes": 0, "gzip_bytes": 20, "xz_bytes": 20}})


def test_a_standard_error_of_zero_is_neither_printed_nor_drawn(law_frame):
    """It is not known: no `±0.000`, no bar, and the caption says so."""
    rows = law_frame.loc[law_frame["annealed"]].assign(stderr=0.0)
    assert not summary_table(rows).map(lambda cell: "±" in cell).any(axis=None)
    figure, points = token_scaling_figure(rows, BITS)
    bars = [c.get_segments() for c in figure.axes[0].collections if hasattr(c, "get_segments")]
    ends = [float(end[1]) for group in bars for segment in group for end in segment]
    assert all(math.isnan(end) for end in ends)
    assert any(
        f"No bar where the standard error is not known: {len(points)} scores." in " ".join(text.get_text().split())
        for text in figure.findobj(Text)
    )
