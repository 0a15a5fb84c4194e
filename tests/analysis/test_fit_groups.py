"""Rows that share a trunk: what few trunks can say, and what many rows of them cannot."""

import numpy as np
import pandas as pd
import pytest

from analysis.fit import Fit, fit_law
from analysis.laws import Chinchilla

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
    assert any(flag.startswith(f"{sizes} independent groups of rows cannot give an interval") for flag in fit.flags)
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
