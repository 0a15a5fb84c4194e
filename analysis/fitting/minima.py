"""Every distinct minimum of an objective, from many starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fitting.minimise import Ends, minimise, polish
from analysis.fitting.objectives import Problem
from analysis.fitting.settings import Settings
from analysis.laws.base import Array, Law

DISTINCT = 1e-4
"""Largest relative difference of predictions on the fitted rows at which two ends are one minimum."""
NEAR_BEST = 1e-3
"""Relative distance from the best objective within which ends show how well each parameter is determined."""
RIVAL = 0.01
"""Relative distance within which another minimum makes a fit multimodal."""
NO_EFFECT = 1e-7
"""Effect on the predictions, as a share of the strongest coordinate's, below which a coordinate has none."""
LONG = 10_000
"""Evaluations for the best end, where `minimise`'s own limit was not enough."""
MOST_POLISHED = 30
"""Candidates sharpened, the best first."""


@dataclass(frozen=True)
class Minimum:
    """One local minimum of the objective."""

    params: dict[str, float]
    """The law's parameters there."""
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
    """The same as the law's parameters."""
    gradient_norm: float
    """At the best one: largest component in the box, in units of scale squared per standard deviation."""
    value: float
    """Its objective in units of scale squared."""
    unconverged: float
    """Share of the starts that had not converged."""
    ran_off: float
    """Share of the starts that ended where a term has vanished."""
    flatness: float
    """Largest relative difference of predictions between ends merged into the best minimum."""
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

    An end where a free parameter has no effect on any row is not a minimum: a term has vanished there.

    Raises
    ------
    ValueError
        The law is undefined at every start.
    """
    ends = _follow_best(problem, minimise(problem, starts, lower, upper), lower, upper)
    if not np.isfinite(ends.value).any():
        raise ValueError(f"the law is undefined at all {len(starts)} starts: give others with starts=[...]")
    ran_off = ends.converged & _has_run_off(problem, ends.theta, lower, upper)
    found = _sharpen(problem, ends, ends.converged & ~ran_off, lower, upper)
    predicted = problem.law.log_predict(found.theta, problem.inputs)[0]
    same = _merge_flat(problem, found, _group(predicted))
    kept = [place for place, leader in enumerate(same) if leader == place]
    shares = np.array([found.share[np.array(same) == place].sum() for place in kept])
    return Search(
        theta=found.theta[kept],
        minima=_minima(problem, found.theta[kept], shares),
        gradient_norm=float(found.gradient_norm[0]),
        value=float(found.value[0]),
        unconverged=float((~ends.converged).mean()),
        ran_off=float(ran_off.mean()),
        flatness=float(np.expm1(np.abs(predicted[np.array(same) == 0] - predicted[0]).max())),
        spread=_spread(problem.law, ends, found.theta[0], float(found.value[0])),
        starts=len(starts),
    )


def _follow_best(problem: Problem, ends: Ends, lower: Array, upper: Array) -> Ends:
    """Continue from the best end where it has not converged: flat curved valleys take thousands of steps."""
    best = int(np.argmin(ends.value))
    if ends.converged[best] or not np.isfinite(ends.value[best]):
        return ends
    further = minimise(problem, ends.theta[best][None], lower, upper, max_evaluations=LONG)
    for values, better in zip(
        (ends.theta, ends.value, ends.gradient, ends.converged),
        (further.theta, further.value, further.gradient, further.converged),
        strict=True,
    ):
        values[best] = better[0]
    return ends


@dataclass(frozen=True, eq=False)
class _Sharp:
    """Sharpened ends, the best first."""

    theta: Array
    value: Array
    gradient_norm: Array
    share: Array


def _sharpen(problem: Problem, ends: Ends, proper: NDArray[np.bool_], lower: Array, upper: Array) -> _Sharp:
    """Group the valid ends by their predictions and sharpen the best of each, the best of all included."""
    best = int(np.nanargmin(ends.value))
    order = np.flatnonzero(proper)[np.argsort(ends.value[proper], kind="stable")]
    if not len(order) or ends.value[best] < ends.value[order[0]]:
        order = np.concatenate([[best], order[order != best]])
    leaders = _group(problem.law.log_predict(ends.theta[order], problem.inputs)[0])
    firsts = list(dict.fromkeys(leaders))[:MOST_POLISHED]
    sharp = [polish(problem, ends.theta[order[first]], lower, upper) for first in firsts]
    value, norm = (np.array([one[place] for one in sharp]) for place in (1, 2))
    ranked = np.argsort(value, kind="stable")
    theta = np.array([one[0] for one in sharp])
    settled = has_converged(value, norm) & ~_has_run_off(problem, theta, lower, upper)
    ranked = np.array([i for place, i in enumerate(ranked) if settled[i] or place == 0])
    share = np.array([leaders.count(first) / len(ends.value) for first in firsts])
    return _Sharp(theta[ranked], value[ranked], norm[ranked], share[ranked])


def has_converged(value: Array, gradient_norm: Array) -> NDArray[np.bool_]:
    """Whether a step would gain less than a millionth of the objective."""
    return 0.5 * gradient_norm**2 <= 1e-6 * np.maximum(value, 1e-6)


def _has_run_off(problem: Problem, theta: Array, lower: Array, upper: Array) -> NDArray[np.bool_]:
    """Whether a coordinate inside its bounds changes no prediction, shape (b,)."""
    effect = np.sqrt(np.einsum("bii->bi", np.nan_to_num(problem.curvature(theta))))
    inside = (theta > lower) & (theta < upper)
    largest = effect.max(axis=1, keepdims=True)
    return (inside & (effect < NO_EFFECT * largest)).any(axis=1)


def _complete(law: Law, start: Mapping[str, float], fixed: Mapping[str, float]) -> Array:
    missing = [name for name in law.param_names if name not in start and name not in fixed]
    if missing:
        raise ValueError(f"a start lacks {missing[0]!r}: give all of {', '.join(law.param_names)}")
    return law.to_theta({**start, **fixed})


def _group(predicted: Array) -> list[int]:
    """For each row, the first row with the same predictions."""
    leaders: list[int] = []
    groups: list[int] = []
    for index, row in enumerate(predicted):
        distances = np.abs(predicted[leaders] - row).max(axis=1) if leaders else np.array([])
        near = np.flatnonzero(distances <= DISTINCT)
        groups.append(leaders[int(near[0])] if len(near) else index)
        if not len(near):
            leaders.append(index)
    return groups


def _merge_flat(problem: Problem, found: _Sharp, groups: list[int]) -> list[int]:
    """Merge ends that a straight path joins without climbing `NEAR_BEST` of the objective: one flat minimum.

    Where seeds repeat a run, every curve between the repeats has one sum of absolute residuals: of 200 starts on 24
    rows in pairs 30 ended in different places along such a floor.
    """
    merged = list(groups)
    leaders = [place for place, leader in enumerate(groups) if place == leader]
    for rank, place in enumerate(leaders):
        way = np.linspace(0.1, 0.9, 9)[:, None]
        for other in (leader for leader in leaders[:rank] if merged[leader] == leader):
            path = found.theta[place] + way * (found.theta[other] - found.theta[place])
            if problem.evaluate(path)[0].max() <= found.value[place] * (1 + NEAR_BEST):
                merged = [other if leader == place else leader for leader in merged]
                break
    return merged


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
