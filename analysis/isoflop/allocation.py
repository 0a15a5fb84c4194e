"""How the optimal size and tokens grow with compute: the record that approaches 1, 2 and 3 share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.frames import annealed_rows, check_frame, refuse_mixed_metrics

Array = NDArray[np.float64]

SCATTER_ALPHA = 0.05
"""Level of the test whether the optima scatter about their line as much as their noise explains."""


@dataclass(frozen=True)
class Growth:
    """y(C) = y_1 (C / C_1)^exponent, with C_1 the geometric mean of the budgets."""

    exponent: float
    """d log y / d log C."""
    low: float
    """Lower end of its interval; NaN where there is none."""
    high: float
    """Upper end."""
    value: float
    """y_1."""
    flops: float
    """C_1."""

    def predict(self, compute: float) -> float:
        """Return y at a compute budget in FLOPs."""
        return self.value * (compute / self.flops) ** self.exponent


@dataclass(frozen=True)
class Allocation:
    """Compute-optimal parameters and tokens against training FLOPs, by one approach."""

    approach: str
    """`envelope`, `isoflop parabola`, `isoflop akima` or `law`."""
    params: Growth
    """N*(C); its exponent is the a of Hoffmann et al. 2022."""
    tokens: Growth
    """D*(C); its exponent is b."""
    optima: pd.DataFrame = field(compare=False)
    """The optima behind the lines and those refused, one row each: flops, params, tokens, loss, refused and more."""
    level: float
    """Level of the intervals."""
    interval_from: str
    """Where the intervals come from, in words."""
    flags: tuple[str, ...]
    """Warnings for the reader, in words."""

    def optimal(self, compute: float) -> tuple[float, float]:
        """Return parameters and tokens at a compute budget in FLOPs."""
        return self.params.predict(compute), self.tokens.predict(compute)

    def describe(self) -> str:
        """Describe exponents and flags in a few lines."""
        lines = [f"{self.approach}: {sum(reason == '' for reason in self.optima['refused'])} optima"]
        for name, growth in (("N*", self.params), ("D*", self.tokens)):
            lines.append(f"{name} ~ C^{growth.exponent:.3f} ({self.level:.0%}: {growth.low:.3f} to {growth.high:.3f})")
        return "\n".join([*lines, f"intervals from {self.interval_from}", *self.flags])


@dataclass(frozen=True)
class Noise:
    """Standard deviation of log loss between runs that differ by their seeds alone."""

    sd: float
    """In log units."""
    dof: float
    """Degrees of freedom behind it; 0 where the caller provided it."""
    source: str
    """Where it comes from, in words."""
    shared: float = 0.0
    """Share of the variance that the points off one trunk have in common, 0 to 1."""

    def draw(self, groups: NDArray[np.int64], draws: int, rng: np.random.Generator) -> Array:
        """Draw errors of log loss, shape (n, draws), part of each shared by the points of one of `groups` (n,).

        With few degrees of freedom each draw has its own sd.
        """
        scale = np.ones(draws) if self.dof == 0 else np.sqrt(self.dof / rng.chisquare(self.dof, draws))
        own = rng.standard_normal((len(groups), draws))
        common = rng.standard_normal((int(groups.max()) + 1, draws))[groups]
        return self.sd * (math.sqrt(1 - self.shared) * own + math.sqrt(self.shared) * common) * scale


def with_flops(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows with params, tokens, loss and flops; FLOPs are 6 N D where the frame has none.

    Raises
    ------
    ValueError
        A row is not annealed, or not known to be: its loss is higher than a cooled-down run's with the same tokens. The
        frame mixes metrics. Or as `analysis.frames.check_frame`.
    """
    _, uncooled = annealed_rows(frame)
    if uncooled:
        raise ValueError(
            "the frame has rows that are not annealed: use cooled-down points, as select_loss does "
            f"({'; '.join(uncooled)})"
        )
    refuse_mixed_metrics(frame)
    rows, excluded = check_frame(frame, ("params", "tokens", "loss"))
    if "flops" in rows.columns and bool(np.any(rows["flops"].notna().to_numpy())):
        return check_frame(rows, ("flops",))
    sizes, tokens = (rows[name].to_numpy(dtype=np.float64) for name in ("params", "tokens"))
    return rows.assign(flops=6 * sizes * tokens), excluded


