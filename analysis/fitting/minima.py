"""Every distinct minimum of an objective, from many starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.fitting.minimise import Ends, minimise, polish
from analysis.fitting.objectives import Problem
from analysis.fitting.settings import Settings
from analysis.law import Array, Law

DISTINCT = 1e-4
"""Largest relative difference of predictions on the fitted rows at which two ends are one minimum."""
NEAR_BEST = 1e-3
"""Relative distance from the best objective within which ends tell how far each parameter is determined."""
RIVAL = 0.01
"""Relative distance within which another minimum makes a fit multimodal."""
MOST_POLISHED = 30
"""Candidates sharpened, the best first."""


@dataclass(frozen=True)
class Minimum:
    """One place where the objective is least around."""

    params: dict[str, float]
    """The law's numbers there."""
    objective: float
    """As `Fit.objective`."""
    share: float
    """Share of the starts that ended there."""
    difference: float
    """Largest relative difference of its predictions from the best minimum's, on the fitted rows."""


@dataclass(frozen=True, eq=False)
class Search:
    """What the starts found."""

    theta: Array
    """Coordinates of every distinct minimum, the best first, shape (m, p)."""
    minima: tuple[Minimum, ...]
    """The same in the law's numbers."""
    gradient_norm: float
    """At the best one: largest component in the box, in units of scale squared a standard deviation."""
    value: float
    """Its objective in units of scale squared."""
    unconverged: float
    """Share of the starts that had not converged."""
    spread: dict[str, float]
    """(largest - smallest) / |best| of each parameter among ends within `NEAR_BEST`."""
    starts: int
    """Starting points followed."""

    @property
    def multimodal(self) -> bool:
        """Whether another minimum lies within 1% of the best."""
        best = self.minima[0].objective
        return any(other.objective <= best * (1 + RIVAL) for other in self.minima[1:])


def draw_starts(problem: Problem, settings: Settings) -> Array:
    """Take the caller's starting points, or draw them from the law's, shape (count, p)."""
    law = problem.law
    if isinstance(settings.starts, int):
        rng = np.random.default_rng(settings.seed)
        return law.starts(problem.inputs, problem.target, settings.starts, rng)
    return np.array([_complete(law, start, settings.fixed) for start in settings.starts])


def search_minima(problem: Problem, starts: Array, lower: Array, upper: Array) -> Search:
    """Follow every start, sharpen one end of each group that predicts alike, and compare again.

    Raises
    ------
    ValueError
        No start gave a number.
    """
    ends = minimise(problem, starts, lower, upper)
    if not np.isfinite(ends.value).any():
        raise ValueError(f"the law gives no number at any of {len(starts)} starts: give others with starts=[...]")
    predicted, _ = problem.law.log_predict(ends.theta, problem.inputs)
    order = np.flatnonzero(ends.converged)[np.argsort(ends.value[ends.converged], kind="stable")]
    if not len(order):
        order = np.array([int(np.nanargmin(ends.value))])
    leaders = _group(predicted[order])
    unique = order[list(dict.fromkeys(leaders))][:MOST_POLISHED]
    sharp = [polish(problem, ends.theta[index], lower, upper) for index in unique]
    ranked = sorted(range(len(sharp)), key=lambda i: (sharp[i][1], i))
    theta = np.array([sharp[i][0] for i in ranked])
    same = _group(problem.law.log_predict(theta, problem.inputs)[0])
    shares = np.zeros(len(theta))
    counts = {int(leader): leaders.count(leader) for leader in dict.fromkeys(leaders)}
    for place, i in enumerate(ranked):
        leader = int(np.flatnonzero(order == unique[i])[0])
        shares[same[place]] += counts[leader] / len(starts)
    kept = [place for place in range(len(theta)) if same[place] == place]
    best = ranked[0]
    return Search(
        theta=theta[kept],
        minima=_minima(problem, theta[kept], shares[kept]),
        gradient_norm=sharp[best][2],
        value=sharp[best][1],
        unconverged=float((~ends.converged).mean()),
        spread=_spread(problem.law, ends, theta[0], sharp[best][1]),
        starts=len(starts),
    )


def _complete(law: Law, start: Mapping[str, float], fixed: Mapping[str, float]) -> Array:
    missing = [name for name in law.param_names if name not in start and name not in fixed]
    if missing:
        raise ValueError(f"a start lacks {missing[0]!r}; give {', '.join(law.param_names)}")
    return law.to_theta({**start, **fixed})


def _group(predicted: Array) -> list[int]:
    """By row, the first row that predicts alike."""
    leaders: list[int] = []
    groups: list[int] = []
    for index, row in enumerate(predicted):
        distances = np.abs(predicted[leaders] - row).max(axis=1) if leaders else np.array([])
        near = np.flatnonzero(distances <= DISTINCT)
        groups.append(leaders[int(near[0])] if len(near) else index)
        if not len(near):
            leaders.append(index)
    return groups


def _minima(problem: Problem, theta: Array, shares: Array) -> tuple[Minimum, ...]:
    residuals = problem.residuals(theta)
    predicted, _ = problem.law.log_predict(theta, problem.inputs)
    far = np.expm1(np.abs(predicted - predicted[0]).max(axis=1))
    return tuple(
        Minimum(
            params=problem.law.to_params(theta[i]),
            objective=problem.value(residuals[i]),
            share=float(shares[i]),
            difference=float(far[i]),
        )
        for i in range(len(theta))
    )


def _spread(law: Law, ends: Ends, best: Array, value: float) -> dict[str, float]:
    near = ends.theta[ends.converged & (ends.value <= value * (1 + NEAR_BEST) + 1e-12)]
    names = law.param_names
    if not len(near):
        return dict.fromkeys(names, 0.0)
    numbers = np.array([list(law.to_params(theta).values()) for theta in near])
    middle = np.abs(np.array(list(law.to_params(best).values())))
    ranges = np.ptp(numbers, axis=0) / np.where(middle > 0, middle, 1.0)
    return {name: float(value) for name, value in zip(names, ranges, strict=True)}
