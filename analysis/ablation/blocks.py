"""Runs of an ablation as a layout of variants by seeds, each variant at its best learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.columns import truths
from analysis.frames import EXCLUDED, check_frame, require_columns, select_loss

Array = NDArray[np.float64]
VariantOf = str | Callable[[pd.DataFrame], pd.Series]
"""A column, or a function from the frame to one label per row."""
ANY_RATE = "any"


@dataclass(frozen=True)
class Choice:
    """The learning rate that a variant stands at."""

    rate: object
    """Best mean over seeds."""
    tried: tuple[object, ...]
    """Rates compared, in order."""
    seeds: int
    """Seeds that all of them have: the means are over these."""
    by_seed: Mapping[str, object]
    """By seed, the rate that the other seeds choose; empty with one seed or one rate."""
    unscored: tuple[object, ...]
    """Rates that were run and have no value."""
    diverged: Mapping[object, tuple[str, ...]]
    """By rate, the seeds whose value is infinite. Not chosen among, unless every rate is here."""
    known_seeds: int
    """Seeds of the variant, at any rate."""

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the smallest or largest run: a better one may lie beyond."""
        run = _in_order(list({*self.tried, *self.diverged}))
        return len(run) > 1 and self.rate in (run[0], run[-1])


@dataclass(frozen=True)
class Layout:
    """One metric's results, one row per variant and one column per seed; NaN is a run that is not there."""

    metric: str
    """Its name."""
    baseline: str
    """Row that the others are compared to."""
    values: pd.DataFrame
    """At the rate chosen for each variant."""
    cross_fitted: pd.DataFrame
    """At the rate that the other seeds choose."""
    choices: Mapping[str, Choice]
    """By variant."""
    facts: pd.DataFrame
    """By variant: means of tokens, params and flops."""
    excluded: tuple[str, ...]
    """What was left out, in words."""


def choose_rates(
    frame: pd.DataFrame, metric: str, *, lower: bool, variant: VariantOf, rate: VariantOf | None, baseline: str
) -> dict[str, Choice]:
    """Choose each variant's learning rate by the mean of a metric over the seeds that all its rates have.

    A rate at which a seed diverged (an infinite value) is not chosen: its mean would be that of the survivors.

    Parameters
    ----------
    frame, variant, rate, baseline
        As in `analysis.ablation.ablation_table`.
    metric
        Metric that decides.
    lower
        Whether lower is better.

    Raises
    ------
    ValueError
        The baseline does not exist, there are several token counts or two runs of one variant, rate and seed, or a
        variant none of whose seeds has all its rates.
    """
    runs = _runs(frame, variant, rate)
    known = sorted(set(runs["_variant"]))
    if baseline not in known:
        raise ValueError(f"baseline={baseline!r} is not a variant; the variants are: {', '.join(map(repr, known))}")
    if len(known) == 1:
        raise ValueError(f"only the baseline {baseline!r} is in the frame: there is nothing to compare it with")
    points = _points(frame, metric, variant, rate)
    return {
        label: _choose(
            label,
            points.loc[points["_variant"] == label],
            runs.loc[runs["_variant"] == label],
            metric,
            lower,
        )
        for label in known
    }


def lay_out(
    frame: pd.DataFrame,
    metric: str,
    choices: Mapping[str, Choice],
    *,
    variant: VariantOf,
    rate: VariantOf | None,
    baseline: str,
) -> Layout:
    """Arrange one metric by variant and seed, at rates that are already chosen.

    Parameters
    ----------
    frame, variant, rate, baseline
        As in `analysis.ablation.ablation_table`.
    metric
        Metric to lay out; it need not be the one that chose the rates.
    choices
        By variant, as `choose_rates` gives them.
    """
    points = _points(frame, metric, variant, rate)
    wanted = {label: choice.rate for label, choice in choices.items()}
    at_rate = points.loc[[wanted[v] == r for v, r in zip(points["_variant"], points["_rate"], strict=True)]]
    keys = zip(points["_variant"], points["_rate"], points["_seed"], strict=True)
    crossed = points.loc[[choices[v].by_seed.get(s, choices[v].rate) == r for v, r, s in keys]]
    order = [baseline, *(label for label in choices if label != baseline)]
    seeds = sorted(set(_runs(frame, variant, rate)["_seed"]))
    columns = [column for column in ("tokens", "params", "flops") if column in points.columns]
    return Layout(
        metric=metric,
        baseline=baseline,
        values=at_rate.pivot(index="_variant", columns="_seed", values="loss").reindex(order, columns=seeds),
        cross_fitted=crossed.pivot(index="_variant", columns="_seed", values="loss").reindex(order, columns=seeds),
        choices=choices,
        facts=at_rate.groupby("_variant")[columns].mean().reindex(order),
        excluded=tuple(points.attrs[EXCLUDED]),
    )