def several_data_sets(rows: pd.DataFrame) -> tuple[str, ...]:
    """Describe points that differ in their data, or at one size and token count in the number of distinct tokens."""
    flags: list[str] = []
    sets = set(rows["data_fingerprint"].dropna()) if "data_fingerprint" in rows.columns else set()
    if len(sets) > 1:
        flags.append(f"the points are from {len(sets)} data sets (data_fingerprint)")
    if "unique_tokens" in rows.columns:
        counts = rows.groupby(["params", "tokens"])["unique_tokens"].nunique().to_numpy()
        if np.any(counts > 1):
            flags.append("points of one size and token count differ in unique_tokens")
    return tuple(flags)


def repeat_noise(rows: pd.DataFrame, cell: Sequence[str]) -> Noise | None:
    """Pool the spread of log loss over rows that share a cell and their data; None with fewer than three dof."""
    logs = rows.assign(_log=np.log(rows["loss"].to_numpy(dtype=np.float64)), _trunk=trunk_numbers(rows))
    same = [*cell, *(name for name in ("data_fingerprint", "unique_tokens") if name in rows.columns)]
    parts = [part for _, part in logs.groupby(same, dropna=False) if len(part) > 1]
    dof = sum(len(part) - 1 for part in parts)
    if dof < 3:
        return None
    values = [part["_log"].to_numpy(dtype=np.float64) for part in parts]
    trunks = np.concatenate([part["_trunk"].to_numpy(dtype=np.int64) for part in parts])
    return pool_noise(np.concatenate([v - v.mean() for v in values]), trunks, dof, "runs repeated over seeds")


def trunk_numbers(rows: pd.DataFrame) -> NDArray[np.int64]:
    """Assign each row the number of its trunk, shape (n,), by `trajectory`; a row without one is its own trunk."""
    if "trajectory" not in rows.columns:
        return np.arange(len(rows), dtype=np.int64)
    codes, known = pd.factorize(rows["trajectory"])
    return np.where(codes >= 0, codes, len(known) + np.arange(len(rows))).astype(np.int64)


def pool_noise(residuals: Array, trunks: NDArray[np.int64], dof: int, source: str) -> Noise:
    """Estimate the noise of residuals, and how much of it the points off one trunk share.

    The share is the mean product of pairs off one trunk over the mean square, at least 0 and at most 1. Points that
    share rho of their variance are worth fewer degrees of freedom: dof / (1 + (m - 1) rho^2) for m of them, which is
    the variance of a mean square of equally correlated normal numbers.

    Parameters
    ----------
    residuals
        Of log loss, shape (n,).
    trunks
        Number of the trunk of each, shape (n,).
    dof
        Degrees of freedom if they were independent.
    source
        Where they come from, in words.
    """
    counts = np.bincount(trunks).astype(np.float64)
    sums, squares = np.bincount(trunks, residuals), float((residuals**2).sum())
    pairs = float((counts * (counts - 1)).sum())
    shared = 0.0
    if pairs and squares:
        mean_product = (float((sums**2).sum()) - squares) / pairs
        shared = float(np.clip(mean_product / (squares / len(residuals)), 0, 1))
    free = dof / (1 + (float((counts**2).sum()) / len(residuals) - 1) * shared**2)
    words = f"{source} ({free:.0f} degrees of freedom{f', {shared:.0%} shared by a trunk' if shared >= 0.005 else ''})"
    return Noise(math.sqrt(squares / dof), free, words, shared)


