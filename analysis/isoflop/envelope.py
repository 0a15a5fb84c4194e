"""Approach 1: the envelope of the training curves, from cooled-down points only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import interpolate

from analysis.frames import EXCLUDED
from analysis.isoflop.allocation import (
    Allocation,
    Growth,
    Noise,
    fit_growth,
    known_quantiles,
    repeat_noise,
    several_data_sets,
    with_flops,
)
from analysis.rule_of_flops import flops_rule
from analysis.style import count_label

Array = NDArray[np.float64]

FEWEST_CROSSINGS = 2
INSECURE = 0.1
"""Share of draws without a line above which a flag says so."""
GRID = 2001
"""Number of budgets at which the curves are compared: over four decades, one every 0.5%."""


@dataclass(frozen=True)
class _Curve:
    """Loss of one size against FLOPs; shapes (k,) for k budgets."""

    size: float
    log_c: Array
    log_loss: Array
    log_d: Array
    repeats: Array


def envelope(frame: pd.DataFrame, *, points: int = 200) -> pd.DataFrame:
    """Lowest loss over sizes at budgets evenly spaced in log FLOPs.

    The curve of a size joins its points by a monotone cubic in log loss and log FLOPs, and is not continued
    beyond them. Where the rate is cooled down at every point, only such points may enter: a running loss at the
    full rate lies above the loss its tokens would give.

    Parameters
    ----------
    frame
        Columns params, tokens, loss, and flops (6 N D where absent), of cooled-down points, as
        `analysis.frames.select_loss` gives them. Rows of one size and token count are seeds, and averaged.
    points
        Budgets, over the range where two sizes or more are measured.

    Returns
    -------
    DataFrame
        One row per budget: flops, params (the best size), tokens, loss, sizes (measured there), and edge: whether the
        best is the smallest or largest of them, so that one beyond may be better. `attrs["excluded"]` lists what was
        left out.

    Raises
    ------
    ValueError
        Fewer than two sizes are measured at the same budget, the points are of several data sets, a row is not
        annealed, or the frame is unfit.

    References
    ----------
    Hoffmann et al. 2022, section 3.1 (approach 1); Haegele et al. 2024 (cooldowns make every point count).
    """
    curves, excluded = _curves(frame)
    grid = _budgets(curves, points)
    losses = _losses(curves, grid, [curve.log_loss[:, None] for curve in curves])[:, :, 0]
    # Between two pairs of overlapping curves there may be a gap.
    grid, losses = grid[~np.isnan(losses).all(axis=0)], losses[:, ~np.isnan(losses).all(axis=0)]
    measured = ~np.isnan(losses)
    best = np.nanargmin(losses, axis=0)
    first, last = measured.argmax(axis=0), len(curves) - 1 - measured[::-1].argmax(axis=0)
    table = pd.DataFrame(
        {
            "flops": np.exp(grid),
            "params": np.array([curve.size for curve in curves])[best],
            "tokens": [
                math.exp(np.interp(c, curves[i].log_c, curves[i].log_d)) for c, i in zip(grid, best, strict=True)
            ],
            "loss": np.exp(losses[best, np.arange(len(grid))]),
            "sizes": measured.sum(axis=0),
            "edge": (best == first) | (best == last),
        }
    )
    table.attrs[EXCLUDED] = excluded
    return table


def fit_envelope(
    frame: pd.DataFrame, *, noise: float | None = None, bootstrap: int = 500, level: float = 0.95, seed: int = 0
) -> Allocation:
    """Exponents of N*(C) and D*(C) from the envelope.

    The line goes through the crossings, the budgets at which a larger size takes over, where the optimum lies
    about the geometric mean of the two sizes. The envelope itself is a staircase: the least-squares slope of k
    whole steps is 1 - 1/k^2 of the true one, a quarter too small for two steps.

    Parameters
    ----------
    frame
        As in `envelope`.
    noise
        Standard deviation of log loss between seeds; None takes it from repeated seeds in the frame, and else the
        interval from the scatter of the crossings.
    bootstrap
        Draws of the noise.
    level
        Level of the intervals.
    seed
        Seed of the draws.

    Raises
    ------
    ValueError
        Fewer than two crossings, or as `envelope`.

    References
    ----------
    Hoffmann et al. 2022, section 3.1.
    """
    curves, excluded = _curves(frame)
    grid = _budgets(curves, GRID)
    optima, flags = _crossings(curves, grid)
    if len(optima) < FEWEST_CROSSINGS:
        raise ValueError(
            f"crossings of a larger size below a smaller: {len(optima)}, but exponents need {FEWEST_CROSSINGS}"
        )
    known = Noise(noise, 0, "the given noise") if noise is not None else _repeats(frame)
    sizes, flops, tokens = (optima[name].to_numpy(dtype=np.float64) for name in ("params", "flops", "tokens"))
    # Every crossing has equal weight: the spacing, the floor of an optimum's uncertainty, is set beyond any noise.
    inverse, source, more = fit_growth(sizes, flops, None, level=level, spacing=1.0)
    if known is not None:
        slopes = _draw_slopes(curves, grid, known, bootstrap, seed)
        low, high = known_quantiles(slopes, level)
        inverse = replace(inverse, low=low, high=high)
        source = f"{bootstrap} draws of the noise; noise {known.sd:.2g} in log loss from {known.source}"
        lost = float(np.isnan(slopes).mean())
        more = (f"{lost:.0%} of the noise draws have too few crossings for a line",) if lost > INSECURE else ()
    _, per_token = flops_rule(sizes, tokens, flops)
    lines = _turn(inverse, per_token, float(np.exp(np.log(flops / tokens).mean())))
    return Allocation("envelope", *lines, optima, level, source, (*excluded, *flags, *more))


def _turn(inverse: Growth, per_token: float, flops_per_token: float) -> tuple[Growth, Growth]:
    """N*(C) and D*(C) from C(N*), since the crossings' sizes are exact and their budgets are not.

    With FLOPs per token ~ N^k (k = 1 for 6 N D), D* = C / FLOPs per token gives b = 1 - k a.
    """
    a = 1 / inverse.exponent
    high = math.inf if inverse.low <= 0 else 1 / inverse.low
    params = Growth(a, 1 / inverse.high, high, value=inverse.flops, flops=inverse.value)
    b, low, high = (1 - per_token * end for end in (a, params.high, params.low))
    return params, Growth(b, low, high, value=inverse.value / flops_per_token, flops=inverse.value)


def _curves(frame: pd.DataFrame) -> tuple[list[_Curve], tuple[str, ...]]:
    rows, excluded = with_flops(frame)
    mixed = several_data_sets(rows)
    if mixed:
        raise ValueError(f"{'; '.join(mixed)}: an envelope needs one data set, select the rows of one")
    logs = pd.DataFrame({name: np.log(rows[name].to_numpy(dtype=np.float64)) for name in ("flops", "loss", "tokens")})
    logs = logs.assign(params=rows["params"].to_numpy(), point=rows["tokens"].to_numpy())
    curves: list[_Curve] = []
    for size in sorted({float(size) for size in logs["params"]}):
        groups = logs.loc[logs["params"] == size].groupby("point")
        means, repeats = groups[["flops", "loss", "tokens"]].mean(), groups.size().to_numpy(dtype=np.float64)
        if len(means) > 1:
            log_c, log_loss, log_d = (means[name].to_numpy(dtype=np.float64) for name in ("flops", "loss", "tokens"))
            curves.append(_Curve(size, log_c, log_loss, log_d, repeats))
        else:
            excluded = (*excluded, f"size {count_label(size)} has only one token count: a curve needs two")
    if len(curves) < 2:
        raise ValueError(f"sizes with two token counts or more: {len(curves)}, but an envelope needs two")
    return curves, excluded


def _budgets(curves: list[_Curve], points: int) -> Array:
    """Log budgets between the first and the last at which two sizes are measured."""
    ends = sorted([*(float(curve.log_c[0]) for curve in curves), *(float(curve.log_c[-1]) for curve in curves)])
    shared = [c for c in ends if sum(curve.log_c[0] <= c <= curve.log_c[-1] for curve in curves) >= 2]
    if not shared or shared[0] == shared[-1]:
        raise ValueError("no two sizes are measured at the same budget: their curves do not overlap in FLOPs")
    return np.linspace(shared[0], shared[-1], points)


def _losses(curves: list[_Curve], grid: Array, log_losses: list[Array]) -> Array:
    """Log losses of every size at every budget, shape (sizes, budgets, B), NaN where not measured."""
    return np.stack(
        [
            np.asarray(interpolate.PchipInterpolator(curve.log_c, values, axis=0, extrapolate=False)(grid))
            for curve, values in zip(curves, log_losses, strict=True)
        ]
    )


def _crossings(curves: list[_Curve], grid: Array) -> tuple[pd.DataFrame, tuple[str, ...]]:
    losses = _losses(curves, grid, [curve.log_loss[:, None] for curve in curves])[:, :, 0]
    rows: list[dict[str, object]] = []
    flags: list[str] = []
    for (smaller, larger), log_c in _pairs(losses, grid).items():
        pair = curves[smaller], curves[larger]
        if larger < smaller:
            sizes = " to ".join(count_label(curve.size) for curve in pair)
            flags.append(f"the best size falls from {sizes} at {math.exp(log_c):.3g} FLOPs: no crossing upward")
            continue
        log_d = np.mean([np.interp(log_c, curve.log_c, curve.log_d) for curve in pair])
        log_loss = np.mean([np.interp(log_c, grid, losses[i]) for i in (smaller, larger)])
        rows.append(
            {
                "flops": math.exp(log_c),
                "params": math.sqrt(pair[0].size * pair[1].size),
                "tokens": math.exp(log_d),
                "loss": math.exp(log_loss),
                "smaller": pair[0].size,
                "larger": pair[1].size,
                "refused": "",
            }
        )
    columns = ["flops", "params", "tokens", "loss", "smaller", "larger", "refused"]
    return pd.DataFrame(rows, columns=pd.Index(columns)), tuple(flags)


def _pairs(losses: Array, grid: Array) -> dict[tuple[int, int], float]:
    """Log budget at which one size takes over from another, by pair; the mean where noise makes several.

    Only sizes measured on both sides count: a change because a curve begins or ends is not a crossing.
    """
    best = np.where(np.isnan(losses), np.inf, losses).argmin(axis=0)
    found: dict[tuple[int, int], list[float]] = {}
    for left in np.flatnonzero(np.diff(best)):
        before, after = int(best[left]), int(best[left + 1])
        gap = losses[before, left : left + 2] - losses[after, left : left + 2]
        if not np.isnan(gap).any():
            share = float(gap[0] / (gap[0] - gap[1]))
            found.setdefault((before, after), []).append(float(grid[left] + share * (grid[left + 1] - grid[left])))
    return {pair: float(np.mean(places)) for pair, places in found.items()}


def _repeats(frame: pd.DataFrame) -> Noise | None:
    return repeat_noise(with_flops(frame)[0], ("params", "tokens"))


def _draw_slopes(curves: list[_Curve], grid: Array, noise: Noise, count: int, seed: int) -> Array:
    """Slopes of log C against log N* through the crossings of redrawn curves, shape (B,); NaN for fewer than two."""
    rng = np.random.default_rng(seed)
    # The points of a size are off its trunks: what they share moves its whole curve.
    trunks = [np.zeros(len(curve.log_c), dtype=np.int64) for curve in curves]
    errors = [noise.draw(t, count, rng) / np.sqrt(c.repeats)[:, None] for c, t in zip(curves, trunks, strict=True)]
    losses = _losses(curves, grid, [c.log_loss[:, None] + e for c, e in zip(curves, errors, strict=True)])
    log_n = np.log([curve.size for curve in curves])
    slopes = np.full(count, np.nan)
    for draw in range(count):
        upward = {pair: c for pair, c in _pairs(losses[:, :, draw], grid).items() if pair[0] < pair[1]}
        middles = np.array([(log_n[smaller] + log_n[larger]) / 2 for smaller, larger in upward])
        if len(middles) >= FEWEST_CROSSINGS and np.ptp(middles) > 0:
            slopes[draw] = np.polyfit(middles, list(upward.values()), 1)[0]
    return slopes
