"""Rows that share a trunk: what few trunks can say, and what many rows of them cannot."""

import numpy as np
import pandas as pd
import pytest

from analysis.fitting import Fit, compare_laws, fit_law
from analysis.laws import Chinchilla, PowerLaw

TRUTH = {"E": 1.8, "A": 400.0, "alpha": 0.34, "B": 1500.0, "beta": 0.36}


def trunk_rows(sizes=4, seeds=1, between=0.005, within=0.002, seed=0):
    """Five cooldowns a trunk, which share its luck."""
    rng = np.random.default_rng(seed)
    rows = []
    for size in np.geomspace(5e7, 1e10, sizes):
        for run in range(seeds):
            luck = between * rng.normal()
            tokens = np.geomspace(1e9, 2e11, 5)
            loss = Chinchilla().predict(TRUTH, {"params": np.full(5, size), "tokens": tokens})
            noisy = loss * np.exp(luck + within * rng.normal(size=5))
            own = {"params": size, "tokens": tokens, "loss": noisy, "trajectory": f"{size:g}-{run}"}
            rows.append(pd.DataFrame(own))
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize("sizes", [3, 6])
def test_few_trunks_give_no_interval_and_say_so(sizes):
    fit = fit_law(Chinchilla(), trunk_rows(sizes), starts=15, bootstrap=50, fixed={"E": 1.8} if sizes == 3 else None)
    assert any(flag.startswith(f"{sizes} independent groups of rows cannot give intervals") for flag in fit.flags)
    for name, ends in fit.interval().items():
        assert np.isnan(ends).all() == (name not in fit.settings.fixed), name
    assert np.isnan(fit.standard_errors()["alpha"])
    predicted, low, high = fit.predict(trunk_rows(sizes), interval=0.95)
    assert np.isfinite(predicted).all()
    assert np.isnan([low, high]).all()
    assert np.isnan(fit.optimal(1e21)["params_low"]).all()
    assert Fit.from_json(fit.to_json()).flags == fit.flags


def test_enough_trunks_give_intervals():
    for rows in (trunk_rows(7), trunk_rows(3, seeds=3), trunk_rows(3).drop(columns="trajectory")):
        fit = fit_law(Chinchilla(), rows, starts=15, bootstrap=50)
        assert np.isfinite(list(fit.interval().values())).all()
        assert "cannot give an interval" not in " ".join(fit.flags)


@pytest.mark.parametrize("objective", ["mse", "huber_log"])
def test_profile_of_copied_rows_is_as_wide_as_that_of_the_rows(objective):
    """Ten copies of each row are no more evidence: without groups the interval is sqrt(10) times narrower."""

    def width(rows):
        fit = fit_law(PowerLaw(offset=False), rows, objective=objective, delta=1.0, starts=10)
        return np.ptp(fit.interval(method="profile")["gamma"])

    tokens, ratios = np.geomspace(1e9, 1e12, 30), []
    for seed in range(6):
        loss = PowerLaw(offset=False).predict({"K": 60.0, "gamma": 0.12}, {"tokens": tokens})
        loss *= np.exp(0.02 * np.random.default_rng(seed).normal(size=30))
        once = pd.DataFrame({"tokens": tokens, "loss": loss})
        copies = pd.concat([once.assign(trajectory=range(30), copy=copy) for copy in range(10)], ignore_index=True)
        ratios.append(width(copies) / width(once))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.15)


def test_profile_of_few_trunks_is_not_given():
    fit = fit_law(Chinchilla(), trunk_rows(4), starts=15)
    assert np.isnan(list(fit.interval(method="profile").values())).all()


def copied_rows(seed, copies):
    """A power law without offset, each row there several times but for a hair."""
    rng = np.random.default_rng(seed)
    tokens = np.geomspace(1e9, 1e12, 12)
    loss = PowerLaw(offset=False).predict({"K": 60.0, "gamma": 0.12}, {"tokens": tokens})
    loss *= np.exp(0.01 * rng.normal(size=12))
    parts = [
        pd.DataFrame({"tokens": tokens, "loss": loss * np.exp(1e-4 * rng.normal(size=12)), "trajectory": range(12)})
        for _ in range(copies)
    ]
    return pd.concat(parts, ignore_index=True)


def test_copies_are_no_support_for_a_law():
    """Of 12 draws, each row five times over, an offset that is not there won by 5 and more in two."""
    leads, inflations = [], []
    for seed in range(12):
        rows = copied_rows(seed, 5)
        fits = [fit_law(PowerLaw(offset=offset), rows, objective="mse", starts=10) for offset in (False, True)]
        table = compare_laws(*fits).set_index("k")
        leads.append(table.loc[3, "difference"] - table.loc[4, "difference"])
        inflations.append(table.loc[3, "inflation"])
    assert max(leads) < 0
    assert np.mean(inflations) == pytest.approx(5, rel=0.2)


def test_few_trunks_cannot_compare_laws():
    rows = trunk_rows(4)
    fits = [fit_law(Chinchilla(tied=tied), rows, starts=15) for tied in (False, True)]
    with pytest.raises(ValueError, match="4 independent groups of rows are too few to tell laws apart"):
        compare_laws(*fits)
