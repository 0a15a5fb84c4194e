"""Compute-optimal allocation by a fitted law, with intervals over its replicates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.laws.base import Array, Law

NAMES = ("params", "tokens", "tokens_per_param", "loss")
"""Columns of an optimum."""


def optimal_table(
    law: Law,
    params: Mapping[str, float],
    replicates: Sequence[Mapping[str, float]],
    budgets: Array,
    flops: Mapping[str, float],
    quantiles: Callable[[Array], list[Array]],
) -> pd.DataFrame:
    """Allocate each budget, by the fit and by every replicate; see `analysis.fitting.fit_record.Fit.optimal`.

    Raises
    ------
    ValueError
        The law, with the fit's parameters, has no optimum.
    """
    best = _allocate(law, params, budgets, flops)
    drawn = [_allocate_or_nan(law, row, budgets, flops) for row in replicates]
    unknown = [bool(np.isnan(one["params"]).any()) for one in drawn]
    columns: dict[str, Array | float] = {"compute": budgets}
    for name in NAMES:
        low, high = np.full((2, len(budgets)), np.nan)
        if drawn:
            low, high = quantiles(np.array([one[name] for one in drawn]))
        columns |= {name: best[name], f"{name}_low": np.maximum(low, 0.0), f"{name}_high": high}
    columns["without_optimum"] = float(np.mean(unknown)) if drawn else np.nan
    return pd.DataFrame(columns)


def _allocate(law: Law, params: Mapping[str, float], budgets: Array, flops: Mapping[str, float]) -> dict[str, Array]:
    size, tokens = law.optimal(params, budgets, flops)
    loss = law.predict(params, {"params": size, "tokens": tokens, "unique_tokens": tokens})
    return {"params": size, "tokens": tokens, "tokens_per_param": tokens / size, "loss": loss}


def _allocate_or_nan(
    law: Law, params: Mapping[str, float], budgets: Array, flops: Mapping[str, float]
) -> dict[str, Array]:
    try:
        # An exponent close to 0 puts the optimum beyond the largest float.
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            found = _allocate(law, params, budgets, flops)
    except ValueError:
        return dict.fromkeys(NAMES, np.full(len(budgets), np.nan))
    known = np.isfinite([*found.values()]).all(axis=0)
    return {name: np.where(known, values, np.nan) for name, values in found.items()}
