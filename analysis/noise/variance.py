"""How much a result varies when only the seeds change.

A difference smaller than this noise means nothing. `seed_variance` measures it at each scale, `seed_components`
splits it where the seeds of initialisation and of data order are crossed, and `noise_trend` fits how it changes
with scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special, stats

from analysis.frames import EXCLUDED, check_frame, select_loss
from analysis.noise.crossed import (
    POINT,
    RECIPE,
    SEEDS,
    Component,
    known_columns,
    mean_squares,
    refuse_repeats,
    seed_components,
    total_variance,
    variance_interval,
)

__all__ = ["Component", "Trend", "noise_trend", "seed_components", "seed_variance", "variance_interval"]


@dataclass(frozen=True)
class Trend:
    """sd(N) = sd_1 (N / N_1)^exponent, with N_1 the geometric mean of the sizes."""

    exponent: float
    """Change of log sd with log size; below 0, noise shrinks with scale."""
    low: float
    """Lower end of its interval."""
    high: float
    """Upper end."""
    sd: float
    """sd_1, at `size`, in the metric's unit."""
    size: float
    """N_1."""
    excess: float
    """Chi-square of the scatter about the line over its degrees of freedom; about 1 where seeds alone explain it."""

    @property
    def flat(self) -> bool:
        """Whether the interval includes noise that does not change with scale."""
        return self.low <= 0 <= self.high

    def predict(self, size: float) -> float:
        """Return the standard deviation at a size, in the metric's unit."""
        return self.sd * (size / self.size) ** self.exponent


def seed_variance(
    frame: pd.DataFrame, metric: str, by: str | Sequence[str] = "params", *, level: float = 0.95
) -> pd.DataFrame:
    """Spread of a metric over seeds, pooled within each value of `by`.

    s^2 = sum over cells and seeds of (y - mean of the cell)^2 / (sum over cells of (seeds - 1)), where a cell is
    one model, data set and token count. The interval is that of a variance, s^2 dof / chi^2. Cells off the same trunks
    (`trajectory`) share their seeds, so their deviations are counted as one draw: dof is the number of distinct seeds
    beyond the first, however many token counts each was measured at and however many branches leave a trunk. In a
    frame without trajectories all variants of a size count as one draw. Where both kinds of seeds are crossed, runs
    share them too, and s^2 is that of a run with both drawn anew (`analysis.noise.crossed.total_variance`).

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it; only cooled-down points are used.
    metric
        Name of the metric.
    by
        Column or columns whose values keep separate estimates: `params` (without embeddings), `tokens`, `model`.
    level
        Level of the interval.

    Returns
    -------
    DataFrame
        One row per value of `by`: the columns of `by`, mean, sd (metric's unit), low and high (its interval), relative
        (sd over mean), dof, varied (the kinds of seeds that differ), seeds (most runs in a cell), cells, and
        `left_out`: what was left out and why. Rows with fewer than two seeds in every cell have sd NaN and a reason
        there.

    Raises
    ------
    ValueError
        The frame lacks the metric or a column of `by`, or two rows are the same cell and seeds.

    References
    ----------
    Snedecor and Cochran 1989, "Statistical Methods" (interval of a pooled variance).
    """
    columns = [by] if isinstance(by, str) else list(by)
    points, excluded = check_frame(select_loss(frame, metric), ("loss", *SEEDS), positive=False, minimum=1)
    missing = [column for column in columns if column not in points.columns]
    if missing:
        raise ValueError(f"by={by!r}: the frame lacks the column {', '.join(missing)}")
    recipe = known_columns(points, RECIPE)
    cell = [*recipe, *known_columns(points, POINT)]
    refuse_repeats(points, cell)
    rows = [
        dict(zip(columns, key if isinstance(key, tuple) else (key,), strict=True)) | _pooled(group, recipe, cell, level)
        for key, group in points.groupby(columns, dropna=False)
    ]
    table = pd.DataFrame(rows)
    table.attrs[EXCLUDED] = excluded
    return table