def fit_growth(
    flops: Array, values: Array, draws: Array | None, *, level: float, spacing: float
) -> tuple[Growth, str, tuple[str, ...]]:
    """Draw a line through log optima against log FLOPs.

    Each optimum weighs 1 / (sd^2 + (spacing / 3)^2), with sd its spread over the draws: no optimum is known much
    better than the grid's spacing, however small the seed noise. The interval is that of the draws' slopes, made wider
    by sqrt(chi^2 / (K - 2)) where the K optima scatter about the line more than their noise explains; without
    draws it is the t interval from that scatter alone.

    Parameters
    ----------
    flops, values
        Budgets and optima, shape (K,), K >= 2.
    draws
        Optima under redrawn noise, shape (K, B), NaN where a draw has none; None without noise.
    level
        Level of the interval.
    spacing
        Mean distance of neighbouring sizes, in log units.

    Returns
    -------
    growth, source, flags
        The line, where its interval comes from, and warnings.

    References
    ----------
    Porian et al. 2024 (weights and their floor, in the code they released); Birge 1932, Physical Review 40, 207
    (the widening).
    """
    x, y = np.log(flops), np.log(values)
    spread = np.zeros(len(x)) if draws is None else _spread(np.log(draws))
    weights = 1 / (spread**2 + (spacing / 3) ** 2)
    middle = float(x @ weights / weights.sum())
    slope = _slopes(x, y[:, None], weights)[0]
    level_at = float(y @ weights / weights.sum())
    free = len(x) - 2
    residuals = y - level_at - slope * (x - middle)
    flags: tuple[str, ...] = ()
    if draws is None:
        error = (
            math.sqrt(float(weights @ residuals**2) / free / float(weights @ (x - middle) ** 2)) if free else math.nan
        )
        reach = float(stats.t.ppf((1 + level) / 2, free)) * error if free else math.nan
        low, high = slope - reach, slope + reach
        source = f"the scatter of {len(x)} optima about their line" if free else "nothing: two optima leave no scatter"
    else:
        slopes = _slopes(x, np.log(draws), weights)
        wider, flags = _widening(residuals, spread, free)
        low, high = (slope + wider * (end - slope) for end in known_quantiles(slopes, level))
        source = f"{draws.shape[1]} draws of the noise"
    return Growth(float(slope), float(low), float(high), math.exp(level_at), math.exp(middle)), source, flags


def known_quantiles(values: Array, level: float) -> tuple[float, float]:
    """Interval holding the middle `level` of the known values, shape (B,); NaN where fewer than two are known."""
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _spread(draws: Array) -> Array:
    """Compute the standard deviation of each row's known draws; ten times the largest where fewer than two are."""
    known = [row[~np.isnan(row)] for row in draws]
    spread = np.array([row.std() if len(row) > 1 else np.nan for row in known])
    rest = spread[~np.isnan(spread)]
    return np.where(np.isnan(spread), 10 * rest.max(initial=1.0), spread)


def _slopes(x: Array, y: Array, weights: Array) -> Array:
    """Weighted slopes of every column of y, shape (B,); a missing optimum is left out of its column's line."""
    known = ~np.isnan(y)
    w = np.where(known, weights[:, None], 0.0)
    total = np.where(known.sum(axis=0) >= 2, w.sum(axis=0), np.nan)
    filled = np.where(known, y, 0.0)
    centred = x[:, None] - (w * x[:, None]).sum(axis=0) / total
    return (w * centred * filled).sum(axis=0) / (w * centred**2).sum(axis=0)


def _widening(residuals: Array, spread: Array, free: int) -> tuple[float, tuple[str, ...]]:
    if free < 1 or not (spread > 0).all():
        return 1.0, ()
    excess = float((residuals**2 / spread**2).sum())
    if stats.chi2.sf(excess, free) >= SCATTER_ALPHA:
        return 1.0, ()
    wider = math.sqrt(excess / free)
    return wider, (
        f"the optima scatter about their line {wider:.1f} times as much as the noise explains: the interval is made "
        "wider by that",
    )
