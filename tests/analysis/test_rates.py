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
    assert set(best["note"]) == {""}


def test_a_best_rate_beyond_those_tried_is_refused_and_named():
    best = best_rates(sweep(lambda n, _: 0.1 if n < 5e4 else 0.006), METRIC)
    assert math.isnan(best["best_rate"][0])
    assert "highest of 6 rates" in best["note"][0]
    assert best["best_rate"].notna().sum() == 3


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
