"""Minima from many starts at once: quasi-Newton steps in a box, vectorised over the starts.

A law has a handful of coordinates, so the inverse Hessian is kept whole (BFGS; L-BFGS with an unlimited memory) and
begins as the inverse of the Gauss-Newton matrix. The line search satisfies the weak Wolfe conditions by bisection,
which also works at the corners of a Huber function with a small delta.

References
----------
Nocedal and Wright 2006, "Numerical Optimization", eqs. 6.17 and 3.6; Lewis and Overton 2013, "Nonsmooth optimization
via quasi-Newton methods" (the line search); Bertsekas 1982, "Projected Newton methods" (the box).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from analysis.fitting.objectives import Problem
from analysis.laws.base import Array

ARMIJO, WOLFE = 1e-4, 0.9
"""Sufficient decrease and curvature of the line search."""
TRIALS = 40
"""Steps tried along one direction; 2^-40 is below what float64 resolves."""
TOLERANCE = 1e-12
"""Expected decrease over the objective at which a start has converged."""
RENEWAL = 10
"""Steps after which the inverse Hessian is reset, so that curved valleys are followed: a profile of 30 points takes 12
evaluations an end and not 48. For squares it is reset at every step, which is the Gauss-Newton method."""
WORN, FRESH, EXACT = 0, 1, 2
"""How an inverse Hessian was made."""
DAMPING = 1e-6
"""Share of the Gauss-Newton matrix's diagonal added to it, so that it has an inverse."""


@dataclass(frozen=True, eq=False)
class Ends:
    """Where each start ended."""

    theta: Array
    """Coordinates, shape (b, p)."""
    value: Array
    """Objective in units of scale squared, shape (b,)."""
    gradient: Array
    """Its gradient, shape (b, p)."""
    converged: NDArray[np.bool_]
    """Whether a further step would gain less than `TOLERANCE`, shape (b,)."""


def minimise(
    problem: Problem,
    starts: Array,
    lower: Array,
    upper: Array,
    weights: Array | None = None,
    *,
    max_evaluations: int = 2000,
) -> Ends:
    """Follow every start to a minimum in the box.

    Parameters
    ----------
    problem
        What is minimised.
    starts
        Coordinates, shape (b, p).
    lower, upper
        Box, shape (p,) or (b, p); a coordinate with equal ends is fixed.
    weights
        Of the rows, shape (b, n), such as bootstrap counts; None takes the problem's.
    max_evaluations
        Of the objective, for each start.

    Returns
    -------
    Ends
        In the order of the starts.
    """
    lower, upper = np.broadcast_to(lower, starts.shape), np.broadcast_to(upper, starts.shape)
    state = _State.begin(problem, np.clip(starts, lower, upper), lower, upper, weights)
    for _ in range(max_evaluations):
        active = np.flatnonzero(~state.done)
        if not len(active):
            break
        _advance(problem, state, active, weights)
    return Ends(state.x, state.f, state.g, state.converged)


def polish(problem: Problem, theta: Array, lower: Array, upper: Array) -> tuple[Array, float, float]:
    """Sharpen one minimum with SciPy's L-BFGS-B at the tightest tolerances.

    Returns
    -------
    theta, value, gradient_norm
        Coordinates (p,), the objective, and the largest component of its gradient in the box, in units of scale squared
        and of the coordinates' own standard deviations.
    """
    matrix = problem.curvature(theta[None])
    steps = np.sqrt(np.diag(_inverse(matrix, np.einsum("bii->bi", matrix), lower == upper)[0]))
    steps[lower == upper] = 1.0
    middle = theta.copy()

    def scaled(z: Array) -> tuple[float, Array]:
        value, slope = problem.evaluate((middle + steps * z)[None])
        return float(value[0]), slope[0] * steps

    box = list(zip((lower - middle) / steps, (upper - middle) / steps, strict=True))
    options = {"maxiter": 2000, "maxfun": 5000, "ftol": 1e-16, "gtol": 1e-10, "maxcor": 20}
    best = optimize.minimize(scaled, np.zeros_like(theta), jac=True, method="L-BFGS-B", bounds=box, options=options)
    end = np.clip(middle + steps * best.x, lower, upper)
    value, slope = problem.evaluate(end[None])
    held = _held(end[None], slope, lower[None], upper[None])[0]
    return end, float(value[0]), float(np.abs(np.where(held, 0.0, slope[0] * steps)).max(initial=0.0))


