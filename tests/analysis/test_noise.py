import math

import numpy as np
import pandas as pd
import pytest

from analysis.noise import noise_trend, seed_components, seed_variance, variance_interval

LOSS = "heldout/prose/bits_per_byte"


def point(model, params, tokens, seed_init, seed_data, value, **others):
    return {
        "study": "seeds",
        "model": model,
        "params": params + 500,
        "params_non_embedding": params,
        "tokens": tokens,
        "seed_init": seed_init,
        "seed_data": seed_data,
        "annealed": True,
        "metric": LOSS,
        "value": value,
        "checkpoint": f"{model}-{tokens}-{seed_init}-{seed_data}",
        **others,
    }


def test_pooled_variance_is_that_of_the_cells():
    rows = [point("a", 100, t, s, s, v) for t, s, v in ((1, 0, 1.0), (1, 1, 3.0), (2, 0, 5.0), (2, 2, 5.0))]
    table = seed_variance(pd.DataFrame(rows), LOSS)
    assert table["sd"].tolist() == [pytest.approx(1.0)]  # (1 + 1 + 0 + 0) / (1 + 1)
    assert table["mean"].tolist() == [3.5]
    assert table["params"].tolist() == [100]
    assert table[["cells", "seeds", "dof"]].to_numpy().tolist() == [[2, 2, 2]]


def test_token_counts_off_one_trunk_are_one_draw():
    """Three seeds at four token counts are two degrees of freedom, not eight."""
    rows = [point("a", 100, t, s, s, s + t) for t in (1, 2, 4, 8) for s in range(3)]
    table = seed_variance(pd.DataFrame(rows), LOSS)
    assert table["sd"].tolist() == [pytest.approx(1.0)]
    assert table["dof"].tolist() == [2]
    low, high = variance_interval(1.0, 2)
    assert (table["low"][0], table["high"][0]) == pytest.approx((math.sqrt(low), math.sqrt(high)))


def test_branches_off_one_trunk_are_one_draw():
    """Three branches of two seeds leave two trunks: one degree of freedom, not three."""
    branches = ("m recipe=a", "m recipe=b", "m recipe=c")
    rows = [point(b, 100, 1, s, s, s + 5.0 * i, trajectory=f"t{s}") for i, b in enumerate(branches) for s in range(2)]
    table = seed_variance(pd.DataFrame(rows), LOSS)
    assert table["dof"].tolist() == [1]
    assert table["sd"].tolist() == [pytest.approx(math.sqrt(0.5))]
    assert table["cells"].tolist() == [3]
    unknown = seed_variance(pd.DataFrame(rows).drop(columns="trajectory"), LOSS)
    assert unknown["dof"].tolist() == [1]
    # Trunks of their own are draws of their own, and one branch with a foot on both joins them.
    apart = [{**row, "trajectory": f"{row['model']} {row['seed_init']}"} for row in rows]
    assert seed_variance(pd.DataFrame(apart), LOSS)["dof"].tolist() == [3]
    joined = [*apart, point("m recipe=d", 100, 1, 0, 0, 1.0, trajectory=apart[0]["trajectory"])]
    joined += [point("m recipe=d", 100, 1, 1, 1, 2.0, trajectory=apart[3]["trajectory"])]
    assert seed_variance(pd.DataFrame(joined), LOSS)["dof"].tolist() == [2]


