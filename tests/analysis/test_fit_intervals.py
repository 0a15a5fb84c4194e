import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, optimize, stats

from analysis.fitting import compare_laws, fit_law
from analysis.fitting.intervals import open_quantiles
from analysis.fitting.minimise import minimise
from analysis.fitting.profile import log_likelihood, log_normaliser
from analysis.laws import Chinchilla, PowerLaw

TRUTH = {"E": 1.8, "A": 400.0, "alpha": 0.34, "B": 1500.0, "beta": 0.36}


def line_rows(n=40, noise=0.02, seed=0, seeds=1):
    """A power law without offset: a line in logarithms, whose intervals are known exactly."""
    tokens = np.repeat(np.geomspace(1e9, 1e12, n), seeds)
    loss = PowerLaw(offset=False).predict({"K": 60.0, "gamma": 0.12}, {"tokens": tokens})
    noise = noise * np.random.default_rng(seed).normal(size=n * seeds)
    return pd.DataFrame({"tokens": tokens, "loss": loss * np.exp(noise)})


def chinchilla_rows(noise=0.005, seed=0, sizes=12, budgets=10):
    grid = np.meshgrid(np.geomspace(5e7, 1e10, sizes), np.geomspace(1e9, 2e11, budgets))
    params, tokens = (values.ravel() for values in grid)
    loss = Chinchilla().predict(TRUTH, {"params": params, "tokens": tokens})
    noisy = loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(loss)))
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": noisy})


def regression(rows, level):
    """Slope, its standard error and its interval, by the textbook."""
    found = stats.linregress(np.log(rows["tokens"]), np.log(rows["loss"]))
    wide = stats.t.ppf(0.5 + level / 2, len(rows) - 2) * found.stderr
    return -found.slope, found.stderr, (-found.slope - wide, -found.slope + wide)


def test_all_rows_within_delta_give_the_regression_line():
    rows = line_rows()
    slope, error, ends = regression(rows, 0.95)
    fit = fit_law(PowerLaw(offset=False), rows, delta=1.0, starts=10)
    assert fit.params["gamma"] == pytest.approx(slope, rel=1e-8)
    assert fit.standard_errors("curvature")["gamma"] == pytest.approx(error, rel=1e-6)
    assert fit.interval(0.95, method="profile")["gamma"] == pytest.approx(ends, rel=1e-4)
    wide = fit.interval(0.99, method="profile")["gamma"]
    assert wide == pytest.approx(regression(rows, 0.99)[2], rel=1e-4)


def test_bootstrap_of_a_line_is_as_wide_as_the_regression():
    rows = line_rows(n=200)
    _, error, ends = regression(rows, 0.95)
    fit = fit_law(PowerLaw(offset=False), rows, delta=1.0, starts=10, bootstrap=2000)
    assert fit.standard_errors()["gamma"] == pytest.approx(error, rel=0.1)
    assert fit.interval(0.95)["gamma"] == pytest.approx(ends, abs=0.2 * (ends[1] - ends[0]))


def test_rows_of_one_trajectory_are_no_independent_evidence():
    """Ten copies of each row's noise: by trajectory the error is that of the rows that are there once."""
    once = line_rows(n=30)
    rows = pd.concat([once.assign(trajectory=range(30), copy=copy) for copy in range(10)], ignore_index=True)
    alone = fit_law(PowerLaw(offset=False), once, delta=1.0, starts=10, bootstrap=1000)
    grouped = fit_law(PowerLaw(offset=False), rows, delta=1.0, starts=10, bootstrap=1000)
    naive = fit_law(PowerLaw(offset=False), rows, delta=1.0, starts=10, bootstrap=1000, group="copy")
    apart = fit_law(
        PowerLaw(offset=False), rows.drop(columns="trajectory"), delta=1.0, starts=10, bootstrap=1000
    ).standard_errors()["gamma"]
    error = alone.standard_errors()["gamma"]
    assert grouped.standard_errors()["gamma"] == pytest.approx(error, rel=0.1)
    assert apart == pytest.approx(error / np.sqrt(10), rel=0.1)
    assert naive.standard_errors()["gamma"] == pytest.approx(0, abs=1e-9)
    curvature = grouped.standard_errors("curvature")["gamma"]
    assert curvature == pytest.approx(alone.standard_errors("curvature")["gamma"], rel=0.25)


