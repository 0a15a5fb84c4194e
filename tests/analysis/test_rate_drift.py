"""Best rates under several parametrisations, and their drift, on studies whose answer is known."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.figures import transfer_figure
from analysis.rate_drift import rate_drift, seed_noise, transferred_rates

METRIC = "heldout/prose/bits_per_byte"
RATES = (0.001, 0.002, 0.004, 0.008, 0.016)
SIZES = {"w32": 4e4, "w64": 16e4, "w128": 64e4}


def study(best_of, noise=0.0, seeds=2):
    """Loss 2 + 0.1 log(rate / best)^2 under each parametrisation, at each size and rate."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "study": "transfer", "model": f"{model} optimizer.learning_rate={rate}", "seed_init": seed,
            "point": f"model={model},model.parametrisation={name},optimizer.learning_rate={rate},seed={seed}",
            "seed_data": seed, "params": 2 * n, "params_non_embedding": n, "tokens": 200_000, "annealed": True,
            "metric": METRIC, "checkpoint": f"{name}-{model}-{rate}-{seed}",
            "value": 2 + 0.1 * math.log(rate / best_of(name, n)) ** 2 + noise * rng.normal(),
        }
        for name in ("mup", "standard") for model, n in SIZES.items() for rate in RATES for seed in range(seeds)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    labels = frame["point"].str.extract(r"model=(\w+),(model\.parametrisation=\w+),(optimizer\S+),seed")
    return frame.assign(model=labels[0] + " " + labels[1] + " " + labels[2])


def falling(name, n):
    return 0.006 * (n / 4e4) ** (-0.4 if name == "standard" else 0.0)


def test_the_drift_is_recovered():
    best = transferred_rates(study(falling, seeds=1), METRIC)
    assert list(best["parametrisation"]) == ["standard"] * 3 + ["mup"] * 3
    assert list(best["model"]) == list(SIZES) * 2
    drift = rate_drift(best).set_index("parametrisation")
    assert drift["ratio"].to_dict() == pytest.approx({"standard": 16**-0.4, "mup": 1.0})
    assert drift["exponent"].to_dict() == pytest.approx({"standard": -0.4, "mup": 0.0}, abs=1e-9)
    assert drift[["low", "high"]].isna().all(axis=None)  # of one seed nobody knows the noise
    assert set(drift["smallest"] + drift["largest"]) == {"w32w128"}


def test_the_noise_is_that_between_seeds():
    frame = study(falling, noise=0.01, seeds=6)
    assert seed_noise(frame, METRIC) == pytest.approx(0.01, rel=0.25)
    assert seed_noise(study(falling, seeds=1), METRIC) is None


def test_intervals_are_those_of_the_redrawn_minimum():
    """With noise s over two seeds, that of a log best rate is s / sqrt(2) / (sqrt(8) 0.1 log 2) about a rate tried."""
    best = transferred_rates(study(lambda *_: 0.004), METRIC, noise=0.002, draws=20_000)
    spread = 0.002 / math.sqrt(2) / (math.sqrt(8) * 0.1 * math.log(2))
    assert best["spread"].tolist() == pytest.approx([spread] * 6, rel=0.03)
    drift = rate_drift(best)
    reach = 1.96 * math.sqrt(2) * spread
    assert drift["high"].tolist() == pytest.approx([math.exp(reach)] * 2, rel=0.01)
    assert drift["low"].tolist() == pytest.approx([math.exp(-reach)] * 2, rel=0.01)


def test_a_best_rate_beyond_those_tried_is_no_drift():
    best = transferred_rates(study(lambda name, n: 0.1 if name == "mup" and n > 5e4 else 0.004), METRIC)
    drift = rate_drift(best).set_index("parametrisation")
    assert drift.loc["standard", "ratio"] == pytest.approx(1.0)
    assert math.isnan(drift.loc["mup", "ratio"])
    _, points = transfer_figure(study(lambda name, n: 0.1 if n > 5e4 else 0.004), METRIC)
    assert set(points.loc[(points["role"] == "best") & (points["panel"] == "best rate"), "x"]) == {4e4}


def test_the_figure_has_its_lines_rings_and_bars():
    frame = study(falling, noise=0.005)
    figure, points = transfer_figure(frame, METRIC)
    panels = [axes.get_title(loc="left") for axes in figure.axes]
    assert panels == ["standard", "mup", "Best rate"]
    best = transferred_rates(frame, METRIC)
    drawn = points.loc[(points["panel"] == "best rate")].drop_duplicates("mark")
    assert drawn["y"].tolist() == pytest.approx(best["best_rate"].tolist())
    bars = [line for line in figure.axes[2].collections if type(line).__name__ == "LineCollection"]
    assert [len(line.get_segments()) for line in bars] == [3, 3]
    (low, high) = bars[0].get_segments()[0][:, 1]
    first = best.iloc[0]
    assert (low, high) == pytest.approx(tuple(first["best_rate"] * np.exp(s * 1.96 * first["spread"]) for s in (-1, 1)))
    assert [text.get_text() for text in figure.axes[2].get_xticklabels()] == list(SIZES)
    cooled = points.loc[points["role"] == "cooled_down"]
    assert cooled["mark"].nunique() == 2 * 3 * 5
    assert (cooled.groupby("mark").size() == 2).all()


def test_what_would_be_pooled_is_refused():
    frame = study(falling)
    longer = frame.assign(tokens=400_000, checkpoint=frame["checkpoint"] + "-long")
    with pytest.raises(ValueError, match="standard has several token counts of w32: select the rows of one"):
        transferred_rates(pd.concat([frame, longer]), METRIC, noise=0.01)
    bare = frame.assign(point=frame["point"].str.replace(r"model\.parametrisation=\w+,", "", regex=True))
    with pytest.raises(ValueError, match=r"model\.parametrisation"):
        transferred_rates(bare, METRIC, noise=0.01)
