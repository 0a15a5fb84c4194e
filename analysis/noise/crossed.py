"""Variance between seeds, split into initialisation and data order where the two are crossed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.frames import check_frame, select_loss

Array = NDArray[np.float64]

SEEDS = ("seed_init", "seed_data")
RECIPE = ("model", "params", "data_fingerprint")
"""Columns that identify what was trained."""
POINT = ("tokens", "unique_tokens")
"""Columns that identify where it was measured."""


@dataclass(frozen=True)
class Component:
    """One source of variance, with its interval."""

    source: str
    """`initialisation`, `data order`, `rest` (interaction and what no seed fixes), or `both seeds` (their sum)."""
    variance: float
    """Estimate by the method of moments, in the metric's unit squared; below 0 where the rest outweighs it."""
    low: float
    """Lower end of the interval, at least 0."""
    high: float
    """Upper end."""
    dof: float
    """Degrees of freedom of its mean square; of the sum, Satterthwaite's."""
    left_out: str = ""
    """Rows left out and why, such as `1 row not evaluated`; empty where none were."""

    @property
    def sd(self) -> float:
        """Standard deviation in the metric's unit, 0 where the variance came out below 0."""
        return math.sqrt(max(self.variance, 0.0))


def seed_components(frame: pd.DataFrame, metric: str, *, level: float = 0.95) -> tuple[Component, ...]:
    """Split the seed noise into initialisation and data order, from seeds that are crossed.

    Two-way layout y_ij = mu + I_i + D_j + e_ij, one run a cell, a initialisations times b data orders. Equating
    mean squares with their expectations, var(e) = MS_e, var(I) = (MS_I - MS_e) / b and
    var(D) = (MS_D - MS_e) / a. What interacts is in e and cannot be told from what no seed fixes.
    The interval of var(I) is Williams' and Tukey's, that of var(e) a chi-square one, and that of their sum a
    chi-square one with Satterthwaite's degrees of freedom.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one model and token count (select the rows first).
    metric
        Name of the metric.
    level
        Level of the intervals; Williams' covers at least 2 level - 1, and in practice about `level`.

    Returns
    -------
    tuple of Component
        initialisation, data order, rest, and both seeds (the variance of a run with two new seeds).

    Raises
    ------
    ValueError
        Several models or token counts, fewer than two seeds of either kind, or crossed runs that are missing
        (they are named).

    References
    ----------
    Searle, Casella and McCulloch 1992, "Variance Components", chapter 4; Williams 1962, Biometrika 49, 278
    (interval of a between-groups variance); Satterthwaite 1946, Biometrics Bulletin 2, 110.
    """
    points, excluded = check_frame(select_loss(frame, metric), ("loss", *SEEDS), positive=False)
    cell = known_columns(points, (*RECIPE, *POINT))
    if len(points.drop_duplicates(cell)) > 1:
        raise ValueError(f"the frame has several values of {', '.join(cell)}: select the rows of one point first")
    refuse_repeats(points, cell)
    grid = points.pivot(index="seed_init", columns="seed_data", values="loss")
    if min(grid.shape) < 2:
        raise ValueError(
            f"{grid.shape[0]} seed_init by {grid.shape[1]} seed_data: splitting needs at least two of each, crossed"
        )
    values = grid.to_numpy(dtype=np.float64)
    absent = [f"({grid.index[i]}, {grid.columns[d]})" for i, d in np.argwhere(np.isnan(values))]
    if absent:
        raise ValueError(f"(seed_init, seed_data) {', '.join(absent)} missing: run them, or leave their seeds out")
    return tuple(replace(part, left_out="; ".join(excluded)) for part in _split(values, level))


def variance_interval(variance: float, dof: float, level: float = 0.95) -> tuple[float, float]:
    """Chi-square interval of a variance: (s^2 dof / chi^2_high, s^2 dof / chi^2_low); NaN for dof below 1.

    Parameters
    ----------
    variance
        s^2, in any unit squared.
    dof
        Its degrees of freedom.
    level
        Level of the interval.
    """
    if dof < 1:
        return math.nan, math.nan
    low, high = stats.chi2.ppf([(1 - level) / 2, (1 + level) / 2], dof)
    return float(variance * dof / high), float(variance * dof / low)


