"""Variance between seeds, split into initialisation and data order where the two are crossed."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# (pandas and scipy are typed in part)
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.frames import check_frame, select_loss

Array = NDArray[np.float64]

SEEDS = ("seed_init", "seed_data")
RECIPE = ("model", "params", "data_fingerprint")
"""Columns that say what was trained."""
POINT = ("tokens", "unique_tokens")
"""Columns that say where it was measured."""


@dataclass(frozen=True)
class Component:
    """One source of variance, with its interval."""

    source: str
    """`initialisation`, `data order`, `rest` (interaction and what no seed fixes), or `both seeds` (their sum)."""
    variance: float
    """Estimate by the method of moments, in the metric's unit squared; below 0 where the rest outweighs it."""
    low: float
    """Lower end of the interval, 0 at least; NaN for the sum."""
    high: float
    """Upper end; NaN for the sum."""
    dof: int
    """Degrees of freedom of its mean square; 0 for the sum."""

    @property
    def sd(self) -> float:
        """Standard deviation in the metric's unit, 0 where the variance came out below 0."""
        return math.sqrt(max(self.variance, 0.0))


def seed_components(frame: pd.DataFrame, metric: str, *, level: float = 0.95) -> tuple[Component, ...]:
    """Split the seed noise into initialisation and data order, from seeds that are crossed.

    Two-way layout y_ij = mu + I_i + D_j + e_ij, one run a cell, a initialisations times b data orders. Equating
    mean squares with their expectations, var(e) = MS_e, var(I) = (MS_I - MS_e) / b and
    var(D) = (MS_D - MS_e) / a. What interacts is in e and cannot be told from what no seed fixes.
    The interval of var(I) is Williams' and Tukey's, that of var(e) a chi-square one.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one model and token count (choose the rows first).
    metric
        Name of the metric.
    level
        Level of the intervals; Williams' covers at least 2 level - 1, and in practice about `level`.

    Returns
    -------
    tuple of Component
        initialisation, data order, rest, and both seeds (the variance of a run whose seeds are all drawn anew).

    Raises
    ------
    ValueError
        Several models or token counts, fewer than two seeds of either kind, or crossed runs that are missing
        (they are named).

    References
    ----------
    Searle, Casella and McCulloch 1992, "Variance Components", section 4.3; Williams 1962, Biometrika 49, 278
    (interval of a between-groups variance).
    """
    points, _ = check_frame(select_loss(frame, metric), ("loss", *SEEDS), positive=False)
    cell = known_columns(points, (*RECIPE, *POINT))
    if len(points.drop_duplicates(cell)) > 1:
        raise ValueError(f"several of {', '.join(cell)} in the frame: choose the rows of one point first")
    refuse_repeats(points, cell)
    grid = points.pivot(index="seed_init", columns="seed_data", values="loss")
    if min(grid.shape) < 2:
        raise ValueError(f"{grid.shape[0]} seed_init by {grid.shape[1]} seed_data: a split needs two of each, crossed")
    values = grid.to_numpy(dtype=np.float64)
    absent = [f"({grid.index[i]}, {grid.columns[d]})" for i, d in np.argwhere(np.isnan(values))]
    if absent:
        raise ValueError(f"(seed_init, seed_data) {', '.join(absent)} missing: run them, or leave their seeds out")
    return _split(values, level)


def variance_interval(variance: float, dof: int, level: float = 0.95) -> tuple[float, float]:
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
    """Those of the columns that the frame has, with a value somewhere."""
    return [name for name in names if name in points.columns and bool(np.any(points[name].notna().to_numpy()))]


def refuse_repeats(points: pd.DataFrame, cell: Sequence[str]) -> None:
    """Raise `ValueError` where two rows share the columns of `cell` and both seeds."""
    again = points.loc[points.duplicated([*cell, *SEEDS], keep=False)]
    if len(again):
        row = again.to_dict("records")[0]
        where = ", ".join(f"{column} {row[column]}" for column in (*cell, *SEEDS))
        raise ValueError(f"{len(again)} rows share their seeds with another of the same point ({where}): keep one")


def _split(grid: Array, level: float) -> tuple[Component, ...]:
    """Equate mean squares with their expectations, for a two-way layout of shape (initialisations, data orders)."""
    inits, orders = grid.shape
    mean = grid.mean()
    rest = grid - grid.mean(axis=1, keepdims=True) - grid.mean(axis=0, keepdims=True) + mean
    dof_rest = (inits - 1) * (orders - 1)
    mean_rest = float((rest**2).sum()) / dof_rest
    rows = _between("initialisation", grid.mean(axis=1), orders, mean_rest, dof_rest, level)
    columns = _between("data order", grid.mean(axis=0), inits, mean_rest, dof_rest, level)
    remainder = Component("rest", mean_rest, *variance_interval(mean_rest, dof_rest, level), dof_rest)
    total = max(rows.variance, 0.0) + max(columns.variance, 0.0) + mean_rest
    return rows, columns, remainder, Component("both seeds", total, math.nan, math.nan, 0)


def _between(source: str, means: Array, repeats: int, mean_rest: float, dof_rest: int, level: float) -> Component:
    """Variance between means of `repeats` runs each; the interval ends are 0 where the F test says so."""
    dof = len(means) - 1
    square = repeats * float(means.var(ddof=1))
    tail = (1 - level) / 2
    f_low, f_high = stats.f.ppf([tail, 1 - tail], dof, dof_rest)
    chi_low, chi_high = stats.chi2.ppf([tail, 1 - tail], dof)
    low = max(dof * (square - f_high * mean_rest) / (repeats * chi_high), 0.0)
    high = max(dof * (square - f_low * mean_rest) / (repeats * chi_low), 0.0)
    return Component(source, (square - mean_rest) / repeats, float(low), float(high), dof)
