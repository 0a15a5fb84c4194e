"""Best rates and the rule of size, on sweeps whose answer is known."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.rates import best_rates, rate_rule

METRIC = "heldout/prose/bits_per_byte"
RATES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)


def sweep(best_of, sizes=(3e4, 1e5, 3e5, 1e6), batches=(8,), noise=0.0):
    """Loss 2 + 0.1 log(rate / best)^2 at every size, batch and rate."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "study": "rates", "point": f"model=m{n:g},recipe.batch_sequences={batch},optimizer.learning_rate={rate}",
            "model": f"m{n:g} optimizer.learning_rate={rate}", "params": 2 * n, "params_non_embedding": n,
            "tokens": 500000, "annealed": True, "metric": METRIC, "checkpoint": f"{n}-{batch}-{rate}",
            "value": 2 + 0.1 * math.log(rate / best_of(n, batch)) ** 2 + noise * rng.normal(),
        }
        for n in sizes for batch in batches for rate in RATES
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_parabolas_lowest_point_is_found():
    best = best_rates(sweep(lambda n, batch: 0.005 * (batch / 8) ** 0.5, batches=(8, 32)), METRIC)
    assert best["best_rate"].tolist() == pytest.approx([0.005] * 4 + [0.01] * 4, rel=1e-9)
    assert best["loss"].tolist() == pytest.approx([2.0] * 8, abs=1e-12)
    assert set(best["note"]) == {"one seed per rate: how far noise moves it is unknown"}
    assert best["spread"].isna().all()


def test_a_best_rate_beyond_those_tried_is_refused_and_named():
    best = best_rates(sweep(lambda n, _: 0.1 if n < 5e4 else 0.006), METRIC)
    assert math.isnan(best["best_rate"][0])
    assert "highest of 6 rates" in best["note"][0]
    assert best["best_rate"].notna().sum() == 3


def test_rows_that_do_not_enter_are_named():
    frame = sweep(lambda n, _: 0.005)
    frame.loc[frame.index[-1], "value"] = math.inf
    frame.loc[frame.index[-2], "value"] = math.nan
    best = best_rates(frame, METRIC)
    assert best.attrs["excluded"] == ("1 row not evaluated", "1 row with loss (infinite)")
    assert best["rates"].tolist() == [6, 6, 6, 4]


def test_the_rule_is_recovered():
    best = best_rates(sweep(lambda n, _: 0.003 * (n / 1e6) ** -0.4), METRIC)
    rule = rate_rule(best)
    assert (rule.base, rule.exponent) == pytest.approx((0.003, 0.4), rel=1e-9)
    assert rule.rate(1e6) == pytest.approx(0.003)
    assert rule.exponent_high - rule.exponent_low < 1e-6


def test_the_rules_intervals_hold_the_truth_and_are_not_empty():
    best = best_rates(sweep(lambda n, _: 0.003 * (n / 1e6) ** -0.4, noise=0.005), METRIC)
    rule = rate_rule(best)
    assert rule.exponent_low < 0.4 < rule.exponent_high
    assert rule.exponent_high - rule.exponent_low > 0.01
    assert f"^-{rule.exponent:.3f} [{rule.exponent_low:.3f}" in rule.describe()


def test_two_sizes_make_no_rule():
    best = best_rates(sweep(lambda n, _: 0.1 if n < 2e5 else 0.006), METRIC)
    with pytest.raises(ValueError, match="2 of 4 sizes have a best rate"):
        rate_rule(best)


def test_batches_are_not_mixed():
    best = best_rates(sweep(lambda n, _: 0.005, batches=(8, 32)), METRIC)
    with pytest.raises(ValueError, match=r"\[8, 32\]"):
        rate_rule(best)


def test_a_batch_that_was_not_swept_need_not_be_named():
    frame = sweep(lambda n, _: 0.005)
    frame["point"] = frame["point"].str.replace("recipe.batch_sequences=8,", "")
    assert best_rates(frame, METRIC, batch=None)["best_rate"].tolist() == pytest.approx([0.005] * 4)
    with pytest.raises(ValueError, match=r"recipe\.batch_sequences"):
        best_rates(frame, METRIC)