@dataclass(eq=False)
class _State:
    """All starts on their way; arrays of length b."""

    x: Array
    f: Array
    g: Array
    h: Array
    """Inverse Hessian, (b, p, p)."""
    d: Array
    """Direction of the line search, (b, p)."""
    step: Array
    short: Array
    """Longest step known to be too short."""
    long: Array
    """Shortest step known to be too long."""
    trials: NDArray[np.int64]
    taken: NDArray[np.int64]
    """Steps taken."""
    freshness: NDArray[np.int64]
    """How the inverse Hessian was made: WORN by updates, FRESH from all rows, EXACT from those inside delta."""
    done: NDArray[np.bool_]
    converged: NDArray[np.bool_]
    lower: Array
    upper: Array

    @staticmethod
    def begin(problem: Problem, x: Array, lower: Array, upper: Array, weights: Array | None) -> _State:
        count = len(x)
        f, g = problem.evaluate(x, weights)
        no = np.zeros(count, dtype=np.bool_)
        state = _State(
            x=x,
            f=f,
            g=g,
            h=np.empty((count, x.shape[1], x.shape[1])),
            d=np.zeros_like(x),
            step=np.ones(count),
            short=np.zeros(count),
            long=np.full(count, np.inf),
            trials=np.zeros(count, dtype=np.int64),
            taken=np.zeros(count, dtype=np.int64),
            freshness=np.full(count, WORN),
            done=~np.isfinite(f),
            converged=no.copy(),
            lower=np.asarray(lower),
            upper=np.asarray(upper),
        )
        _renew(problem, state, np.flatnonzero(np.isfinite(f)), weights, FRESH)
        return state


def _advance(problem: Problem, state: _State, active: NDArray[np.int64], weights: Array | None) -> None:
    """Try one step of each active start, and take it, shorten it or lengthen it."""
    x, d = state.x[active], state.d[active]
    trial = np.clip(x + state.step[active, None] * d, state.lower[active], state.upper[active])
    f, g = problem.evaluate(trial, None if weights is None else weights[active])
    s = trial - x
    slope = (state.g[active] * s).sum(axis=1)
    clipped = np.abs(s - state.step[active, None] * d).max(axis=1) > 0
    too_long = ~(f <= state.f[active] + ARMIJO * slope)
    too_short = ~too_long & ~clipped & ((g * d).sum(axis=1) < WOLFE * (state.g[active] * d).sum(axis=1))
    state.trials[active] += 1
    give_up = state.trials[active] >= TRIALS
    too_short &= ~give_up
    state.long[active[too_long]] = state.step[active[too_long]]
    state.short[active[too_short]] = state.step[active[too_short]]
    _resize(state, active[too_long | too_short])
    taken = ~too_long & ~too_short
    _take(state, active[taken], s[taken], f[taken], g[taken])
    stuck = active[too_long & give_up]
    state.done[stuck[state.freshness[stuck] == EXACT]] = True
    state.taken[active[taken]] += 1
    worn = taken & (state.taken[active] % (RENEWAL if np.isfinite(problem.corner) else 1) == 0)
    _renew(problem, state, active[worn & ~state.converged[active]], weights, FRESH)
    # An inverse Hessian worn by updates makes a start seem stuck or finished when it is not; so does one that gives
    # rows beyond delta a curvature: 200 starts on 24 rows ended in 30 places along one valley. Only the exact one may end a
    # start.
    doubtful = np.union1d(stuck, active[state.converged[active]])
    was_fresh = doubtful[state.freshness[doubtful] == FRESH]
    _renew(problem, state, doubtful[state.freshness[doubtful] == WORN], weights, FRESH)
    still = doubtful[(state.freshness[doubtful] == FRESH) & state.converged[doubtful]]
    _renew(problem, state, np.union1d(was_fresh, still), weights, EXACT)


def _resize(state: _State, index: NDArray[np.int64]) -> None:
    bounded = np.isfinite(state.long[index])
    middle = 0.5 * (state.short[index] + np.where(bounded, state.long[index], 0.0))
    state.step[index] = np.where(bounded, middle, 2 * state.short[index])


