"""Profile likelihood of a fit: a density of the residuals with a fitted scale, and the intervals it gives.

A sum of Huber functions is not a likelihood until it is normalised. The density is exp(-rho(r) / tau) / Z(tau) with

    Z(tau) = sqrt(2 pi tau) erf(delta / sqrt(2 tau)) + (2 tau / delta) exp(-delta^2 / (2 tau)),

the scale tau fitted beside the law's numbers; for `mse` (delta = infinity) it is the normal density with variance tau.
Whatever tau is, the law's numbers that maximise it are those that minimise the objective.

References
----------
Huber 1964, "Robust Estimation of a Location Parameter", eq. 3.6 (the density); Venzon and Moolgavkar 1988, "A Method
for Computing Profile-Likelihood-Based Confidence Intervals".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from analysis.fitting.intervals import AT_BOUND, robust_scale
from analysis.fitting.minimise import minimise
from analysis.fitting.objectives import Problem
from analysis.laws.base import Array, Law

DOUBLINGS = 12
"""How often an end is moved outward before it counts as open."""
BISECTIONS = 14
"""Halvings of the bracket: an end is known to 1e-4 of its distance from the estimate."""


def log_likelihood(problem: Problem, value: float) -> tuple[float, float]:
    """Log-likelihood of the residuals, and the fitted scale tau.

    Parameters
    ----------
    problem
        Law, objective and data.
    value
        Sum of rho in units of scale squared, as `Problem.evaluate` gives it.

    Returns
    -------
    log_likelihood, tau
        In nats for the residuals in their unit, tau in their unit squared; infinite and 0 for a perfect fit.
    """
    count, unit = float(problem.weights.sum()), problem.scale
    if value <= 0:
        return np.inf, 0.0
    if not np.isfinite(problem.corner):
        tau = 2 * value / count
        return -0.5 * count * (np.log(2 * np.pi * tau * unit**2) + 1), tau * unit**2

    def negative(log_tau: float) -> float:
        return count * log_normaliser(log_tau) + value * np.exp(-log_tau)

    # The scale of a normal density and that of a Laplace density bracket it.
    guesses = np.log([2 * value / count, value / count])
    found = optimize.minimize_scalar(
        negative, bounds=(guesses.min() - 3, guesses.max() + 3), method="bounded", options={"xatol": 1e-10}
    )
    return -float(found.fun) - count * np.log(unit), float(np.exp(found.x)) * unit**2


def profile_interval(
    problem: Problem,
    minima: Array,
    lower: Array,
    upper: Array,
    covariance: Array,
    level: float,
    inflation: Array,
    groups: int,
) -> NDArray[np.float64]:
    """Coordinates at which the profile likelihood falls below a level, shape (p, 2).

    Each coordinate is held at a value while the others are fitted again, from every distinct minimum; its interval ends
    where twice the fall of the log-likelihood reaches n log(1 + t^2 / (n - p)), exact for a linear law with normal
    noise. Where residuals do not follow the Huber density, the fall is scaled by E[psi^2] / (tau E[psi']). Where rows
    are grouped, it is scaled by each coordinate's `inflation`, and t has no more than groups - 1 degrees of freedom. An
    end that is not reached within the box is the box's, and `edge_flags` names it.

    Parameters
    ----------
    problem
        Law, objective and data.
    minima
        Coordinates of the distinct minima, the best first, shape (m, p).
    lower, upper
        Box, shape (p,); equal where fixed.
    covariance
        Of the coordinates, shape (p, p), to choose where to look; NaN where unknown.
    level
        Such as 0.95.
    inflation
        Variance of each coordinate with rows grouped over that with rows independent, shape (p,).
    groups
        Independent groups of rows.

    References
    ----------
    Bates and Watts 1988, "Nonlinear Regression Analysis", section 6.1.2 (profile t); Heritier and Ronchetti 1994,
    "Robust Bounded-Influence Tests in General Parametric Models" (the scaling); Rotnitzky and Jewell 1990, "Hypothesis
    Testing of Regression Parameters in Semiparametric Generalized Linear Models for Cluster Correlated Data" (that of
    groups).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1, such as 0.95")
    best = minima[0]
    free = np.flatnonzero(lower < upper)
    ends = np.stack([best, best], axis=1)
    value = float(problem.evaluate(best[None])[0][0])
    if value <= 1e-12:
        return ends
    falls = _fall(problem, best, value, len(free), level, groups) * inflation[free]
    limit = np.repeat([_limit(problem, value, float(fall)) for fall in falls], 2)
    index, sign = np.repeat(free, 2), np.tile([-1.0, 1.0], len(free))
    edge = np.where(sign < 0, lower[index], upper[index])
    variance = np.diag(covariance)[index]
    known = np.isfinite(variance) & (variance > 0)
    step = np.where(known, np.sqrt(np.where(known, variance, 0.0)), 0.1)
    # How the other coordinates move when one is moved: the valley is curved, and hundreds of times longer than wide.
    along = np.where(known[:, None], covariance[index] / np.where(known, variance, 1.0)[:, None], 0.0)
    inside, outside = best[index].copy(), np.full(len(index), np.nan)
    guess = np.repeat(minima[:, None], len(index), axis=1)

    def too_far(at: Array, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        move = at - guess[:, rows, index[rows]]
        fall, guess[:, rows] = _fitted_at(
            problem, guess[:, rows] + move[:, :, None] * along[rows], index[rows], at, lower, upper
        )
        return fall > limit[rows]

    for _ in range(DOUBLINGS):
        rows = np.flatnonzero(np.isnan(outside) & (inside != edge))
        if not len(rows):
            break
        at = best[index[rows]] + sign[rows] * step[rows]
        at = np.where(sign[rows] < 0, np.maximum(at, edge[rows]), np.minimum(at, edge[rows]))
        far = too_far(at, rows)
        outside[rows[far]], inside[rows[~far]] = at[far], at[~far]
        step[rows] *= 2
    rows = np.flatnonzero(np.isfinite(outside))
    for _ in range(BISECTIONS if len(rows) else 0):
        at = 0.5 * (inside[rows] + outside[rows])
        far = too_far(at, rows)
        outside[rows[far]], inside[rows[~far]] = at[far], at[~far]
    open_end = np.isnan(outside)
    ends[free] = np.where(open_end, edge, 0.5 * (inside + np.where(open_end, edge, outside))).reshape(-1, 2)
    return ends


def edge_flags(law: Law, ends: Array, lower: Array, upper: Array, level: float) -> tuple[str, ...]:
    """Name the intervals, shape (p, 2), that end at the edge of the box, shape (p,) each."""
    flags: list[str] = []
    for parameter, pair, low, high in zip(law.parameters, ends.tolist(), lower.tolist(), upper.tolist(), strict=True):
        margin = AT_BOUND * (high - low)
        for which, is_open in (("lower", pair[0] <= low + margin), ("upper", pair[1] >= high - margin)):
            if is_open and low < high:
                edge = parameter.to_value(low if which == "lower" else high)
                flags.append(
                    f"{parameter.name}: the {level:.0%} profile interval has no {which} end; it stops at {edge:.3g}"
                )
    return tuple(flags)


def _fitted_at(
    problem: Problem, guess: Array, index: NDArray[np.int64], at: Array, lower: Array, upper: Array
) -> tuple[Array, Array]:
    """Least objective with one coordinate held at a value, shape (k,), and the coordinates there, (m, k, p)."""
    rows = np.arange(len(index))
    low, high = np.repeat(lower[None], len(index), axis=0), np.repeat(upper[None], len(index), axis=0)
    low[rows, index] = high[rows, index] = at
    ends = [minimise(problem, start, low, high) for start in guess]
    return np.min([end.value for end in ends], axis=0), np.stack([end.theta for end in ends])


def _fall(problem: Problem, best: Array, value: float, numbers: int, level: float, groups: int) -> float:
    """Fall of the log-likelihood at the ends of an interval, in nats."""
    count = float(problem.weights.sum())
    freedom = max(count - numbers, 1.0)
    at_most = min(freedom, max(groups - 1, 1)) if groups < problem.n else freedom
    fall = 0.5 * count * float(np.log1p(stats.t.ppf(0.5 + level / 2, at_most) ** 2 / freedom))
    if not np.isfinite(problem.corner):
        return fall
    _, tau = log_likelihood(problem, value)
    pull, steep = robust_scale(problem, best, numbers)
    return fall * pull / (tau / problem.scale**2 * steep) if steep > 0 else fall


def _limit(problem: Problem, value: float, fall: float) -> float:
    """Objective in units of scale squared at which the likelihood has fallen too far."""
    if not np.isfinite(problem.corner):
        return value * float(np.exp(2 * fall / float(problem.weights.sum())))
    top, _ = log_likelihood(problem, value)

    def excess(growth: float) -> float:
        return top - log_likelihood(problem, value * growth)[0] - fall

    root: Any = optimize.brentq(excess, 1.0, 1e6)
    return value * float(root)


def log_normaliser(log_tau: float) -> float:
    """Log of Z(tau) for delta = 1."""
    tau = np.exp(log_tau)
    inside = np.sqrt(2 * np.pi * tau) * special.erf(1 / np.sqrt(2 * tau))
    return float(np.log(inside + 2 * tau * np.exp(-0.5 / tau)))