def test_interval_covers_the_truth():
    """Of 2,000 draws of five normal seeds, 95% of the intervals hold the variance."""
    rng = np.random.default_rng(0)
    draws = rng.normal(0, 0.3, (2000, 5)).var(axis=1, ddof=1)
    held = [low <= 0.09 <= high for low, high in (variance_interval(float(v), 4) for v in draws)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_single_seeds_are_named_not_dropped():
    rows = [point("a", 100, 1, 0, 0, 1.0), point("a", 100, 1, 1, 1, 2.0), point("b", 200, 1, 0, 0, 1.0)]
    rows += [point("a", 100, 2, 0, 0, 1.0), point("b", 200, 1, 1, 1, math.nan)]
    rows += [point("b", 200, 1, 2, 2, 1.0, annealed=False)]
    table = seed_variance(pd.DataFrame(rows), LOSS)
    assert table["left_out"].tolist() == ["1 point with one seed", "1 point with one seed"]
    assert math.isnan(table["sd"][1])
    assert table["dof"].tolist() == [1, 0]
    assert table.attrs["excluded"] == ("1 row not annealed", "1 row not evaluated")


def test_by_tokens_and_wrong_input():
    rows = [point("a", 100, t, s, s, float(s * t)) for t in (1, 2) for s in range(3)]
    frame = pd.DataFrame(rows)
    table = seed_variance(frame, LOSS, by=("params", "tokens"))
    assert table["sd"].tolist() == pytest.approx([1.0, 2.0])
    with pytest.raises(ValueError, match="lacks the column depth"):
        seed_variance(frame, LOSS, by="depth")
    with pytest.raises(ValueError, match="2 rows share their seeds"):
        seed_variance(pd.concat([frame, frame.iloc[:1].assign(value=9.0, checkpoint="other")]), LOSS)
    with pytest.raises(ValueError, match="lacks the column 'seed_data'"):
        seed_variance(frame.drop(columns="seed_data"), LOSS)


def crossed(values):
    return pd.DataFrame([point("a", 100, 1, i, d, v) for (i, d), v in np.ndenumerate(values)])


def test_components_by_hand():
    """Rows differ by 2, columns by 4, nothing interacts: variances 2 and 8."""
    rows, columns, rest, total = seed_components(crossed(np.array([[1.0, 5.0], [3.0, 7.0]])), LOSS)
    assert (rows.source, columns.source, rest.source) == ("initialisation", "data order", "rest")
    assert (rows.variance, columns.variance, rest.variance) == pytest.approx((2.0, 8.0, 0.0))
    assert total.variance == pytest.approx(10.0)
    assert (rows.dof, columns.dof, rest.dof) == (1, 1, 1)
    assert columns.sd == pytest.approx(math.sqrt(8))


def test_interaction_by_hand():
    """One cell stands out: all mean squares are 4, so that no seed but only the rest explains it."""
    rows, columns, rest, total = seed_components(crossed(np.array([[0.0, 0.0], [0.0, 4.0]])), LOSS)
    assert (rows.variance, columns.variance, rest.variance) == pytest.approx((0.0, 0.0, 4.0))
    assert total.variance == pytest.approx(4.0)
    assert total.dof == pytest.approx(2.0)


def test_crossed_seeds_are_no_independent_runs():
    """Four by four crossed: the variance of a run with both seeds anew, unbiased and covered; 15 dof would be a lie."""
    rng = np.random.default_rng(6)
    found, held, plain = [], [], []
    for _ in range(200):
        values = rng.normal(0, 0.2, (4, 1)) + rng.normal(0, 0.2, (1, 4)) + rng.normal(0, 0.05, (4, 4))
        row = seed_variance(crossed(values), LOSS).iloc[0]
        found.append(row["sd"] ** 2)
        held.append(row["low"] ** 2 <= 0.0825 <= row["high"] ** 2)
        plain.append(values.var(ddof=1))
    assert row["varied"] == "seed_init and seed_data"
    assert row["dof"] < 9
    assert np.mean(found) == pytest.approx(0.0825, rel=0.1)
    assert np.mean(plain) < 0.075
    assert np.mean(held) == pytest.approx(0.95, abs=0.04)
    total = seed_components(crossed(values), LOSS)[-1]
    assert (total.sd, total.dof) == pytest.approx((row["sd"], row["dof"]))


def test_kinds_of_seeds_that_vary_are_named():
    rows = [point("a", 100, 1, s, 7, float(s)) for s in range(3)]
    table = seed_variance(pd.DataFrame(rows), LOSS)
    assert table["varied"].tolist() == ["seed_init"]
    assert table["dof"].tolist() == [2]
    partly = crossed(np.arange(16.0).reshape(4, 4)).iloc[:-1]
    assert seed_variance(partly, LOSS)["dof"].tolist() == [3]


def test_components_are_unbiased_and_covered():
    """Sizes of four by five, sd 0.2 of initialisation, 0.1 of data order, 0.1 of the rest."""
    rng = np.random.default_rng(1)
    found, held = [], []
    for _ in range(300):
        values = rng.normal(0, 0.2, (4, 1)) + rng.normal(0, 0.1, (1, 5)) + rng.normal(0, 0.1, (4, 5))
        parts = seed_components(crossed(values), LOSS)
        found.append([part.variance for part in parts[:3]])
        held.append([part.low <= truth <= part.high for part, truth in zip(parts, (0.04, 0.01, 0.01), strict=False)])
    assert np.mean(found, axis=0) == pytest.approx([0.04, 0.01, 0.01], rel=0.12)
    assert (np.mean(held, axis=0) > 0.925).all()
    assert (np.mean(held, axis=0) < 0.985).all()


def test_absent_effect_reaches_zero():
    values = np.random.default_rng(2).normal(0, 0.1, (1, 5)) + np.zeros((4, 1))
    values = values + np.random.default_rng(3).normal(0, 0.1, (4, 5))
    rows, columns, *_ = seed_components(crossed(values), LOSS)
    assert rows.low == 0.0
    assert columns.high > columns.variance


def test_missing_cells_and_several_points_are_refused():
    frame = crossed(np.arange(6.0).reshape(2, 3))
    with pytest.raises(ValueError, match=r"\(1, 2\) missing"):
        seed_components(frame.iloc[:-1], LOSS)
    with pytest.raises(ValueError, match="1 seed_init by 3 seed_data"):
        seed_components(frame.iloc[:3], LOSS)
    with pytest.raises(ValueError, match="several values of model, params, tokens"):
        seed_components(frame.assign(tokens=[1, 1, 1, 2, 2, 2]), LOSS)


def test_split_says_what_is_left_out():
    frame = pd.concat([crossed(np.arange(6.0).reshape(2, 3)), pd.DataFrame([point("a", 100, 1, 5, 5, math.nan)])])
    assert {part.left_out for part in seed_components(frame, LOSS)} == {"1 row not evaluated"}
    assert {part.left_out for part in seed_components(frame.iloc[:-1], LOSS)} == {""}


def test_trend_is_recovered():
    """Sd halves with every factor of ten of size; the interval holds that in about 95% of 300 draws."""
    rng = np.random.default_rng(4)
    truth, held, logs = -math.log10(2), [], []
    for _ in range(300):
        sizes = np.array([1e4, 1e5, 1e6, 1e7])
        sd = 0.1 * (sizes / 1e4) ** truth
        draws = [rng.normal(0, s, 6).std(ddof=1) for s in sd]
        trend = noise_trend(pd.DataFrame({"params": sizes, "sd": draws, "dof": 5}))
        held.append(trend.low <= truth <= trend.high)
        logs.append(math.log(trend.predict(1e4)))
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)
    assert np.mean(logs) == pytest.approx(math.log(0.1), abs=0.05)  # Without psi it is 0.1 too small.
    exact = noise_trend(pd.DataFrame({"params": sizes, "sd": sd, "dof": 10_000}))
    assert exact.exponent == pytest.approx(truth)
    assert exact.predict(1e8) == pytest.approx(0.1 / 16, rel=1e-3)
    assert not exact.flat


def test_trend_needs_three_sizes():
    table = pd.DataFrame({"params": [1e4, 1e5, 1e6], "sd": [0.1, 0.1, math.nan], "dof": [2, 2, 0]})
    with pytest.raises(ValueError, match="2 values of 'params'"):
        noise_trend(table)