def test_covariance_agrees_with_the_bootstrap_where_noise_is_even():
    fit = fit_law(Chinchilla(), chinchilla_rows(), objective="mse", starts=20, bootstrap=500)
    curvature, drawn = fit.standard_errors("curvature"), fit.standard_errors()
    for name in ("E", "alpha", "beta"):
        assert curvature[name] == pytest.approx(drawn[name], rel=0.25)
    assert fit.covariance.loc["A", "alpha"] > 0
    np.testing.assert_allclose(fit.covariance, fit.covariance.T)


def test_fixed_numbers_have_no_width():
    fit = fit_law(Chinchilla(), chinchilla_rows(), fixed={"E": 1.8}, starts=10, bootstrap=20)
    for method in ("bootstrap", "profile"):
        low, high = fit.interval(0.95, method=method)["E"]
        assert low == pytest.approx(1.8, rel=1e-12)
        assert high == pytest.approx(1.8, rel=1e-12)
    assert fit.covariance.loc["E", "E"] == 0


def test_profile_ends_are_where_the_likelihood_says():
    """At the end of alpha's interval the others are fitted again and the objective stands at the limit."""
    rows = chinchilla_rows()
    fit = fit_law(Chinchilla(), rows, objective="mse", starts=20)
    for end in fit.interval(0.95, method="profile")["alpha"]:
        held = fit_law(Chinchilla(), rows, objective="mse", fixed={"alpha": end}, starts=20)
        fall = fit.n * np.log(held.objective / fit.objective)
        assert fall == pytest.approx(fit.n * np.log1p(stats.t.ppf(0.975, 115) ** 2 / 115), rel=0.01)


def test_profile_intervals_without_an_end_are_named():
    """Rows of a law without an offset leave it open below: its interval ended at the box's edge without a word."""
    fit = fit_law(PowerLaw(), line_rows(), starts=20)
    edge = PowerLaw().parameters[0].low
    assert fit.interval(method="profile")["E"][0] == pytest.approx(edge)
    assert fit.interval_flags() == (f"E: the 95% profile interval has no lower end; it stops at {edge:.3g}",)
    assert fit_law(Chinchilla(), chinchilla_rows(), starts=20).interval_flags() == ()


def test_density_is_normalised():
    for tau in (1e-3, 0.3, 1.0, 40.0):
        inside, _ = integrate.quad(lambda r, t=tau: np.exp(-(r**2) / 2 / t), 0, 1, points=[min(1.0, 8 * tau**0.5)])
        outside, _ = integrate.quad(lambda r, t=tau: np.exp(-(r - 0.5) / t), 1, 1 + 50 * tau)
        assert np.exp(log_normaliser(np.log(tau))) == pytest.approx(2 * (inside + outside), rel=1e-7)


def test_likelihoods_are_those_of_scipy():
    rows = line_rows()
    fit = fit_law(PowerLaw(offset=False), rows, objective="mse", starts=10)
    problem = fit.data.problem(fit.settings)
    theta = problem.law.to_theta(fit.params)[None]
    left = problem.residuals(theta)[0]
    value, tau = log_likelihood(problem, float(problem.evaluate(theta)[0][0]))
    assert tau == pytest.approx((left**2).mean())
    assert value == pytest.approx(stats.norm.logpdf(left, scale=np.sqrt(tau)).sum(), rel=1e-10)
    narrow = fit_law(PowerLaw(offset=False), rows, delta=1e-6, starts=10)
    problem = narrow.data.problem(narrow.settings)
    theta = problem.law.to_theta(narrow.params)[None]
    left = problem.residuals(theta)[0]
    value, _ = log_likelihood(problem, float(problem.evaluate(theta)[0][0]))
    assert value == pytest.approx(stats.laplace.logpdf(left, scale=np.abs(left).mean()).sum(), rel=1e-3)


