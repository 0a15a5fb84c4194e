"""Whether a law's residuals are noise: lack of fit against repeated seeds, or runs of one sign along an input."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.fitting.objectives import Problem
from analysis.fitting.settings import DATA_SET, Data
from analysis.laws.base import Array

MISFIT = 0.01
"""p-value below which the law is flagged as not fitting."""
FEW_REPEATS = 3
"""Degrees of freedom of repeated runs below which they cannot measure the noise."""
EXACT = 1e-5
"""Largest residual, as a share of the target, at which there is nothing to explain."""


def misfit_flags(problem: Problem, theta: Array, data: Data, free: NDArray[np.bool_]) -> list[str]:
    """Flag residuals that are more than noise: at most one flag, with the test's name.

    Runs that agree in all inputs measure the noise, where they have three degrees of freedom: the F test for lack of
    fit, after the residuals' part along the law's own slopes is taken out. Where rows share trunks both its degrees of
    freedom count in proportion to the trunks. Without repeats it is the runs test on the signs of the residuals along
    each input; of rows that share trunks, on the trunks' means and along `params` alone, since one trunk's luck lasts.

    References
    ----------
    Draper and Smith 1998, "Applied Regression Analysis", section 2.1 (lack of fit); Wald and Wolfowitz 1940, "On a Test
    Whether Two Samples are from the Same Population" (runs).
    """
    residuals = problem.residuals(theta[None])[0]
    middle = 1.0 if problem.is_log else float(np.median(problem.target[problem.target > 0]))
    if np.abs(residuals).max() < EXACT * middle:
        return []
    cells = _cells(problem, data)
    if problem.n - len(set(cells.tolist())) >= FEW_REPEATS:
        return _lack_of_fit(problem, theta, data, free, cells)
    return _one_sided(problem, residuals, data)


def _cells(problem: Problem, data: Data) -> NDArray[np.int64]:
    """Give each row the number of its cell: rows that agree in all inputs and data, shape (n,)."""
    same = [*problem.inputs.values(), *(data.array(name) for name in (DATA_SET,) if name in data.columns)]
    return np.unique(np.stack(same, axis=1), axis=0, return_inverse=True)[1].ravel()


def _lack_of_fit(
    problem: Problem, theta: Array, data: Data, free: NDArray[np.bool_], cells: NDArray[np.int64]
) -> list[str]:
    """F test of the cells' means about the law against the runs about their cell."""
    root = np.sqrt(problem.weights)
    slopes = (problem.jacobian(theta)[free] * root).T
    left = problem.residuals(theta[None])[0] * root
    left = left - slopes @ np.linalg.lstsq(slopes, left, rcond=None)[0]
    total = np.bincount(cells, problem.weights)
    means = np.bincount(cells, left * root) / total
    noise = float(((left - means[cells] * root) ** 2).sum())
    lack = float((total * means**2).sum())
    rank = int(np.linalg.matrix_rank(slopes))
    share = data.num_groups / problem.n
    above, below = share * (len(total) - rank), share * (problem.n - len(total))
    if above <= 0 or noise <= 0:
        return []
    statistic = (lack / (len(total) - rank)) / (noise / (problem.n - len(total)))
    p_value = float(stats.f.sf(statistic, above, below))
    if p_value >= MISFIT:
        return []
    return [
        f"the law does not fit (F test for lack of fit against repeated runs, p = {p_value:.1g}): residuals are "
        f"{np.sqrt(statistic):.1f} times the noise between runs; the intervals do not account for that"
    ]


def _one_sided(problem: Problem, residuals: Array, data: Data) -> list[str]:
    """Test the runs along each input, with Bonferroni's correction."""
    tests = _sequences(problem, residuals, data)
    found = {name: len(tests) * few_runs(signs) for name, signs in tests.items()}
    worst = min(found, key=lambda name: found[name], default="")
    if not worst or found[worst] >= MISFIT:
        return []
    return [
        f"the law does not fit (runs test of Wald and Wolfowitz, p = {found[worst]:.1g}): residuals keep their sign "
        f"over stretches of {worst}; the intervals do not account for that"
    ]


def _sequences(problem: Problem, residuals: Array, data: Data) -> dict[str, NDArray[np.bool_]]:
    """By input, whether each residual along it is above 0."""
    inputs = problem.inputs
    if data.num_groups == data.n:
        varied = {name: values for name, values in inputs.items() if len(set(values.tolist())) > 2}
        others = {name: [other for key, other in inputs.items() if key != name] for name in varied}
        orders = {name: np.lexsort((*others[name], values)) for name, values in varied.items()}
        return {name: residuals[order] > 0 for name, order in orders.items()}
    if "params" not in inputs:
        return {}
    codes = np.unique(np.array(data.groups), return_inverse=True)[1]
    means, size = (np.bincount(codes, values) / np.bincount(codes) for values in (residuals, np.log(inputs["params"])))
    return {"params": means[np.argsort(size, kind="stable")] > 0}


def few_runs(signs: NDArray[np.bool_]) -> float:
    """Probability of at most that many runs of one sign in a random order of the same signs, shape (n,)."""
    ups = int(signs.sum())
    downs = len(signs) - ups
    if not ups or not downs:
        return 1.0
    runs = 1 + int((signs[1:] != signs[:-1]).sum())
    ways = sum(_ways(ups, downs, count) for count in range(2, runs + 1))
    return ways / comb(ups + downs, ups)


def _ways(ups: int, downs: int, runs: int) -> int:
    """Orders of so many signs with that number of runs."""
    half = runs // 2
    if runs % 2 == 0:
        return 2 * comb(ups - 1, half - 1) * comb(downs - 1, half - 1)
    return comb(ups - 1, half) * comb(downs - 1, half - 1) + comb(ups - 1, half - 1) * comb(downs - 1, half)
