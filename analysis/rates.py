"""Best learning rates of a sweep, and the rule of size that goes through them.

A rate matters by its ratio: everything here is in log rate. Near its best the loss is a parabola in log rate; far
above it a run diverges, and far below it has hardly begun, so only the points around the lowest count.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# (pandas and scipy are typed in part)
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.frames import check_frame, select_loss
from analysis.isoflop.curves import lowest
from analysis.overrides import override_of

Array = NDArray[np.float64]

RATE = "optimizer.learning_rate"
BATCH = "recipe.batch_sequences"


def best_rates(frame: pd.DataFrame, metric: str, *, rate: str = RATE, batch: str | None = BATCH) -> pd.DataFrame:
    """Best learning rate of each size and batch: the lowest point of the parabola through the lowest three rates.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study whose points name the rate and the batch; cooled-down
        points alone enter, and several seeds of one point are averaged.
    metric
        The loss, such as `heldout/prose/bits_per_byte`.
    rate, batch
        Overrides that were swept; None for a batch that was not.

    Returns
    -------
    DataFrame
        A row a size and batch: model, params (without embeddings), batch_sequences (0 where not swept), best_rate (NaN where the lowest of
        the rates tried is the first or the last: the best lies beyond), loss (the parabola's lowest, in the metric's
        unit), lowest_rate (of those tried), rates (number tried), seeds (fewest of a rate), note (in words, empty where
        there is nothing to say).

    Raises
    ------
    ValueError
        As `analysis.frames.select_loss` and `analysis.overrides.override_of`; a rate or batch that is no number.
    """
    runs, _ = check_frame(select_loss(frame, metric), ("params", "loss"))
    runs = runs.assign(
        rate=override_of(runs, rate).astype(float),
        batch_sequences=override_of(runs, batch).astype(int) if batch else 0,
        model=runs["model"].astype(str).str.split(" ").str[0],
    )
    rows: list[dict[str, object]] = []
    for _, points in runs.groupby(["params", "model", "batch_sequences"]):
        first = points.iloc[0]
        facts: dict[str, object] = {name: first[name] for name in ("model", "params", "batch_sequences")}
        rows.append(facts | _best(points))
    return pd.DataFrame(rows).sort_values(["batch_sequences", "params"], ignore_index=True)


def _best(points: pd.DataFrame) -> dict[str, object]:
    tried, losses_tried = (points[name].to_numpy(dtype=np.float64) for name in ("rate", "loss"))
    rates, seeds = np.unique(tried, return_counts=True)
    losses = np.array([losses_tried[tried == rate].mean() for rate in rates])
    facts: dict[str, object] = {"rates": len(rates), "seeds": int(seeds.min())}
    bottom = int(losses.argmin())
    if bottom in (0, len(rates) - 1):
        where = "lowest" if bottom == 0 else "highest"
        note = f"the {where} of {len(rates)} rates is the best: the best of all lies beyond"
        return {"best_rate": math.nan, "loss": math.nan, "lowest_rate": rates[bottom]} | facts | {"note": note}
    near = slice(bottom - 1, bottom + 2)
    place, value = lowest(np.log(rates[near]), losses[near, None], "parabola")
    found = {"best_rate": float(np.exp(place[0])), "loss": float(value[0]), "lowest_rate": rates[bottom]}
    return found | facts | {"note": ""}


@dataclass(frozen=True)
class RateRule:
    """Best rate = base (N / base_params)^-exponent, at one batch."""

    base_params: float
    """N at which the rule gives `base`, without embeddings."""
    base: float
    """Learning rate there."""
    base_low: float
    """Lower end of its interval."""
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
    """N of the best rates it goes through."""
    scatter: float
    """Standard deviation of the best rates about the rule, in log rate; NaN for two sizes."""

    def rate(self, params: float) -> float:
        """Learning rate for a size.

        Parameters
        ----------
        params
            N, without embeddings.
        """
        return self.base * (params / self.base_params) ** -self.exponent

    def describe(self) -> str:
        """Say the rule, with its intervals, in a line."""
        sizes = f"{len(self.sizes)} sizes"
        return (
            f"rate = {self.base:.3g} [{self.base_low:.3g}, {self.base_high:.3g}] (N / {self.base_params:.3g})^-"
            f"{self.exponent:.3f} [{self.exponent_low:.3f}, {self.exponent_high:.3f}], {self.level:.0%} intervals, {sizes}"
        )


def rate_rule(best: pd.DataFrame, *, base_params: float = 1e6, level: float = 0.95) -> RateRule:
    """Fit the rule of size: least squares of log best rate on log N, with Student intervals.

    Parameters
    ----------
    best
        Rows of `best_rates` of one batch; sizes without a best rate are left out.
    base_params
        N at which `base` is stated.
    level
        Level of the intervals.

    Raises
    ------
    ValueError
        The rows are of several batches, or fewer than three sizes have a best rate: two leave no scatter to
        judge the line by.

    References
    ----------
    Porian et al. 2024, "Resolving Discrepancies in Compute-Optimal Scaling of Language Models", section 3.4: a rule of
    size fitted to the best rates of a sweep.
    """
    batches = sorted({int(size) for size in best["batch_sequences"]})
    if len(batches) > 1:
        raise ValueError(f"the rows are of the batches {batches}: a rule holds at one")
    known = best.loc[best["best_rate"].notna()]
    if len(known) < 3:
        raise ValueError(f"{len(known)} of {len(best)} sizes have a best rate inside those tried: a rule needs 3")
    x = np.log(known["params"].to_numpy(dtype=np.float64) / base_params)
    y = np.log(known["best_rate"].to_numpy(dtype=np.float64))
    design = np.stack([np.ones_like(x), x], axis=1)
    (height, slope), _, _, _ = np.linalg.lstsq(design, y)
    dof = len(x) - 2
    scatter = math.sqrt(float(((y - design @ [height, slope]) ** 2).sum()) / dof)
    errors = scatter * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    reach = float(stats.t.ppf((1 + level) / 2, dof)) * errors
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
    )