def test_the_law_that_made_the_rows_is_likeliest():
    tokens = np.geomspace(1e9, 1e12, 40)
    loss = PowerLaw().predict({"E": 1.7, "K": 2000.0, "gamma": 0.35}, {"tokens": tokens})
    noise = np.random.default_rng(0).normal(size=40)
    rows = pd.DataFrame({"tokens": tokens, "loss": loss * np.exp(0.003 * noise)})
    for objective in ("huber_log", "mse"):
        fits = [fit_law(PowerLaw(offset=offset), rows, objective=objective, starts=20) for offset in (False, True)]
        table = compare_laws(*fits)
        assert list(table["equation"]) == ["y = E + K/x^gamma, x = tokens", "y = K/x^gamma, x = tokens"]
        assert list(table["k"]) == [4, 3]
        assert table["difference"][0] == 0
        assert table["difference"][1] > 50
        assert table["weight"].sum() == pytest.approx(1)
        assert table["r2"].min() > 0.9
        assert table["aic"][0] == pytest.approx(2 * 4 - 2 * table["log_likelihood"][0])


def test_unlike_fits_are_not_compared():
    rows = line_rows()
    fit = fit_law(PowerLaw(), rows, starts=10)
    with pytest.raises(ValueError, match="1 fits: give at least two"):
        compare_laws(fit)
    with pytest.raises(ValueError, match="fits use different rows"):
        compare_laws(fit, fit_law(PowerLaw(), rows.iloc[:20], starts=10))
    with pytest.raises(ValueError, match="fits with different objectives"):
        compare_laws(fit, fit_law(PowerLaw(), rows, objective="mse", starts=10))


def test_wrong_levels_and_methods_are_refused():
    fit = fit_law(PowerLaw(), line_rows(), starts=10, bootstrap=10)
    for method in ("bootstrap", "profile"):
        with pytest.raises(ValueError, match="level=95 must lie between 0 and 1"):
            fit.interval(95, method=method)
    with pytest.raises(ValueError, match="method 'wald' is unknown; choose one of bootstrap, profile"):
        fit.interval(0.95, method="wald")


def test_band_of_the_curve_holds_it_and_widens_beyond_the_rows():
    fit = fit_law(Chinchilla(), chinchilla_rows(), starts=20, bootstrap=200)
    ask = pd.DataFrame({"params": [1e9, 1e12], "tokens": [1e10, 1e13]})
    predicted, low, high = fit.predict(ask, interval=0.95)
    truth = Chinchilla().predict(TRUTH, {"params": ask["params"].to_numpy(), "tokens": ask["tokens"].to_numpy()})
    assert ((low < predicted) & (predicted < high)).all()
    assert ((low < truth) & (truth < high)).all()
    assert high[1] - low[1] > 3 * (high[0] - low[0])


def test_optimum_has_intervals_that_hold_the_truth():
    fit = fit_law(Chinchilla(), chinchilla_rows(), starts=20, bootstrap=200)
    table = fit.optimal([1e20, 1e22])
    size, tokens = Chinchilla().optimal(TRUTH, np.array([1e20, 1e22]), {"k": 6.0, "n": 1.0, "d": 1.0})
    np.testing.assert_allclose(6 * table["params"] * table["tokens"], [1e20, 1e22])
    for name, truth in (("params", size), ("tokens", tokens), ("tokens_per_param", tokens / size)):
        assert (table[f"{name}_low"] < truth).all()
        assert (truth < table[f"{name}_high"]).all()
    assert np.isnan(fit_law(Chinchilla(), chinchilla_rows(), starts=5).optimal(1e20)["params_low"]).all()


