import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_budgets import ALPHA, BETA, BUDGETS, EXPONENT, SURFACE, best_size, isoflop_grid, ladder, loss

from analysis.fitting import fit_law
from analysis.isoflop import (
    METHODS,
    assign_budgets,
    compare_approaches,
    envelope,
    expected_bias,
    fit_envelope,
    fit_isoflop,
    isoflop_curve,
    isoflop_minima,
)
from analysis.laws import Chinchilla


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("width", [2.0, 8.0])
def test_like_grids_give_the_exact_exponent(method, width):
    found = fit_isoflop(isoflop_grid(width=width), method, exponents=SURFACE)
    assert found.params.exponent == pytest.approx(EXPONENT, abs=1e-9)
    assert found.tokens.exponent == pytest.approx(1 - EXPONENT, abs=1e-9)
    assert found.optimal(1e19)[0] == pytest.approx(best_size(1e19), rel=0.04)
    assert np.prod(found.optimal(1e19)) * 6 == pytest.approx(1e19)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("off", [lambda c: 1.0, lambda c: 3.0, lambda c: (c / 1e19) ** 0.15])
def test_expected_bias_is_the_error_made(method, off):
    """Without noise, what each optimum is off by is predicted from the exponents and the grid alone."""
    optima = isoflop_minima(isoflop_grid(off=off), method, exponents=SURFACE)
    optima = optima.loc[optima["refused"] == ""]
    error = np.log(optima["params"] / best_size(optima["flops"].to_numpy()))
    assert len(optima) >= 3
    assert optima["bias"].tolist() == pytest.approx(error.tolist(), abs=1e-5)
    assert error.abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_expected_bias_takes_the_frames_own_flops(method):
    """Where the head counts, FLOPs grow as N^n with n below 1, and the tokens' term bends by n beta."""
    power, constant, compute = 0.6, 500.0, 1e13
    sizes = np.geomspace(1e4, 1e6, 9)
    tokens = compute / (constant * sizes**power)
    frame = pd.DataFrame(
        {"params": sizes, "tokens": tokens, "flops": compute, "loss": 1.6 + 22 / sizes**0.44 + 6000 / tokens**0.7}
    )
    dense = np.geomspace(1e4, 1e6, 100_001)
    best = dense[(22 / dense**0.44 + 6000 / (compute / (constant * dense**power)) ** 0.7).argmin()]
    (row,) = isoflop_minima(frame, method, exponents=(0.44, 0.7)).to_dict("records")
    assert row["refused"] == ""
    assert row["bias"] == pytest.approx(math.log(row["params"] / best), abs=2e-4)


def test_parabola_has_no_bias_on_a_symmetric_surface():
    grid = np.linspace(-2.0, 2.0, 7)
    assert expected_bias(grid, 0.0, 0.3, 0.3) == pytest.approx(0.0, abs=1e-9)
    assert abs(expected_bias(grid, 0.0, 0.5, 0.2)) > 0.05
    assert math.isnan(expected_bias(grid, 40.0, 0.3, 0.3))


def test_bias_is_warned_of_where_grids_drift():
    assert not fit_isoflop(isoflop_grid(), exponents=SURFACE).flags
    wide = fit_isoflop(isoflop_grid(width=60), exponents=SURFACE)
    assert len(wide.flags) == 1
    assert "the method alone is expected to move N* by +14% at 1e+17, +14% at 1e+18" in wide.flags[0]
    steep = (0.6, 0.2)
    frame = isoflop_grid(surface=steep, off=lambda compute: (compute / 1e19) ** 0.2)
    drifting = fit_isoflop(frame, exponents=steep)
    error = drifting.params.exponent - 0.2 / 0.8
    assert abs(error) > 0.01
    assert f"move the exponent of N* by {error:+.3f}" in drifting.flags[-1]


def test_surface_is_fitted_where_none_is_given():
    found = fit_isoflop(isoflop_grid(), "parabola", bootstrap=10)
    assert found.optima["bias"].tolist() == pytest.approx([0.0336] * 5, abs=5e-4)


