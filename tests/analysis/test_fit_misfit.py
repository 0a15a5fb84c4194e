"""A law that does not fit says so, and one that does is left alone."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from analysis.fitting import fit_law
from analysis.fitting.misfit import few_runs
from analysis.laws import Chinchilla, DataConstrained, PowerLaw

TRUTH = {"E": 1.8, "A": 400.0, "alpha": 0.34, "B": 1500.0, "beta": 0.36}


def rows_of(noise=0.002, seed=0, bend=0.0, seeds=1, sizes=8, budgets=8):
    """Chinchilla's law, bent along the sizes."""
    grid = np.meshgrid(np.geomspace(5e7, 1e10, sizes), np.geomspace(1e9, 2e11, budgets), np.arange(seeds))
    params, tokens, run = (values.ravel() for values in grid)
    loss = Chinchilla().predict(TRUTH, {"params": params, "tokens": tokens})
    wave = np.cos(3 * np.pi * np.log(params / 5e7) / np.log(200))
    noisy = loss * np.exp(bend * wave + noise * np.random.default_rng(seed).normal(size=len(loss)))
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": noisy, "run": run})


def told(fit):
    return [flag for flag in fit.flags if flag.startswith("the law does not fit")]


@pytest.mark.parametrize("objective", ["huber_log", "mse"])
def test_a_bend_along_the_sizes_is_told(objective):
    flags = told(fit_law(Chinchilla(), rows_of(bend=0.004), objective=objective, starts=20))
    assert len(flags) == 1
    assert "runs test of Wald and Wolfowitz" in flags[0]
    assert "stretches of params" in flags[0]
    flags = told(fit_law(Chinchilla(), rows_of(bend=0.004, seeds=3), objective=objective, starts=20))
    assert len(flags) == 1
    assert "F test for lack of fit against repeated runs" in flags[0]


@pytest.mark.parametrize("objective", ["huber_log", "mse"])
@pytest.mark.parametrize("seeds", [1, 2])
def test_noise_is_not_told(objective, seeds):
    """At a level of 1% at most two of 30 draws err (once in 1,000 times more)."""
    fits = [
        fit_law(Chinchilla(), rows_of(seed=i, seeds=seeds, sizes=5), objective=objective, starts=5) for i in range(30)
    ]
    assert sum(bool(told(fit)) for fit in fits) <= 2


def test_luck_of_trunks_is_not_told():
    """Rows of one trunk share their sign: counted as rows, 80% of such draws fail the runs test."""
    grouped, alone = 0, 0
    for seed in range(15):
        rows = rows_of(seed=seed, sizes=10)
        luck = dict(zip(sorted(set(rows["params"])), 0.01 * np.random.default_rng(seed).normal(size=10), strict=True))
        rows["loss"] *= np.exp(rows["params"].map(luck))
        grouped += bool(told(fit_law(Chinchilla(), rows.assign(trajectory=rows["params"].astype(str)), starts=5)))
        alone += bool(told(fit_law(Chinchilla(), rows, starts=5)))
    assert grouped <= 1 < 5 < alone


def test_loss_that_rises_with_epochs_is_told():
    """The data-constrained law only flattens: its interval of R_D was narrow and wrong without a word."""
    inputs = np.array([(1e5, d, min(u, d)) for u in (64e3, 128e3, 256e3, 1e12) for d in 128e3 * 2.0 ** np.arange(5)]).T
    columns = dict(zip(("params", "tokens", "unique_tokens"), inputs, strict=True))
    loss = 1.6 + 60 / inputs[1] ** 0.35 + 0.15 * np.maximum(0, np.log2(inputs[1] / inputs[2] / 4))
    rows = pd.DataFrame({**columns, "loss": loss * np.exp(0.004 * np.random.default_rng(0).normal(size=20))})
    fit = fit_law(DataConstrained(excess_params=False), rows, fixed={"A": 1e-5, "alpha": 0.0}, starts=50)
    assert len(told(fit)) == 1


def test_exact_rows_are_not_told():
    assert told(fit_law(Chinchilla(), rows_of(noise=0), starts=20)) == []
    line = pd.DataFrame({"tokens": np.geomspace(1e9, 1e12, 12), "loss": np.geomspace(4, 2, 12)})
    assert told(fit_law(PowerLaw(offset=False), line, starts=5)) == []


def test_runs_are_counted_as_all_orders_count_them():
    signs = np.array([True, True, True, False, False, True, True])
    runs = 1 + int((signs[1:] != signs[:-1]).sum())
    orders = [np.array(order) for order in permutations(signs.tolist())]
    share = np.mean([1 + (order[1:] != order[:-1]).sum() <= runs for order in orders])
    assert few_runs(signs) == pytest.approx(share)
    assert few_runs(np.array([True] * 9)) == 1.0
