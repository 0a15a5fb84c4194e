"""Loss along an isoFLOP line: its lowest point by parabola or spline, and how far the method alone moves it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import interpolate, optimize

Array = NDArray[np.float64]

GRID = 1001
"""Grid points on which a spline's minimum is searched, before it is refined."""


def isoflop_curve(points: pd.DataFrame, method: str = "parabola") -> Callable[[Array], Array]:
    """Curve of one budget, for drawing: loss at sizes N within those measured.

    Parameters
    ----------
    points
        One budget's rows, with params and loss.
    method
        As in `isoflop_minima`.
    """
    log_n, loss = np.log(points["params"].to_numpy(dtype=np.float64)), points["loss"].to_numpy(dtype=np.float64)
    if method == "parabola":
        centre = float(log_n.mean())
        coefficients = np.linalg.pinv(_powers(log_n - centre)) @ loss

        def parabola(sizes: Array) -> Array:
            return _powers(np.log(sizes) - centre) @ coefficients

        return parabola
    knots, means = size_means(log_n, loss[:, None])
    interpolant = interpolate.Akima1DInterpolator(knots, means[:, 0])

    def spline(sizes: Array) -> Array:
        return np.asarray(interpolant(np.log(sizes)), dtype=np.float64)

    return spline


def lowest(log_n: Array, loss: Array, method: str) -> tuple[Array, Array]:
    """Location and value of the lowest point of every column of losses, NaN where it lies beyond the sizes measured.

    Parameters
    ----------
    log_n
        Log sizes, shape (n,); equal ones are seeds.
    loss
        Losses, shape (n, B).
    method
        As in `isoflop_minima`.

    Returns
    -------
    place, value
        Log N and loss, shape (B,) each.
    """
    place, value = _vertex(log_n, loss) if method == "parabola" else _spline_minimum(*size_means(log_n, loss))
    inside = (place > log_n.min()) & (place < log_n.max())
    return np.where(inside, place, np.nan), np.where(inside, value, np.nan)


def expected_bias(log_n: Array, found: float, alpha: float, beta: float, method: str = "parabola") -> float:
    """Compute how far a method alone moves an optimum, without noise: log N_found / N_true.

    Along an isoFLOP line, with u = log(N / N*), the loss of E + A/N^alpha + B/D^beta is, up to a factor and an
    offset, exp(-alpha u) / alpha + exp(beta u) / beta: only the exponents and the grid decide. N* is the true
    optimum for which the method, on this grid, would find `found`. Zero for a parabola where alpha = beta and the grid
    is centred; equal at every budget, so without effect on exponents, where all grids lie alike around their
    optimum.

    Parameters
    ----------
    log_n
        Log sizes of the points, shape (n,).
    found
        Log of the optimum found.
    alpha, beta
        Exponents of the surface, in N and D for C = 6 N D; for C = k N^n D, beta is n times the exponent in D.
    method
        As in `isoflop_minima`.

    Returns
    -------
    float
        NaN where no optimum within the grid would be found there.

    References
    ----------
    Czech et al. 2026, "Problems with Chinchilla Approach 2" (the loss in these coordinates).
    """

    def shift(true: Array) -> Array:
        u = log_n[:, None] - true
        return lowest(log_n, np.exp(-alpha * u) / alpha + np.exp(beta * u) / beta, method)[0] - found

    # N* is where this changes sign, searched over the grid and its width to either side.
    reach = float(np.ptp(log_n))
    places = np.linspace(log_n.min() - reach, log_n.max() + reach, 200)
    changes = np.flatnonzero(np.diff(np.sign(shift(places))) > 0)
    if len(changes) == 0:
        return math.nan
    nearest = min(changes, key=lambda i: abs(places[i] - found))

    def single(true: float) -> float:
        return float(shift(np.array([true]))[0])

    return found - float(np.asarray(optimize.brentq(single, places[nearest], places[nearest + 1], xtol=1e-10)))


def size_means(log_n: Array, loss: Array) -> tuple[Array, Array]:
    """Distinct log sizes, shape (k,), and the mean loss of each, shape (k, B)."""
    knots, inverse = np.unique(log_n, return_inverse=True)
    sums = np.zeros((len(knots), loss.shape[1]))
    np.add.at(sums, inverse, loss)
    return knots, sums / np.bincount(inverse)[:, None]


def _powers(x: Array) -> Array:
    return np.stack([np.ones_like(x), x, x**2], axis=1)


def _vertex(log_n: Array, loss: Array) -> tuple[Array, Array]:
    """Lowest points of least-squares parabolas; NaN where one opens downward."""
    centre = float(log_n.mean())
    c0, c1, c2 = np.linalg.pinv(_powers(log_n - centre)) @ loss
    up = np.where(c2 > 0, c2, np.nan)
    place = -c1 / (2 * up)
    return centre + place, c0 + c1 * place / 2


def _spline_minimum(knots: Array, means: Array) -> tuple[Array, Array]:
    """Lowest points of Akima splines: the lowest of a fine grid, refined by the parabola through its neighbours."""
    grid = np.linspace(knots[0], knots[-1], GRID)
    values = np.asarray(interpolate.Akima1DInterpolator(knots, means, axis=0)(grid), dtype=np.float64)
    best = np.clip(values.argmin(axis=0), 1, GRID - 2)
    columns = np.arange(means.shape[1])
    left, middle, right = (values[best + step, columns] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    step = np.where(bend > 0, (left - right) / (2 * np.where(bend > 0, bend, 1.0)), np.nan)
    # If it lies beyond a neighbour, the lowest point is the grid's end.
    step = np.where(np.abs(step) <= 1, step, np.nan)
    return grid[best] + step * (grid[1] - grid[0]), middle - (left - right) * step / 4