def test_edges_are_refused_and_named():
    low = isoflop_grid([1e17], off=lambda c: 20.0)
    frame = pd.concat([low, isoflop_grid([1e18, 1e19]), isoflop_grid([1e20], sizes=2)])
    for method in METHODS:
        optima = isoflop_minima(frame, method)
        assert [bool(reason) for reason in optima["refused"]] == [True, False, False, True]
        assert "the smallest size" in optima["refused"][0]
        assert "has the lowest loss" in optima["refused"][0]
        assert "fewer than" in optima["refused"][3]
        assert optima["params"].isna().tolist() == [True, False, False, True]
    found = fit_isoflop(frame, exponents=SURFACE)
    assert any(flag.startswith("budget 1e+17 FLOPs refused: the smallest size") for flag in found.flags)
    assert found.params.exponent == pytest.approx(EXPONENT, abs=1e-9)
    with pytest.raises(ValueError, match=r"budgets with an optimum: 1, but exponents need two; .* refused"):
        fit_isoflop(pd.concat([low, isoflop_grid([1e18])]), exponents=SURFACE)


def test_vertex_beyond_the_sizes_is_refused():
    """The lowest point measured lies inside, the parabola's outside: noise, not an optimum."""
    frame = pd.DataFrame({"params": [1e6, 2e6, 4e6, 8e6], "flops": 1e15, "loss": [3.0, 2.5, 2.49, 2.491]})
    frame["tokens"] = frame["flops"] / 6 / frame["params"]
    assert isoflop_minima(frame)["refused"].tolist() == [""]
    reason = isoflop_minima(frame.assign(loss=[3.6, 3.5, 2.8, 2.9]))["refused"][0]
    assert reason == "the curve has no minimum within the sizes measured"
    reason = isoflop_minima(frame.assign(loss=[2.6, 2.8, 2.5, 2.6]))["refused"][0]
    assert reason == "the curve has no minimum within the sizes measured"


def test_budgets_are_found_or_named():
    frame = isoflop_grid([1e18, 2e18])
    frame["flops"] = 6 * frame["params"] * frame["tokens"] * np.tile(np.linspace(0.99, 1.01, 7), 2)
    assert assign_budgets(frame).tolist() == [0] * 7 + [1] * 7
    assert isoflop_minima(frame)["flops_range"].tolist() == pytest.approx([0.02, 0.02], abs=1e-3)
    named = frame.assign(budget=["large"] * 7 + ["small"] * 7, flops=frame["flops"].to_numpy()[::-1])
    assert assign_budgets(named).tolist() == [1] * 7 + [0] * 7
    smeared = frame.assign(budget="one")
    assert "FLOPs differ by" in isoflop_minima(smeared)["refused"][0]
    with pytest.raises(ValueError, match="budget is missing"):
        isoflop_minima(frame.assign(budget=None))
    uneven = frame.assign(flops=6 * frame["params"] * frame["tokens"] * np.tile(np.linspace(0.96, 1.04, 7), 2))
    assert any("which moves their losses too" in flag for flag in fit_isoflop(uneven, exponents=SURFACE).flags)


def test_tokens_follow_the_frames_flops():
    """FLOPs of 6 N D + 1e9 D (an output head): tokens are those of the budget, not C / 6 N."""
    frame = isoflop_grid()
    frame["flops"] = 6 * frame["params"] * frame["tokens"]
    frame["tokens"] = frame["flops"] / (6 * frame["params"] + 1e9)
    optima = isoflop_minima(frame)
    head = optima["flops"] / (6 * optima["params"] + 1e9)
    assert optima["tokens"].tolist() == pytest.approx(head.tolist(), rel=0.02)