def residual_squares(values: Array) -> tuple[float, int]:
    """Residual sum of squares and degrees of freedom of y_vs = m_v + r_s + e_vs.

    Parameters
    ----------
    values
        Shape (variants, seeds), NaN where there is no run; without any, dof = (variants - 1)(seeds - 1).
    """
    rows, columns = np.nonzero(~np.isnan(values))
    if len(rows) == 0:
        return math.nan, 0
    design = np.concatenate([np.eye(values.shape[0])[rows], np.eye(values.shape[1])[columns]], axis=1)
    measured = values[rows, columns]
    coefficients, _, rank, _ = np.linalg.lstsq(design, measured)
    return float(((measured - design @ coefficients) ** 2).sum()), len(measured) - int(rank)


def _runs(frame: pd.DataFrame, variant: VariantOf, rate: VariantOf | None) -> pd.DataFrame:
    """Cooled-down rows, scored or not: what should be in the table."""
    require_columns(frame, ("annealed",))
    return label_runs(frame.loc[truths(frame, "annealed")], variant, rate)


def _points(frame: pd.DataFrame, metric: str, variant: VariantOf, rate: VariantOf | None) -> pd.DataFrame:
    rows, _ = check_frame(select_loss(frame, metric), ("loss", "tokens"), positive=False, minimum=1)
    points = label_runs(rows, variant, rate)
    counts = sorted({int(tokens) for tokens in points["tokens"]})
    if len(counts) > 1:
        raise ValueError(f"the frame has the token counts {counts}: an ablation table is for one, select its rows")
    again = points.loc[points.duplicated(["_variant", "_rate", "_seed"], keep=False)]
    if len(again):
        row = again.iloc[0]
        raise ValueError(
            f"{len(again)} runs share variant, rate and seed with another (variant {row['_variant']!r}, rate "
            f"{row['_rate']}, {row['_seed']}): select one size, or give rate="
        )
    return points


def label_runs(frame: pd.DataFrame, variant: VariantOf, rate: VariantOf | None) -> pd.DataFrame:
    """Add what each row is in an ablation: columns _variant (text), _rate (`ANY_RATE` without one) and _seed (text).

    Parameters
    ----------
    frame, variant, rate
        As in `analysis.ablation.ablation_table`.

    Raises
    ------
    ValueError
        The frame lacks a column.
    """
    require_columns(frame, [name for name in (variant, rate, "seed_init", "seed_data") if isinstance(name, str)])
    seeds = [f"init {i} data {d}" for i, d in zip(frame["seed_init"], frame["seed_data"], strict=True)]
    labels = [str(label) for label in _column(frame, variant)]
    rates = [ANY_RATE] * len(frame) if rate is None else _column(frame, rate)
    labelled = frame.assign(_variant=labels, _rate=rates, _seed=seeds)
    labelled.attrs.update(frame.attrs)
    return labelled


def _column(frame: pd.DataFrame, name: VariantOf) -> list[object]:
    return list(frame[name] if isinstance(name, str) else name(frame))


def _choose(label: str, points: pd.DataFrame, runs: pd.DataFrame, metric: str, lower: bool) -> Choice:
    grid = points.pivot(index="_seed", columns="_rate", values="loss")
    infinite = runs.loc[(runs["metric"] == metric) & np.isinf(runs["value"].to_numpy(dtype=np.float64))]
    diverged = {rate: tuple(sorted(rows["_seed"])) for rate, rows in infinite.groupby("_rate")}
    tried = _in_order([rate for rate in grid.columns if rate not in diverged] or list(grid.columns))
    unscored = tuple(sorted(set(runs["_rate"]) - {*grid.columns, *diverged}, key=str))
    known = len(set(runs["_seed"]))
    if not tried:
        return Choice(math.nan, (), 0, {}, unscored, diverged, known)
    full = grid.loc[:, list(tried)].dropna()
    if full.empty:
        raise ValueError(
            f"variant {label!r}: no seed was scored at all of its rates {list(tried)}; run the missing ones"
        )
    scores = full if lower else -full
    alone = len(tried) == 1 or len(scores) == 1
    by_seed = {} if alone else {str(seed): scores.drop(index=seed).mean().idxmin() for seed in scores.index}
    return Choice(scores.mean().idxmin(), tried, len(full), by_seed, unscored, diverged, known)


def _in_order(rates: list[object]) -> tuple[object, ...]:
    """Sort rates by value, even where they are text; `ANY_RATE` stands alone."""
    return tuple(sorted(rates, key=lambda rate: float(str(rate)))) if len(rates) > 1 else tuple(rates)
