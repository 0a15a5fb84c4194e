"""Where the intervals of approaches 1 and 2 come from: seeds, trunks that budgets share, and what is no seed."""

import math

import numpy as np
import pandas as pd
import pytest
from made_budgets import EXPONENT, SURFACE, best_size, isoflop_grid, ladder, loss

from analysis.isoflop import envelope, fit_envelope, fit_isoflop
from analysis.isoflop.allocation import pool_noise, trunk_numbers


def test_noise_comes_from_seeds_where_there_are_some():
    frame = isoflop_grid(noise=0.004, seeds=3)
    found = fit_isoflop(frame, exponents=SURFACE, bootstrap=50)
    assert "runs repeated over seeds (70 degrees of freedom)" in found.interval_from
    given = fit_isoflop(frame, exponents=SURFACE, bootstrap=50, noise=0.04)
    assert "the given noise" in given.interval_from
    assert given.params.high - given.params.low > 3 * (found.params.high - found.params.low)
    again = fit_isoflop(frame, exponents=SURFACE, bootstrap=50)
    assert again.params == found.params


def trunk_grid(between, within, seed, seeds=3):
    """Nine sizes off `seeds` trunks each, measured at five budgets a factor of 3.2 apart."""
    rng = np.random.default_rng(seed)
    rows = []
    for size, params in enumerate(best_size(1e19) * 1.8 ** np.arange(-4.0, 5.0)):
        for s in range(seeds):
            shift = between * rng.normal()
            for compute in 1e18 * 10 ** (np.arange(5) / 2):
                tokens = compute / 6 / params
                value = loss(params, tokens) * math.exp(shift + within * rng.normal())
                rows.append({"params": params, "tokens": tokens, "loss": value, "trajectory": f"{size}-{s}"})
    return pd.DataFrame(rows)


def test_budgets_off_shared_trunks_are_not_independent():
    """Of 50 draws whose trunks move all of their budgets, 80% were covered where each point was drawn for itself."""
    held = []
    for draw in range(50):
        found = fit_isoflop(trunk_grid(0.004, 0.001, draw), exponents=SURFACE, bootstrap=150, seed=draw)
        held.append(found.params.low <= EXPONENT <= found.params.high)
    assert "96% shared by a trunk" in found.interval_from
    assert np.mean(held) >= 0.9
    alone = fit_isoflop(trunk_grid(0.0, 0.004, 0).drop(columns="trajectory"), exponents=SURFACE, bootstrap=5)
    assert "(90 degrees of freedom)" in alone.interval_from


def test_what_trunks_share_is_measured_and_drawn():
    """20,000 trunks of two points that share three quarters of their variance, which are 2 / (1 + 9 / 16)."""
    rng = np.random.default_rng(0)
    trunks = np.repeat(np.arange(20_000), 2)
    residuals = 0.1 * (math.sqrt(0.75) * rng.normal(size=20_000)[trunks] + 0.5 * rng.normal(size=40_000))
    noise = pool_noise(residuals, trunks, 40_000, "made-up residuals")
    assert (noise.sd, noise.shared) == pytest.approx((0.1, 0.75), rel=0.02)
    assert noise.dof == pytest.approx(40_000 / (1 + 9 / 16), rel=0.02)
    drawn = noise.draw(np.array([0, 0, 1]), 40_000, rng)
    correlation = np.corrcoef(drawn)
    assert drawn.std(axis=1) == pytest.approx([0.1] * 3, rel=0.02)
    assert (correlation[0, 1], correlation[0, 2]) == pytest.approx((0.75, 0.0), abs=0.02)
    assert trunk_numbers(pd.DataFrame({"trajectory": ["a", None, "a", None, "b"]})).tolist() == [0, 3, 0, 5, 1]


def test_other_data_are_no_seeds():
    """The same points once more on other text, and on text repeated four times: no seed noise, and it is said."""
    frame = isoflop_grid(noise=0.004).assign(data_fingerprint="a", unique_tokens=lambda rows: rows["tokens"])
    other = frame.assign(loss=frame["loss"] * 1.1, data_fingerprint="b")
    repeated = frame.assign(loss=frame["loss"] * 1.1, unique_tokens=frame["tokens"] / 4)
    for second, words in ((other, "2 data sets (data_fingerprint)"), (repeated, "differ in unique_tokens")):
        found = fit_isoflop(pd.concat([frame, second]), exponents=SURFACE, bootstrap=50)
        assert "repeated over seeds" not in found.interval_from
        assert any(words in flag for flag in found.flags)
    assert not any("data" in flag for flag in fit_isoflop(frame, exponents=SURFACE, bootstrap=50).flags)
    # Unknown data are no reason to lose the seeds.
    twice = isoflop_grid(noise=0.004, seeds=2).assign(data_fingerprint="a", unique_tokens=math.nan)
    twice.loc[:9, "data_fingerprint"] = None
    assert "runs repeated over seeds (35 degrees" in fit_isoflop(twice, exponents=SURFACE, bootstrap=50).interval_from


def test_an_envelope_is_of_one_data_set():
    frame = ladder().assign(data_fingerprint="a", unique_tokens=lambda rows: rows["tokens"])
    repeated = frame.assign(loss=frame["loss"] * 1.1, unique_tokens=frame["tokens"] / 4)
    for second, words in ((frame.assign(data_fingerprint="b"), "2 data sets"), (repeated, "differ in unique_tokens")):
        for refuses in (envelope, fit_envelope):
            with pytest.raises(ValueError, match=f"{words}.*select the rows of one"):
                refuses(pd.concat([frame, second]))
    assert fit_envelope(frame).params.exponent == pytest.approx(EXPONENT, abs=1e-3)


def test_insecure_optimum_is_named():
    frame = pd.concat([isoflop_grid([1e17, 1e18]), isoflop_grid([1e19], width=1.3)])
    found = fit_isoflop(frame, exponents=SURFACE, noise=0.01, bootstrap=200)
    assert any("budget 1e+19 FLOPs: in" in flag for flag in found.flags)
    assert found.optima["refused_share"][0] < 0.05


def test_noise_beyond_all_curves_leaves_no_interval_and_no_warning():
    found = fit_isoflop(isoflop_grid([1e18, 1e19], width=1.01), exponents=SURFACE, noise=5.0, bootstrap=3, seed=1)
    assert sum("of the noise draws" in flag for flag in found.flags) == 2
    three = fit_isoflop(isoflop_grid([1e18, 1e19], sizes=3), exponents=SURFACE)
    assert three.interval_from == "nothing: two optima leave no scatter"
    assert math.isnan(three.params.low)


def test_scatter_beyond_the_noise_widens_the_interval():
    frame = isoflop_grid()
    third = np.isclose(6 * frame["params"] * frame["tokens"], 1e19)
    frame.loc[third, "params"] *= 1.6
    frame.loc[third, "tokens"] /= 1.6
    found = fit_isoflop(frame, exponents=SURFACE, noise=0.001, bootstrap=200)
    assert any("scatter about their line" in flag for flag in found.flags)
    calm = fit_isoflop(isoflop_grid(), exponents=SURFACE, noise=0.001, bootstrap=200)
    assert found.params.high - found.params.low > 5 * (calm.params.high - calm.params.low)
    assert found.params.low < EXPONENT < found.params.high
