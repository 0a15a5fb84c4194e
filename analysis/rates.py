"""Best learning rates of a sweep, and the rule that fits them against size.

What matters about a rate is its ratio to others: everything here is in log rate. Near its best the loss is a parabola
in log rate; far above it a run diverges, and far below it has hardly begun to learn, so only the points around the
lowest are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.frames import EXCLUDED, check_frame, select_loss
from analysis.isoflop.loss_by_size import lowest
from analysis.overrides import base_models, override_of, refuse_pooled
from analysis.style import count_label

Array = NDArray[np.float64]

RATE = "optimizer.learning_rate"
BATCH = "recipe.batch_sequences"


INSECURE = 0.05
"""Share of the noise draws without a best rate from which a note says so."""
FEWEST_SIZES = 4
"""Sizes from which a rule has intervals: three leave one degree of freedom, whose scatter is often near 0."""


def best_rates(
    frame: pd.DataFrame,
    metric: str,
    *,
    rate: str = RATE,
    batch: str | None = BATCH,
    noise: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Best learning rate of each size, batch and token count: the lowest point of a parabola in log rate.

    It goes through the lowest of the rates tried and its two neighbours.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study whose points name the rate and the batch; cooled-down
        points alone enter, and several seeds of one point are averaged.
    metric
        The loss, such as `heldout/prose/bits_per_byte`.
    rate, batch
        Overrides that were swept; None for a batch that was not.
    noise
        Standard deviation of the loss between seeds, in the metric's unit: losses are redrawn with it and the best
        rates found again. None leaves `spread` unknown.
    draws
        Draws of the noise.
    seed
        Seed of the draws.

    Returns
    -------
    DataFrame
        One row per size, batch and token count: model, params (without embeddings), batch_sequences (0 where not
        swept), tokens, best_rate (NaN where the lowest of the rates tried is the first or the last: the best may lie
        beyond), loss (the parabola's lowest, in the metric's unit), lowest_rate (of those tried), rates (number tried),
        seeds (fewest of a rate), spread (standard deviation of the log best rate under redrawn noise, NaN without),
        note (in words, empty where there is nothing to say). `attrs["excluded"]` lists what was left out.

    Raises
    ------
    ValueError
        As `analysis.frames.select_loss` and `analysis.overrides.override_of`; a rate or batch that is no number; points
        of one row that differ by another override (it is named), or a noise that is not above 0.
    """
    if noise is not None and not noise > 0:
        raise ValueError(f"noise={noise}: a standard deviation must be above 0; pass None where it is unknown")
    runs, excluded = check_frame(select_loss(frame, metric), ("params", "loss"))
    runs = runs.assign(
        rate=override_of(runs, rate).astype(float),
        batch_sequences=override_of(runs, batch).astype(int) if batch else 0,
        model=base_models(runs),
    )
    rows: list[dict[str, object]] = []
    rng = np.random.default_rng(seed)
    keys = ["model", "params", "batch_sequences", "tokens"]
    for _, points in runs.groupby(keys):
        refuse_pooled(points, [name for name in (rate, batch) if name], "the best rate")
        facts: dict[str, object] = {name: points.iloc[0][name] for name in keys}
        rows.append(facts | _best(points, noise, draws, rng))
    best = pd.DataFrame(rows).sort_values(["batch_sequences", "tokens", "params"], ignore_index=True)
    best.attrs[EXCLUDED] = excluded
    return best


def _best(points: pd.DataFrame, noise: float | None, draws: int, rng: np.random.Generator) -> dict[str, object]:
    tried, losses_tried = (points[name].to_numpy(dtype=np.float64) for name in ("rate", "loss"))
    rates, seeds = np.unique(tried, return_counts=True)
    losses = np.array([losses_tried[tried == rate].mean() for rate in rates])
    bottom = int(losses.argmin())
    facts: dict[str, object] = {"lowest_rate": rates[bottom], "rates": len(rates), "seeds": int(seeds.min())}
    if bottom in (0, len(rates) - 1):
        where = "lowest" if bottom == 0 else "highest"
        note = f"the {where} of {len(rates)} rates is the best tried: a better one may lie beyond"
        return {"best_rate": math.nan, "loss": math.nan} | facts | {"spread": math.nan, "note": note}
    place, value = (float(part[0]) for part in _lowest(np.log(rates), losses[:, None]))
    spread, note = math.nan, "one seed per rate: how far noise moves it is unknown" if seeds.min() == 1 else ""
    if noise is not None:
        drawn = losses[:, None] + noise / np.sqrt(seeds)[:, None] * rng.standard_normal((len(rates), draws))
        spread, note = _spread(_lowest(np.log(rates), drawn)[0])
    return {"best_rate": math.exp(place), "loss": value} | facts | {"spread": spread, "note": note}


def _lowest(log_rates: Array, losses: Array) -> tuple[Array, Array]:
    """Minima of parabolas through the lowest loss and its neighbours, losses of shape (rates, B); NaN at an edge."""
    bottoms = losses.argmin(axis=0)
    places, values = np.full(losses.shape[1], np.nan), np.full(losses.shape[1], np.nan)
    for bottom in range(1, len(log_rates) - 1):
        here, near = bottoms == bottom, slice(bottom - 1, bottom + 2)
        if here.any():
            places[here], values[here] = lowest(log_rates[near], losses[near][:, here], "parabola")
    return places, values


def _spread(places: Array) -> tuple[float, str]:
    """Return the standard deviation of redrawn log best rates, and a note on draws without one."""
    known = places[~np.isnan(places)]
    lost = 1 - len(known) / len(places)
    note = f"in {lost:.0%} of the noise draws the best lies beyond the rates tried" if lost > INSECURE else ""
    return (float(known.std(ddof=1)) if len(known) > 1 else math.nan), note