def noise_trend(table: pd.DataFrame, by: str = "params", *, level: float = 0.95) -> Trend:
    """Fit how the seed noise changes with scale: log sd on log size, each weighted by its degrees of freedom.

    With nu degrees of freedom, log s^2 has the mean log sigma^2 + psi(nu/2) - log(nu/2) and the variance psi'(nu/2),
    whatever sigma: the first is subtracted, the second gives the weight. Rows count as independent. Those at several
    token counts off one trunk are not: they share its seeds, whose luck moves all their sd alike, so that the interval
    of a trend over tokens is too wide (four counts off five trunks, 81% of the variance shared: it held no trend in
    99.5% of 200 draws where there was none) and `excess` below 1.

    Parameters
    ----------
    table
        As `seed_variance` gives it; rows without an sd above 0 are not used.
    by
        Column of the size: `params` or `tokens`.
    level
        Level of the interval, from the seeds' own uncertainty (normal quantiles).

    Raises
    ------
    ValueError
        Fewer than three sizes with an sd.

    References
    ----------
    Bartlett and Kendall 1946, Supplement to the JRSS 8, 128 (the logarithm of a variance estimate).
    """
    known = table.loc[(table["dof"] >= 1) & (table["sd"] > 0)]
    if known[by].nunique() < 3:
        raise ValueError(f"{known[by].nunique()} values of {by!r} have a seed variance: a trend needs three")
    half = known["dof"].to_numpy(dtype=np.float64) / 2
    log_sd = np.log(known["sd"].to_numpy(dtype=np.float64)) - (special.digamma(half) - np.log(half)) / 2
    variance = special.polygamma(1, half) / 4
    log_size = np.log(known[by].to_numpy(dtype=np.float64))
    middle = float(log_size.mean())
    design = np.stack([np.ones_like(log_size), log_size - middle], axis=1)
    covariance = np.linalg.inv(design.T @ (design / variance[:, None]))
    intercept, slope = covariance @ design.T @ (log_sd / variance)
    reach = float(stats.norm.ppf((1 + level) / 2) * math.sqrt(covariance[1, 1]))
    scatter = float((((log_sd - design @ [intercept, slope]) ** 2) / variance).sum()) / (len(known) - 2)
    return Trend(
        exponent=float(slope),
        low=float(slope) - reach,
        high=float(slope) + reach,
        sd=math.exp(intercept),
        size=math.exp(middle),
        excess=scatter,
    )


def _pooled(group: pd.DataFrame, recipe: list[str], cell: list[str], level: float) -> dict[str, object]:
    """Pooled variance of one value of `by`."""
    sizes = group.groupby(cell, dropna=False)["loss"].transform("size").to_numpy()
    pooled, alone = group.loc[sizes > 1], int((sizes == 1).sum())
    facts: dict[str, object] = {"seeds": int(sizes.max()), "cells": len(pooled.drop_duplicates(cell))}
    facts["left_out"] = f"{alone} {'point' if alone == 1 else 'points'} with one seed" if alone else ""
    if pooled.empty:
        nothing = {"sd": math.nan, "low": math.nan, "high": math.nan, "relative": math.nan, "dof": 0.0, "varied": ""}
        return facts | {"mean": float(np.mean(group["loss"].to_numpy(dtype=np.float64)))} | nothing
    parts = [_of_draw(rows, cell) for _, rows in pooled.groupby(_draws(pooled, recipe))]
    dof = sum(part[1] for part in parts)
    variance = sum(part[0] * part[1] for part in parts) / dof
    mean = float(np.mean(pooled["loss"].to_numpy(dtype=np.float64)))
    low, high = variance_interval(variance, dof, level)
    bounds = {"sd": math.sqrt(variance), "low": math.sqrt(low), "high": math.sqrt(high)}
    varied = " and ".join(seed for seed in SEEDS if len(set(pooled[seed])) > 1)
    return (
        facts
        | {"mean": mean}
        | bounds
        | {
            "relative": bounds["sd"] / abs(mean) if mean else math.nan,
            "dof": dof,
            "varied": varied,
        }
    )


def _draws(rows: pd.DataFrame, recipe: list[str]) -> pd.Series:
    """Assign each row the number of its draw of the seeds: recipes connected by shared trajectories are one draw."""
    own = [column for column in recipe if column != "model"]
    if "trajectory" not in rows.columns or bool(np.all(rows["trajectory"].isna().to_numpy())):
        names = rows["model"].astype(str).str.split(" ").str[0] if "model" in recipe else pd.Series(0, rows.index)
        return rows.groupby([names, *own], dropna=False).ngroup()
    labels = rows.groupby(recipe, dropna=False).ngroup()
    # A row without a trajectory shares no trunk.
    trunks = rows["trajectory"].fillna(pd.Series([f"row {index}" for index in rows.index], index=rows.index))
    draws = labels
    while True:
        joined = draws.groupby(trunks).transform("min").groupby(labels).transform("min")
        if joined.equals(draws):
            return draws
        draws = joined


def _of_draw(rows: pd.DataFrame, cell: list[str]) -> tuple[float, float]:
    """Variance over the seeds of one draw and its degrees of freedom, pooled over its cells."""
    grids = [
        part.pivot(index=SEEDS[0], columns=SEEDS[1], values="loss") for _, part in rows.groupby(cell, dropna=False)
    ]
    shapes = {grid.shape for grid in grids}
    whole = not any(bool(np.isnan(grid.to_numpy()).any()) for grid in grids)
    if whole and len(shapes) == 1 and min(grids[0].shape) > 1:
        squares = np.mean([mean_squares(grid.to_numpy(dtype=np.float64)) for grid in grids], axis=0)
        return total_variance((float(squares[0]), float(squares[1]), float(squares[2])), grids[0].shape)
    values = [grid.to_numpy(dtype=np.float64) for grid in grids]
    free = sum(int(np.count_nonzero(~np.isnan(v))) - 1 for v in values)
    squares_sum = sum(float(np.nansum((v - np.nanmean(v)) ** 2)) for v in values)
    kinds = [len(set(rows[seed])) - 1 for seed in SEEDS]
    return squares_sum / free, float(min([free, *(kind for kind in kinds if kind)]))