def _take(state: _State, index: NDArray[np.int64], s: Array, f: Array, g: Array) -> None:
    """Accept steps and update the inverse Hessian where the curvature along them is positive."""
    if not len(index):
        return
    y = g - state.g[index]
    state.x[index] += s
    state.f[index], state.g[index] = f, g
    sy = (s * y).sum(axis=1)
    good = sy > 1e-14 * np.linalg.norm(s, axis=1) * np.linalg.norm(y, axis=1)
    curved = index[good]
    s, y, rho = s[good], y[good], 1 / sy[good, None, None]
    left = np.eye(state.x.shape[1]) - rho * s[:, :, None] * y[:, None, :]
    state.h[curved] = left @ state.h[curved] @ left.transpose(0, 2, 1) + rho * s[:, :, None] * s[:, None, :]
    state.freshness[index] = WORN
    _direct(state, index)


def _renew(problem: Problem, state: _State, index: NDArray[np.int64], weights: Array | None, how: int) -> None:
    """Begin the inverse Hessian anew, from a Gauss-Newton matrix where the start stands."""
    index = index[~state.done[index]]
    if not len(index):
        return
    row_weights = None if weights is None else weights[index]
    matrix = problem.curvature(state.x[index], row_weights)
    size = np.einsum("bii->bi", matrix)
    if how == EXACT and np.isfinite(problem.corner):
        matrix = problem.curvature(state.x[index], row_weights, inside=True)
    state.h[index] = _inverse(matrix, size, state.lower[index] == state.upper[index])
    # For squares the two are one.
    state.freshness[index] = how if np.isfinite(problem.corner) else EXACT
    _direct(state, index)


def _inverse(matrix: Array, diagonal: Array, fixed: NDArray[np.bool_]) -> Array:
    """Invert with `DAMPING` of a diagonal, shape (b, p), added."""
    size = np.maximum(diagonal, 1e-30 + 1e-12 * diagonal.max(axis=1, keepdims=True))
    size = np.where(np.isfinite(size), size, 1.0)
    scaled = np.nan_to_num(matrix) / np.sqrt(size[:, :, None] * size[:, None, :])
    scaled = np.where(np.atleast_2d(fixed)[:, :, None] | np.atleast_2d(fixed)[:, None, :], 0.0, scaled)
    regular = scaled + (DAMPING + np.atleast_2d(fixed))[:, :, None] * np.eye(matrix.shape[1])
    return np.linalg.inv(regular) / np.sqrt(size[:, :, None] * size[:, None, :])


def _held(x: Array, g: Array, lower: Array, upper: Array) -> NDArray[np.bool_]:
    """Coordinates at a bound that the gradient pushes outward."""
    return ((x <= lower) & (g >= 0)) | ((x >= upper) & (g <= 0))


def _conditional(inverse: Array, held: NDArray[np.bool_]) -> Array:
    """Inverse Hessian of the other coordinates while those held stay: H - H_h (H_hh)^-1 H_h^T, shape (b, p, p).

    Without it a start along a bound creeps: of 50 starts with E at its bound none had converged after 2,000
    evaluations.
    """
    rows = np.flatnonzero(held.any(axis=1))
    if not len(rows):
        return inverse
    result = inverse.copy()
    part, mask = inverse[rows], held[rows]
    columns = np.where(mask[:, None, :], part, 0.0)
    block = np.where(mask[:, :, None], columns, 0.0) + np.eye(part.shape[1]) * ~mask[:, None, :]
    result[rows] = part - columns @ np.linalg.solve(block, columns.transpose(0, 2, 1))
    return result


def _direct(state: _State, index: NDArray[np.int64]) -> None:
    """Choose the next direction; a start whose expected decrease is negligible has converged."""
    held = _held(state.x[index], state.g[index], state.lower[index], state.upper[index])
    slope = np.where(held, 0.0, state.g[index])
    direction = np.where(held, 0.0, -(_conditional(state.h[index], held) @ slope[:, :, None])[:, :, 0])
    expected = -(direction * slope).sum(axis=1)
    state.d[index] = direction
    state.step[index], state.short[index], state.long[index] = 1.0, 0.0, np.inf
    state.trials[index] = 0
    finished = expected <= TOLERANCE * np.maximum(state.f[index], 1e-6)
    state.converged[index] = finished
    state.done[index] = finished & (state.freshness[index] == EXACT)