@dataclass(frozen=True)
class RateRule:
    """Best rate = base (N / base_params)^-exponent, at one batch."""

    base_params: float
    """N at which the rate is `base`, without embeddings."""
    base: float
    """Learning rate there."""
    base_low: float
    """Lower end of its interval; NaN where there is none."""
    base_high: float
    """Upper end."""
    exponent: float
    """How fast the best rate falls with size."""
    exponent_low: float
    """Lower end of its interval."""
    exponent_high: float
    """Upper end."""
    level: float
    """Level of the intervals."""
    sizes: tuple[float, ...]
    """N of the best rates it was fitted to."""
    scatter: float
    """Standard deviation of the best rates around the rule, in log rate."""
    interval_from: str
    """Where the intervals come from, or why there are none."""

    def rate(self, params: float) -> float:
        """Learning rate for a size.

        Parameters
        ----------
        params
            N, without embeddings.
        """
        return self.base * (params / self.base_params) ** -self.exponent

    def describe(self) -> str:
        """Describe the rule, with its intervals, in one line."""
        sizes = f"{len(self.sizes)} sizes"
        if math.isnan(self.exponent_low):
            rule = f"rate = {self.base:.3g} (N / {self.base_params:.3g})^-{self.exponent:.3f}"
            return f"{rule}, {sizes}; intervals: {self.interval_from}"
        return (
            f"rate = {self.base:.3g} [{self.base_low:.3g}, {self.base_high:.3g}] (N / {self.base_params:.3g})^-"
            f"{self.exponent:.3f} [{self.exponent_low:.3f}, {self.exponent_high:.3f}], {self.level:.0%} intervals from "
            f"{self.interval_from}, {sizes}"
        )


def rate_rule(best: pd.DataFrame, *, base_params: float = 1e6, level: float = 0.95) -> RateRule:
    """Fit the rule of size: least squares of log best rate on log N.

    With scatter s^2 about the line of K sizes the intervals are Student's, t_(K-2) s sqrt(diag (X'X)^-1). Where every
    best rate has a `spread` under redrawn noise, those of (X'X)^-1 X' diag(spread^2) X (X'X)^-1 are made as well, with
    normal quantiles, and the wider of the two counts: a few sizes can lie on a line by luck.

    Parameters
    ----------
    best
        Rows of `best_rates` of one batch and one token count per size; sizes without a best rate are left out.
    base_params
        N at which `base` is stated.
    level
        Level of the intervals.

    Returns
    -------
    RateRule
        With fewer than four sizes its intervals are NaN, and `interval_from` says so.

    Raises
    ------
    ValueError
        The rows are of several batches, a size has several, or fewer than three sizes have a best rate: two leave no
        scatter to judge the line by.

    References
    ----------
    Porian et al. 2024, "Resolving Discrepancies in Compute-Optimal Scaling of Language Models", section 3.4: a rule of
    size fitted to the best rates of a sweep.
    """
    batches = sorted({int(size) for size in best["batch_sequences"]})
    if len(batches) > 1:
        raise ValueError(f"the rows have the batches {batches}: a rule is fitted at one")
    if best["params"].duplicated().any():
        counts = ", ".join(count_label(float(count)) for count in sorted(set(best["tokens"])))
        raise ValueError(f"the rows have the token counts {counts}: a rule takes one row per size")
    known = best.loc[best["best_rate"].notna()]
    if len(known) < 3:
        raise ValueError(f"{len(known)} of {len(best)} sizes have a best rate inside those tried: a rule needs 3")
    x = np.log(known["params"].to_numpy(dtype=np.float64) / base_params)
    y = np.log(known["best_rate"].to_numpy(dtype=np.float64))
    design = np.stack([np.ones_like(x), x], axis=1)
    (height, slope), _, _, _ = np.linalg.lstsq(design, y)
    scatter = math.sqrt(float(((y - design @ [height, slope]) ** 2).sum()) / (len(x) - 2))
    reach, source = _reach(design, scatter, known["spread"].to_numpy(dtype=np.float64), level)
    return RateRule(
        base_params=base_params,
        base=math.exp(height),
        base_low=math.exp(height - reach[0]),
        base_high=math.exp(height + reach[0]),
        exponent=-float(slope),
        exponent_low=-float(slope) - float(reach[1]),
        exponent_high=-float(slope) + float(reach[1]),
        level=level,
        sizes=tuple(float(size) for size in known["params"]),
        scatter=scatter,
        interval_from=source,
    )


def _reach(design: Array, scatter: float, spread: Array, level: float) -> tuple[Array, str]:
    """Half-widths of the intervals of height and slope, and their source."""
    sizes = len(design)
    if sizes < FEWEST_SIZES:
        return np.full(2, np.nan), f"none, because they need the scatter of {FEWEST_SIZES} sizes"
    inverse = np.linalg.inv(design.T @ design)
    by_scatter = float(stats.t.ppf((1 + level) / 2, sizes - 2)) * scatter * np.sqrt(np.diag(inverse))
    if np.isnan(spread).any():
        return by_scatter, "the scatter about the line"
    covariance = inverse @ design.T @ np.diag(spread**2) @ design @ inverse
    by_noise = float(stats.norm.ppf((1 + level) / 2)) * np.sqrt(np.diag(covariance))
    source = "the noise of the losses" if by_noise[1] > by_scatter[1] else "the scatter about the line"
    return np.maximum(by_scatter, by_noise), source