def test_a_replicate_without_an_optimum_is_counted_and_leaves_the_rest():
    """An exponent at 0 in one replicate of 200 once ended the call."""
    fit = fit_law(Chinchilla(), chinchilla_rows(), starts=10, bootstrap=200)
    flat = list(fit.replicates[0])
    flat[2] = 0.0
    one = dataclasses.replace(fit, replicates=(tuple(flat), *fit.replicates[1:])).optimal(1e21)
    assert one["without_optimum"][0] == pytest.approx(1 / 200)
    assert one["params_low"][0] == pytest.approx(fit.optimal(1e21)["params_low"][0], rel=0.05)
    many = dataclasses.replace(fit, replicates=(*[tuple(flat)] * 60, *fit.replicates[60:])).optimal(1e21)
    assert (many["params_low"][0], many["params_high"][0]) == (0, np.inf)
    assert fit.optimal(1e21)["without_optimum"][0] == 0
    assert open_quantiles(np.array([1.0, 2.0, np.nan, 3.0]), 0.4) == [1.0, 3.0]


def test_sensitivity_names_every_setting():
    rows = chinchilla_rows()
    rows.loc[0, "loss"] *= 1.3
    rows["params_all"] = rows["params"] + 3e7
    rows["flops"] = 9 * rows["params"] ** 0.95 * rows["tokens"]
    table = fit_law(Chinchilla(), rows, starts=20).sensitivity().set_index("setting")
    assert {"as fitted", "huber_log, delta = 0.0001", "huber_log, delta = 1", "mse", "mae"} <= set(table.index)
    assert "without 1 outliers (beyond 5 robust sd)" in table.index
    assert table.loc["N = params_all", "alpha"] > table.loc["as fitted", "alpha"] + 0.03
    base = table.loc["as fitted"]
    assert base["exponent_N"] == pytest.approx(base["beta"] / (base["alpha"] + base["beta"]))
    counted = table.loc["FLOPs as counted"]
    assert counted["exponent_N"] == pytest.approx(base["beta"] / (base["alpha"] + 0.95 * base["beta"]))
    assert abs(table.loc["mse", "E"] - 1.8) > abs(base["E"] - 1.8)


def test_many_starts_at_once_end_where_scipy_ends():
    """SciPy's L-BFGS-B from the same starts finds nothing lower, and as low a minimum from most of them."""
    fit = fit_law(Chinchilla(), chinchilla_rows(), starts=5)
    problem, (lower, upper) = fit.data.problem(fit.settings), fit.settings.box()
    starts = problem.law.starts(problem.inputs, problem.target, 12, np.random.default_rng(3))
    ends = minimise(problem, starts, lower, upper)
    box = list(zip(lower, upper, strict=True))
    theirs = [
        optimize.minimize(
            lambda theta: (lambda value, slope: (value[0], slope[0]))(*problem.evaluate(theta[None])),
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=box,
            options={"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-9},
        ).fun
        for start in starts
    ]
    assert ends.value.min() <= min(theirs) * (1 + 1e-9)
    assert np.median(ends.value) <= np.median(theirs) * (1 + 1e-9)


@pytest.mark.parametrize("objective", ["huber_log", "mse"])
def test_the_unit_of_weights_says_nothing(objective):
    """Before, weights of 0.01 made profile intervals ten times wider, and laws alike."""
    rows = line_rows()
    uneven = np.random.default_rng(0).uniform(0.5, 2.0, len(rows))
    found = []
    for unit in (1e-2, 1.0, 1e2):
        laws = [
            fit_law(PowerLaw(offset=offset), rows, objective=objective, weights=unit * uneven, starts=10, bootstrap=20)
            for offset in (False, True)
        ]
        table = compare_laws(*laws)
        shown = [*laws[0].interval()["gamma"], *laws[0].interval(method="profile")["gamma"], laws[0].objective]
        found.append([*shown, *table["aicc"], *table["weight"]])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    np.testing.assert_allclose(found[2], found[1], rtol=1e-5)