def known_columns(points: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Those of the columns that the frame has, with at least one value."""
    return [name for name in names if name in points.columns and bool(np.any(points[name].notna().to_numpy()))]


def refuse_repeats(points: pd.DataFrame, cell: Sequence[str]) -> None:
    """Raise `ValueError` if two rows share the columns of `cell` and both seeds."""
    again = points.loc[points.duplicated([*cell, *SEEDS], keep=False)]
    if len(again):
        row = again.to_dict("records")[0]
        where = ", ".join(f"{column} {row[column]}" for column in (*cell, *SEEDS))
        raise ValueError(f"{len(again)} rows share their seeds with another of the same point ({where}): keep one")


def mean_squares(grid: Array) -> tuple[float, float, float]:
    """Mean squares of initialisations, data orders and the rest, for runs of shape (initialisations, data orders)."""
    inits, orders = grid.shape
    by_init, by_order = grid.mean(axis=1, keepdims=True), grid.mean(axis=0, keepdims=True)
    rest = float(((grid - by_init - by_order + grid.mean()) ** 2).sum()) / ((inits - 1) * (orders - 1))
    return orders * float(by_init.var(ddof=1)), inits * float(by_order.var(ddof=1)), rest


def total_variance(squares: tuple[float, float, float], shape: tuple[int, ...]) -> tuple[float, float]:
    """Variance of a run with two new seeds, from the mean squares of a crossed table.

    var(I) + var(D) + var(e) = MS_I / b + MS_D / a + MS_e (1 - 1/a - 1/b). The plain variance of the a b runs is too
    small, since they share seeds: it holds a fraction (1 - 1/a) / (1 - 1/(a b)) of var(I) alone.

    Parameters
    ----------
    squares
        As `mean_squares` gives them.
    shape
        a and b, the numbers of initialisations and data orders.

    Returns
    -------
    variance, dof
        With Satterthwaite's degrees of freedom, V^2 / sum (part^2 / dof of the part).

    References
    ----------
    Satterthwaite 1946, "An approximate distribution of estimates of variance components", Biometrics Bulletin 2, 110.
    """
    inits, orders = shape
    parts = np.array([squares[0] / orders, squares[1] / inits, squares[2] * (1 - 1 / inits - 1 / orders)])
    freedom = np.array([inits - 1, orders - 1, (inits - 1) * (orders - 1)])
    variance = float(parts.sum())
    return variance, variance**2 / float((parts**2 / freedom).sum()) if variance > 0 else float(freedom.sum())


def _split(grid: Array, level: float) -> tuple[Component, ...]:
    inits, orders = grid.shape
    squares = mean_squares(grid)
    dof_rest = (inits - 1) * (orders - 1)
    rows = _between("initialisation", squares[0], inits - 1, orders, squares[2], dof_rest, level)
    columns = _between("data order", squares[1], orders - 1, inits, squares[2], dof_rest, level)
    rest = Component("rest", squares[2], *variance_interval(squares[2], dof_rest, level), dof_rest)
    total, dof = total_variance(squares, (inits, orders))
    return rows, columns, rest, Component("both seeds", total, *variance_interval(total, dof, level), dof)


def _between(source: str, square: float, dof: int, repeats: int, rest: float, dof_rest: int, level: float) -> Component:
    """Variance between means of `repeats` runs each; the interval's ends are 0 where the F test finds no variance."""
    tail = (1 - level) / 2
    f_low, f_high = stats.f.ppf([tail, 1 - tail], dof, dof_rest)
    chi_low, chi_high = stats.chi2.ppf([tail, 1 - tail], dof)
    low = max(dof * (square - f_high * rest) / (repeats * chi_high), 0.0)
    high = max(dof * (square - f_low * rest) / (repeats * chi_low), 0.0)
    return Component(source, (square - rest) / repeats, float(low), float(high), dof)