def test_curve_passes_where_the_optimum_is():
    points = isoflop_grid([1e19])
    for method in METHODS:
        optimum = isoflop_minima(points, method).iloc[0]
        curve = isoflop_curve(points, method)
        nearby = curve(optimum["params"] * np.array([0.95, 1.0, 1.05]))
        assert nearby[1] == pytest.approx(optimum["loss"], rel=1e-9)
        assert nearby[1] < min(nearby[0], nearby[2])


def test_intervals_cover_the_truth():
    """Of 60 draws with noise unknown to the fit, about 95% of the intervals hold the exponent."""
    held = []
    for draw in range(60):
        found = fit_isoflop(isoflop_grid(noise=0.003, seed=draw), exponents=SURFACE, bootstrap=200, seed=draw)
        held.append(found.params.low <= EXPONENT <= found.params.high)
        assert found.tokens.low == pytest.approx(1 - found.params.high)
    assert 0.9 <= np.mean(held) <= 1.0
    assert np.mean(held) < 1.0


def test_rows_of_which_cooling_is_not_known_and_mixed_metrics_are_refused():
    frame = isoflop_grid()
    known = [None, *[True] * (len(frame) - 1)]
    with pytest.raises(ValueError, match=r"rows that are not annealed.*1 row without annealed \(NaN\)"):
        isoflop_minima(frame.assign(annealed=known))
    with pytest.raises(ValueError, match="the frame mixes the metrics a, b"):
        isoflop_minima(frame.assign(metric=["a", *["b"] * (len(frame) - 1)]))


def test_envelope_is_the_lowest_loss():
    frame = ladder()
    table = envelope(frame, points=50)
    for row in table.to_dict("records"):
        others = loss(1e8 * 2.0 ** np.arange(6), row["flops"] / 6 / (1e8 * 2.0 ** np.arange(6)))
        assert row["loss"] >= others.min() * (1 - 2e-4)
        assert row["loss"] == pytest.approx(loss(row["params"], row["tokens"]), rel=2e-4)
    assert table["edge"].tolist()[0]
    assert not table["edge"].all()
    assert table["params"].is_monotonic_increasing


def test_crossings_give_the_exponent_and_the_staircase_does_not():
    """Few sizes make wide steps: the line through the envelope itself is off by 0.01, that of the crossings by 1e-3."""
    for sizes, step in ((4, math.sqrt(10)), (6, 2.0), (8, 2.0)):
        frame = ladder(sizes=sizes, step=step)
        found = fit_envelope(frame)
        assert found.params.exponent == pytest.approx(EXPONENT, abs=1e-3)
        assert found.tokens.exponent == pytest.approx(1 - EXPONENT, abs=1e-3)
        middle = float(found.optima["flops"].median())
        assert found.optimal(middle)[0] == pytest.approx(best_size(middle), rel=0.01)
    table = envelope(ladder(), points=400)
    staircase = np.polyfit(np.log(table["flops"]), np.log(table["params"]), 1)[0]
    assert abs(staircase - EXPONENT) > 0.01


def test_envelope_along_the_frames_own_flops():
    """FLOPs of 3 N^0.8 D: N* ~ C^(beta / (alpha + 0.8 beta)), and D* = C / (3 N*^0.8)."""
    frame = ladder(ratios=10)
    frame["flops"] = 3 * frame["params"] ** 0.8 * frame["tokens"]
    found = fit_envelope(frame)
    truth = BETA / (ALPHA + 0.8 * BETA)
    assert found.params.exponent == pytest.approx(truth, abs=2e-3)
    assert found.tokens.exponent == pytest.approx(1 - 0.8 * truth, abs=2e-3)
    size, tokens = found.optimal(1e19)
    assert 3 * size**0.8 * tokens == pytest.approx(1e19, rel=1e-6)


def test_envelope_interval_is_of_the_noise():
    frame = ladder(noise=0.001, seeds=2)
    found = fit_envelope(frame, bootstrap=60)
    assert "runs repeated over seeds (48 degrees of freedom)" in found.interval_from
    assert found.params.low < EXPONENT < found.params.high
    wide = fit_envelope(frame, noise=0.004, bootstrap=60)
    assert wide.params.high - wide.params.low > 1.5 * (found.params.high - found.params.low)
    assert fit_envelope(ladder()).interval_from == "the scatter of 5 optima about their line"