def test_three_sizes_make_a_rule_without_intervals():
    """Three points that happen to lie on a line would claim to know it exactly."""
    rule = rate_rule(best_rates(sweep(lambda n, _: 0.003 * (n / 1e6) ** -0.4, sizes=(1e5, 3e5, 1e6)), METRIC))
    assert rule.exponent == pytest.approx(0.4, rel=1e-9)
    assert all(math.isnan(end) for end in (rule.base_low, rule.base_high, rule.exponent_low, rule.exponent_high))
    assert rule.describe().endswith("3 sizes; intervals: none, because they need the scatter of 4 sizes")


def test_redrawn_losses_move_the_best_rate_as_they_should():
    """Var of (y0 - y2) / (4 a h) is sigma^2 / (8 a^2 h^2), about a best rate that was tried."""
    best = best_rates(sweep(lambda n, _: 0.004), METRIC, noise=0.001, draws=20_000)
    assert best["spread"].tolist() == pytest.approx([0.001 / (math.sqrt(8) * 0.1 * math.log(2))] * 4, rel=0.02)
    assert set(best["note"]) == {""}
    seeds = pd.concat(
        [
            sweep(lambda n, _: 0.004).assign(seed_init=s, checkpoint=lambda f, s=s: f["checkpoint"] + f"-{s}")
            for s in range(4)
        ]
    )
    averaged = best_rates(seeds, METRIC, noise=0.001, draws=20_000)
    assert averaged["spread"].tolist() == pytest.approx((best["spread"] / 2).tolist(), rel=0.03)
    wide = best_rates(sweep(lambda n, _: 0.0021), METRIC, noise=0.05)
    assert "of the noise draws the best lies beyond the rates tried" in wide["note"][0]
    with pytest.raises(ValueError, match="noise=0: a standard deviation must be above 0"):
        best_rates(sweep(lambda n, _: 0.004), METRIC, noise=0)


def test_the_wider_interval_counts():
    """Sizes on a line by luck are not known better than their noise, and scatter beyond the noise counts."""
    exact = sweep(lambda n, _: 0.004)
    rule = rate_rule(best_rates(exact, METRIC, noise=0.001, draws=20_000))
    x = np.log([3e4, 1e5, 3e5, 1e6])
    half = 1.96 * 0.001 / (math.sqrt(8) * 0.1 * math.log(2)) / math.sqrt(((x - x.mean()) ** 2).sum())
    assert rule.exponent_high - rule.exponent == pytest.approx(half, rel=0.02)
    assert "95% intervals from the noise of the losses, 4 sizes" in rule.describe()
    scattered = sweep(lambda n, _: 0.004, noise=0.01)
    plain = rate_rule(best_rates(scattered, METRIC))
    small = rate_rule(best_rates(scattered, METRIC, noise=1e-5))
    assert (small.exponent_low, small.exponent_high) == (plain.exponent_low, plain.exponent_high)
    assert small.interval_from == plain.interval_from == "the scatter about the line"


def test_intervals_with_noise_hold_the_truth():
    """At four sizes and known noise, at least 95% of 300 draws."""
    held = 0
    for seed in range(300):
        frame = sweep(lambda n, _: 0.004 * (n / 1e6) ** -0.3)
        frame["value"] += 0.004 * np.random.default_rng(seed).normal(size=len(frame))
        rule = rate_rule(best_rates(frame, METRIC, noise=0.004, draws=200))
        held += rule.exponent_low <= 0.3 <= rule.exponent_high
    assert held / 300 > 0.95


def test_budgets_are_kept_apart_and_other_overrides_refused():
    short = sweep(lambda n, _: 0.008)
    long = sweep(lambda n, _: 0.004).assign(tokens=1_000_000, checkpoint=lambda f: f["checkpoint"] + "-long")
    best = best_rates(pd.concat([short, long]), METRIC)
    assert best["tokens"].tolist() == [500_000] * 4 + [1_000_000] * 4
    assert best["best_rate"].tolist() == pytest.approx([0.008] * 4 + [0.004] * 4)
    with pytest.raises(ValueError, match="token counts 500K, 1M: a rule takes one row per size"):
        rate_rule(best)
    decay = [
        short.assign(point=short["point"] + f",optimizer.weight_decay={w}", checkpoint=short["checkpoint"] + w)
        for w in ("0", "0.1")
    ]
    with pytest.raises(
        ValueError, match=r"the best rate of m100000 would pool optimizer\.weight_decay=0, 0\.1: select"
    ):
        best_rates(pd.concat(decay), METRIC)
