"""Ablation tables: every variant against the baseline, paired by seed, with the noise pooled over variants.

Five seeds of one variant estimate its noise badly; the residuals of all variants together estimate it well. So the
table's standard error is one number, from the two-way layout of variants and seeds, and a variant whose scatter
differs is named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.ablation.blocks import Choice, Layout, VariantOf, choose_rates, lay_out, residual_squares
from analysis.ablation.equivalent import Curve, compute_equivalent
from analysis.ablation.significance import detectable_effect, holm
from analysis.frames import EXCLUDED
from analysis.metrics import lower_is_better

__all__ = ["ablation_table", "detectable_effect", "holm"]

CORRECTIONS = ("holm", "none")
MATCHED = 0.01
"""Relative difference in parameters up to which two variants count as matched."""


def ablation_table(
    frame: pd.DataFrame,
    metrics: str | Sequence[str],
    *,
    baseline: str,
    variant: VariantOf = "model",
    rate: VariantOf | None = None,
    level: float = 0.95,
    correction: str = "holm",
    power: float = 0.8,
    curves: Mapping[str, Curve] | None = None,
    lower: Mapping[str, bool] | None = None,
) -> pd.DataFrame:
    """Differences of every variant from the baseline, and whether they exceed the seed noise.

    With y_vs the result of variant v at seed s, d_v = mean over the seeds both have of (y_vs - y_0s). The noise
    sigma^2 is the residual mean square of y_vs = m_v + r_s + e_vs over all variants, with
    (variants - 1)(seeds - 1) degrees of freedom where no run is missing; the standard error of d_v is
    sigma sqrt(2 / seeds) and its interval d_v -+ t sigma sqrt(2 / seeds).

    Where each variant was run at several learning rates, each is represented by its rate with the best mean of the
    first metric over the seeds that all its rates have; a rate at which a seed diverged (an infinite value) is not
    chosen. The best of several means is flattered by noise, all variants alike if all had as many rates; `cross_fitted`
    is the difference when each seed's rate is chosen by the other seeds only, which noise cannot flatter.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one size and token count; only cooled-down points are used.
    metrics
        Metric or metrics; the first chooses the learning rates.
    baseline
        Label of the variant that the others are compared with.
    variant
        Column that holds the label of each row's variant, or a function that gives it, such as
        `functools.partial(analysis.overrides.override_of, key="variant")`.
    rate
        Column or function of the learning rate; None where each variant has one.
    level
        Level of the intervals, one by one; rows are marked at 1 - level after the correction.
    correction
        `holm` over all rows of the table (variants times metrics), or `none`.
    power
        Probability with which a difference of the size `detectable` is marked.
    curves
        By metric, the baseline's value against its training tokens (a function), or the slope of the value
        against log tokens there: turns differences into tokens of training (`analysis.ablation.equivalent`).
    lower
        By metric, whether less of it is better, for those whose direction `analysis.metrics` does not know.

    Returns
    -------
    DataFrame
        One row per metric and variant: metric, lower_is_better, variant, baseline, mean (of the paired seeds),
        baseline_mean, difference (variant minus baseline, metric's unit), stderr, low, high, p (two-sided t), pair_sd
        (of this variant's own paired differences: smaller than sigma sqrt(2) where a seed gives both the same initial
        weights), pair_low, pair_high (paired t interval from them only, with seeds - 1 degrees of freedom), noise (sigma), dof, seeds (paired), missing (seeds that are not there, by name; empty where none),
        rate, baseline_rate (those chosen; `any` without `rate`), rate_at_edge, cross_fitted, params_ratio and
        flops_ratio (variant over baseline, NaN where not known), tokens, note (what a reader must know, in words),
        p_adjusted, correction (with the number of comparisons), alpha, mark (`beyond` or `within` the noise, missing
        without a p), better (`variant` or `baseline`, missing where within), detectable (smallest difference found with
        `power` at alpha, corrected as the smallest p must be), power; times (tokens that give the baseline the same
        change, over its tokens; NaN without a curve), times_low, times_high (the interval's ends, from the seed noise
        only: the curve is taken as known, and its own uncertainty is not in them), and detectable_times (a gain of
        `detectable` in tokens). `attrs["excluded"]` lists what was left out.

    Raises
    ------
    ValueError
        Unknown metric, column, variant or correction; a metric whose better direction is not known; several token
        counts; no variant besides the baseline; two runs of one variant, rate and seed; a variant none of whose
        seeds has a value at all its rates.

    References
    ----------
    Montgomery 2017, "Design and Analysis of Experiments", section 4.1 (randomised complete blocks); Holm 1979,
    Scandinavian Journal of Statistics 6, 65; Cawley and Talbot 2010, JMLR 11, 2079 (selection flatters).
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if correction not in CORRECTIONS:
        raise ValueError(f"correction={correction!r}: choose one of {', '.join(CORRECTIONS)}")
    if not 0 < level < 1 or not 0 < power < 1:
        raise ValueError(f"level={level} and power={power} must lie between 0 and 1")
    directions = {name: lower_is_better(name, (lower or {}).get(name)) for name in names}
    chosen = choose_rates(frame, names[0], lower=directions[names[0]], variant=variant, rate=rate, baseline=baseline)
    layouts = [lay_out(frame, name, chosen, variant=variant, rate=rate, baseline=baseline) for name in names]
    table = pd.DataFrame([row for layout in layouts for row in _compare(layout, level)])
    table.insert(1, "lower_is_better", [directions[str(name)] for name in table["metric"]])
    # Rounded: 1 - 0.95 is 0.05 and not 0.05000000000000004.
    table = _mark(table, round(1 - level, 12), correction, power)
    table = _say_in_tokens(table, curves or {})
    table.attrs[EXCLUDED] = tuple(dict.fromkeys(text for layout in layouts for text in layout.excluded))
    return table


@dataclass(frozen=True)
class _Pooled:
    """Noise of one metric, pooled over its variants."""

    squares: float
    dof: int
    sd: float
    """NaN where it is not known."""


def _compare(layout: Layout, level: float) -> list[dict[str, object]]:
    """Rows of one metric, before the correction for multiple comparisons."""
    values = layout.values.to_numpy(dtype=np.float64)
    squares, dof = residual_squares(values)
    # Up to rounding: runs that differ by exactly the same for every seed do not say what seeds do.
    known = dof > 0 and math.sqrt(squares) > 1e-12 * float(np.nanmax(np.abs(values)))
    noise = _Pooled(squares, dof, math.sqrt(squares / dof) if known else math.nan)
    return [_row(layout, str(label), noise, level) for label in layout.values.index[1:]]


def _row(layout: Layout, label: str, noise: _Pooled, level: float) -> dict[str, object]:
    values, base = layout.values.loc[label], layout.values.loc[layout.baseline]
    pairs = (values - base).dropna()
    crossed = (layout.cross_fitted.loc[label] - layout.cross_fitted.loc[layout.baseline]).dropna()
    difference, cross_fitted = float(pairs.mean()), float(crossed.mean())
    stderr = noise.sd * math.sqrt(2 / len(pairs)) if len(pairs) else math.nan
    reach = stderr * float(stats.t.ppf((1 + level) / 2, noise.dof)) if noise.dof > 0 else math.nan
    notes = _notes(layout, label, noise, abs(cross_fitted - difference) > stderr, cross_fitted)
    return {
        "metric": layout.metric,
        "variant": label,
        "baseline": layout.baseline,
        "mean": float(values[pairs.index].mean()),
        "baseline_mean": float(base[pairs.index].mean()),
        "difference": difference,
        "stderr": stderr,
        "low": difference - reach,
        "high": difference + reach,
        "p": _two_sided(difference, stderr, noise.dof),
        **_own_pairs(pairs.to_numpy(dtype=np.float64), level),
        "noise": noise.sd,
        "dof": noise.dof,
        "seeds": len(pairs),
        "missing": _missing(layout, label),
        "rate": layout.choices[label].rate,
        "baseline_rate": layout.choices[layout.baseline].rate,
        "rate_at_edge": layout.choices[label].at_edge,
        "cross_fitted": cross_fitted,
        **_ratios(layout, label),
        "note": "; ".join([*notes, *_scatter_note(layout, label, noise), *_size_note(layout, label)]),
    }


def _own_pairs(pairs: NDArray[np.float64], level: float) -> dict[str, float]:
    """Scatter of one variant's pairs and the paired t interval from them only."""
    count, mean = len(pairs), float(pairs.mean()) if len(pairs) else math.nan
    sd = float(pairs.std(ddof=1)) if count > 1 else math.nan
    reach = float(stats.t.ppf((1 + level) / 2, count - 1)) * sd / math.sqrt(count) if count > 1 else math.nan
    return {"pair_sd": sd, "pair_low": mean - reach, "pair_high": mean + reach}


def _two_sided(difference: float, stderr: float, dof: int) -> float:
    if math.isnan(difference) or math.isnan(stderr):
        return math.nan
    return float(2 * stats.t.sf(abs(difference) / stderr, dof))


def _missing(layout: Layout, label: str) -> str:
    """Name the seeds that one side of a pair lacks."""
    parts: list[str] = []
    for name in (label, layout.baseline):
        absent = layout.values.columns[layout.values.loc[name].isna()]
        if len(absent):
            parts.append(f"{name}: {', '.join(absent)}")
    return "; ".join(parts)


def _ratios(layout: Layout, label: str) -> dict[str, float]:
    own, base = layout.facts.loc[label], layout.facts.loc[layout.baseline]
    ratios = {
        f"{name}_ratio": float(own[name] / base[name]) if name in own else math.nan for name in ("params", "flops")
    }
    return ratios | {"tokens": float(base["tokens"])}


def _notes(layout: Layout, label: str, noise: _Pooled, unstable: bool, cross_fitted: float) -> list[str]:
    """Describe what is missing, and what the choice of rates did."""
    notes: list[str] = []
    missing = _missing(layout, label)
    if missing:
        notes.append(f"missing runs, whose pairs are not counted: {missing}")
    if noise.dof < 1:
        notes.append("no noise estimate: it needs two seeds of two variants")
    elif math.isnan(noise.sd):
        notes.append("no noise estimate: the variants differ by exactly the same for every seed")
    own, base = layout.choices[label], layout.choices[layout.baseline]
    for name, choice in ((label, own), (layout.baseline, base)):
        if choice.at_edge:
            notes.append(
                f"{name}'s best rate {choice.rate} is the smallest or largest tried: a better one may lie beyond"
            )
        notes += _choice_notes(name, choice)
    if len(own.tried) != len(base.tried):
        notes.append(f"{len(own.tried)} rates tried against {len(base.tried)}: more rates flatter the best more")
    if unstable:
        notes.append(f"{cross_fitted:+.3g} with rates chosen by the other seeds: the choice of rate decides the result")
    return notes


def _choice_notes(name: str, choice: Choice) -> list[str]:
    """Describe what the choice of one variant's rate could not use."""
    notes: list[str] = []
    if choice.unscored:
        notes.append(f"{name} has no value at rate {', '.join(map(str, choice.unscored))}")
    then = (
        "every rate diverged, and the remaining seeds choose"
        if set(choice.tried) <= set(choice.diverged)
        else "it is not chosen"
    )
    if len({*choice.tried, *choice.diverged}) > 1:
        for rate, seeds in choice.diverged.items():
            notes.append(f"{name} diverged at rate {rate} for {', '.join(seeds)}: {then}")
    if len(choice.tried) > 1 and choice.seeds < choice.known_seeds:
        notes.append(
            f"{name}'s rates are compared over {choice.seeds} of {choice.known_seeds} seeds, those that all have"
        )
    return notes


def _scatter_note(layout: Layout, label: str, noise: _Pooled) -> list[str]:
    """F test of one variant's contribution to the residuals against the others'."""
    others, others_dof = residual_squares(layout.values.drop(index=label).to_numpy(dtype=np.float64))
    own_dof = noise.dof - others_dof
    if others_dof < 1 or own_dof < 1 or others <= 0:
        return []
    ratio = (noise.squares - others) / own_dof / (others / others_dof)
    p = float(stats.f.sf(ratio, own_dof, others_dof)) * len(layout.values)
    if p >= 0.05:
        return []
    return [
        f"scatters over seeds {math.sqrt(ratio):.1f} times as much as the others: the pooled noise does not describe it"
    ]


def _size_note(layout: Layout, label: str) -> list[str]:
    ratio = float(layout.facts.loc[label, "params"] / layout.facts.loc[layout.baseline, "params"])
    if not abs(ratio - 1) > MATCHED:
        return []
    return [f"{abs(ratio - 1):.1%} {'more' if ratio > 1 else 'fewer'} parameters than the baseline"]


def _mark(table: pd.DataFrame, alpha: float, correction: str, power: float) -> pd.DataFrame:
    """Add the correction over all rows, the marks and the smallest detectable differences."""
    family = int(np.count_nonzero(~np.isnan(table["p"].to_numpy(dtype=np.float64))))
    adjusted = holm(table["p"].tolist()) if correction == "holm" else table["p"].tolist()
    single = alpha / max(family, 1) if correction == "holm" else alpha
    beyond = [p < alpha for p in adjusted]
    known = [not math.isnan(p) for p in adjusted]
    signs = zip(table["difference"], table["lower_is_better"], strict=True)
    ahead = ["variant" if (d < 0) == low else "baseline" for d, low in signs]
    marks = [("beyond" if b else "within") if k else None for b, k in zip(beyond, known, strict=True)]
    return table.assign(
        p_adjusted=adjusted,
        correction=f"holm over {family} comparisons" if correction == "holm" else "none",
        alpha=alpha,
        mark=marks,
        better=[name if b else None for name, b in zip(ahead, beyond, strict=True)],
        detectable=[
            detectable_effect(stderr, dof, alpha=single, power=power)
            for stderr, dof in zip(table["stderr"], table["dof"], strict=True)
        ],
        power=power,
    )


def _say_in_tokens(table: pd.DataFrame, curves: Mapping[str, Curve]) -> pd.DataFrame:
    """Add differences as factors of the baseline's tokens, NaN for metrics without a curve."""
    rows: list[dict[str, float]] = []
    for row in table.to_dict("records"):
        gain = -row["detectable"] if row["lower_is_better"] else row["detectable"]
        changes = {"times": row["difference"], "low": row["low"], "high": row["high"], "gain": gain}
        curve = curves.get(row["metric"])
        found = {
            k: math.nan if curve is None else compute_equivalent(c, row["tokens"], curve) for k, c in changes.items()
        }
        low, high = sorted((found["low"], found["high"]))
        rows.append({"times": found["times"], "times_low": low, "times_high": high, "detectable_times": found["gain"]})
    return pd.concat([table, pd.DataFrame(rows, index=table.index)], axis=1)