def test_envelope_is_of_cooled_down_points():
    frame = ladder().assign(annealed=True)
    frame.loc[3, "annealed"] = False
    for refuses in (envelope, fit_envelope, isoflop_minima, fit_isoflop, compare_approaches):
        with pytest.raises(ValueError, match="not annealed"):
            refuses(frame)
    with pytest.raises(ValueError, match="but an envelope needs two"):
        envelope(ladder(sizes=1))
    with pytest.raises(ValueError, match="do not overlap in FLOPs"):
        envelope(ladder(sizes=2, step=1e4))
    with pytest.raises(ValueError, match="crossings of a larger size below a smaller: 1"):
        fit_envelope(ladder(sizes=2))
    lone = pd.concat([ladder(), pd.DataFrame({"params": [5e7], "tokens": [1e9], "loss": [4.0]})])
    assert any("size 50M has only one token count" in flag for flag in fit_envelope(lone).flags)


def test_a_curves_end_is_no_crossing():
    """The smallest size stops being measured while it is still the best: nothing takes over there."""
    frame = ladder(sizes=3, ratios=8)
    short = frame.loc[(frame["params"] > 1e8) | (frame["tokens"] < 1.2e9)]
    assert len(short) == len(frame) - 6
    with pytest.raises(ValueError, match="crossings of a larger size below a smaller: 1"):
        fit_envelope(short)


def test_a_gap_between_curves_is_not_bridged():
    """Two pairs of sizes that overlap in FLOPs each, and nothing measured between the pairs."""
    small, large = ladder(sizes=2, ratios=6), ladder(sizes=2, ratios=8)
    large = large.assign(params=large["params"] * 1e3, tokens=large["tokens"] * 1e3)
    large["loss"] = loss(large["params"], large["tokens"])
    both = pd.concat([small, large])
    table = envelope(both, points=100)
    assert 20 < len(table) < 80
    assert (table["sizes"] >= 1).all()
    found = fit_envelope(both)
    assert len(found.optima) == 2
    assert found.params.exponent == pytest.approx(EXPONENT, abs=2e-3)


def test_unfit_frames_are_refused_and_left_out_rows_named():
    frame = isoflop_grid()
    with pytest.raises(ValueError, match="method='spline': choose one of parabola, akima"):
        isoflop_minima(frame, "spline")
    with pytest.raises(ValueError, match="lacks the column 'loss'"):
        isoflop_minima(frame.drop(columns="loss"))
    with pytest.raises(ValueError, match="tokens is 0 in 1 row"):
        isoflop_minima(frame.assign(tokens=frame["tokens"].where(frame.index > 0, 0)))
    with pytest.raises(ValueError, match="mixes the studies"):
        isoflop_minima(frame.assign(study=frame.index))
    holes = frame.assign(loss=frame["loss"].where(frame.index != 3))
    assert isoflop_minima(holes).attrs["excluded"] == ("1 row without loss (NaN)",)
    assert fit_isoflop(holes, exponents=SURFACE).flags[0] == "1 row without loss (NaN)"
    assert envelope(ladder().assign(loss=lambda f: f["loss"].where(f.index != 3))).attrs["excluded"]


def test_three_approaches_side_by_side():
    """One grid of sizes for all budgets, so that every approach applies; all find the truth."""
    rng = np.random.default_rng(0)
    rows = []
    for params in np.geomspace(3e7, 3e10, 10):
        for compute in BUDGETS:
            tokens = compute / 6 / params
            if 0.1 < params / best_size(compute) < 10:
                value = loss(params, tokens) * math.exp(0.0005 * rng.normal())
                rows.append({"params": params, "tokens": tokens, "loss": value})
    table = compare_approaches(pd.DataFrame(rows), compute=1e22, noise=0.0005, bootstrap=60)
    assert table["approach"].tolist() == ["envelope", "isoflop parabola", "isoflop akima", "law"]
    assert table["exponent_params"].tolist() == pytest.approx([EXPONENT] * 4, abs=0.02)
    assert (table["exponent_params"] + table["exponent_tokens"]).tolist() == pytest.approx([1.0] * 4, abs=1e-6)
    assert table["params"].tolist() == pytest.approx([best_size(1e22)] * 4, rel=0.25)
    # The same sizes at other budgets are no repeated seeds.
    assert "the parabolas' residuals" in fit_isoflop(pd.DataFrame(rows), exponents=SURFACE, bootstrap=5).interval_from
    last = table.set_index("approach").loc["law"]
    assert last["exponent_params_low"] < EXPONENT < last["exponent_params_high"]
    assert last["optima"] == len(rows)
    assert (table["exponent_params_low"] < table["exponent_params_high"]).all()


def test_what_the_points_do_not_allow_is_a_row_that_says_so():
    table = compare_approaches(isoflop_grid(), bootstrap=20).set_index("approach")
    assert math.isnan(table.loc["envelope", "exponent_params"])
    assert "but an envelope needs two" in table.loc["envelope", "flags"]
    assert table.loc["isoflop parabola", "exponent_params"] == pytest.approx(EXPONENT, abs=1e-6)


def test_a_law_of_one_exponent_is_a_row_that_says_so():
    frame = isoflop_grid(noise=0.002)
    tied = fit_law(Chinchilla(tied=True), frame, starts=10)
    row = compare_approaches(frame, fit=tied, bootstrap=10).set_index("approach").loc["law"]
    assert math.isnan(row["exponent_params"])
    assert row["flags"].startswith("the law has one exponent for both terms")


def test_a_flat_replicate_leaves_the_law_its_row():
    frame = isoflop_grid(noise=0.002)
    fit = fit_law(Chinchilla(), frame, starts=10, bootstrap=100)
    flat = list(fit.replicates[0])
    flat[2] = flat[4] = 0.0
    changed = dataclasses.replace(fit, replicates=(tuple(flat), *fit.replicates[1:]))
    row = compare_approaches(frame, fit=changed, bootstrap=10).set_index("approach").loc["law"]
    assert row["exponent_params_low"] < row["exponent_params"] < row["exponent_params_high"]
    assert "1.0% of the replicates have an exponent of 0 and no optimum" in row["flags"]


def test_law_along_the_frames_own_flops():
    """FLOPs of 3 N^0.8 D: N* ~ C^(beta / (alpha + 0.8 beta))."""
    frame = isoflop_grid()
    frame["flops"] = 3 * frame["params"] ** 0.8 * frame["tokens"]
    row = compare_approaches(frame, compute=1e18, bootstrap=0).set_index("approach").loc["law"]
    assert row["exponent_params"] == pytest.approx(BETA / (ALPHA + 0.8 * BETA), rel=1e-3)
    sizes = np.geomspace(1e6, 1e12, 200_001)
    best = sizes[np.argmin(loss(sizes, 1e18 / (3 * sizes**0.8)))]
    assert row["params"] == pytest.approx(best, rel=5e-3)


def test_published_points_say_what_they_allow():
    """Hoffmann et al.'s points, read off a figure: budgets smeared in FLOPs are refused, not averaged over."""
    path = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "chinchilla_epoch.csv"
    if not path.exists():
        pytest.skip("the published points are not here")
    data = pd.read_csv(path)
    frame = pd.DataFrame({"params": data["Model Size"], "flops": data["Training FLOP"], "loss": data["loss"]})
    frame["tokens"] = frame["flops"] / 6 / frame["params"]
    optima = isoflop_minima(frame.sort_values("loss").iloc[:-5])
    assert optima["refused"].str.contains("not one budget").any()
    assert (optima["flops_range"][optima["refused"] == ""] < 0.25).all()
