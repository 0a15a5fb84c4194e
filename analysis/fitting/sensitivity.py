"""What the parameters would be under other settings: objectives, outliers, conventions of N and FLOPs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.fitting.minima import draw_starts, search_minima
from analysis.fitting.settings import Data, Settings
from analysis.laws.base import Array, Law

DELTAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0)
"""Huber deltas in log units, from nearly the absolute value to nearly the square."""
OUTLIER = 5.0
"""Residuals beyond this many robust standard deviations (1.4826 median absolute deviations) are outliers."""
PLAIN_FLOPS = {"k": 6.0, "n": 1.0, "d": 1.0}
"""C = 6 N D."""
BUDGETS = np.array([1e18, 1e20])
"""Where the exponent of N_opt is measured; a power law has one exponent everywhere."""


def sensitivity_table(
    settings: Settings, data: Data, params: Mapping[str, float], seed_starts: int = 50
) -> pd.DataFrame:
    """Fit again under other settings, one row each; see `Fit.sensitivity`."""
    problem = data.problem(settings)
    base = problem.law.predict(params, problem.inputs)
    rows = [_row("as fitted", settings, data, dict(params), PLAIN_FLOPS, base)]
    variants: list[tuple[str, Settings, Data]] = [
        (f"huber_log, delta = {delta:g}", dataclasses.replace(settings, objective="huber_log", delta=delta), data)
        for delta in DELTAS
        if (settings.objective != "huber_log" or delta != settings.delta) and (problem.target > 0).all()
    ]
    others = [name for name in ("mse", "mae") if name != settings.objective]
    variants += [(name, dataclasses.replace(settings, objective=name), data) for name in others]
    variants += [*_without_outliers(settings, data, params), *_other_sizes(settings, data)]
    for name, changed, rows_used in variants:
        rows.append(_row(name, changed, rows_used, _refit(changed, rows_used, seed_starts), PLAIN_FLOPS, base))
    if "flops" in data.columns and {"params", "tokens"} <= set(data.columns):
        flops = fit_flops(data.array("params"), data.array("tokens"), data.array("flops"))
        rows.append(_row("FLOPs as counted", settings, data, dict(params), flops, base))
    return pd.DataFrame(rows)


def fit_flops(params: Array, tokens: Array, flops: Array) -> dict[str, float]:
    """k, n and d of C = k N^n D^d by least squares of the logarithms; n or d is 1 where it does not vary."""
    logs = [np.log(params), np.log(tokens)]
    target = np.log(flops) - sum(log for log in logs if np.ptp(log) == 0)
    varied = [log for log in logs if np.ptp(log) > 0]
    design = np.column_stack([np.ones(len(flops)), *varied])
    found = iter(np.linalg.lstsq(design, target, rcond=None)[0].tolist())
    k = float(np.exp(next(found)))
    n, d = (float(next(found)) if np.ptp(log) > 0 else 1.0 for log in logs)
    return {"k": k, "n": n, "d": d}


def _refit(settings: Settings, data: Data, count: int) -> dict[str, float]:
    problem = data.problem(settings)
    fewer = dataclasses.replace(settings, starts=count) if isinstance(settings.starts, int) else settings
    return dict(search_minima(problem, draw_starts(problem, fewer), *settings.box()).minima[0].params)


def _without_outliers(settings: Settings, data: Data, params: Mapping[str, float]) -> list[tuple[str, Settings, Data]]:
    problem = data.problem(settings)
    if not problem.target.all():
        return []
    residuals = np.log(problem.law.predict(params, problem.inputs)) - np.log(problem.target)
    spread = 1.4826 * float(np.median(np.abs(residuals - np.median(residuals))))
    inside = np.abs(residuals) <= OUTLIER * spread
    left_out = int((~inside).sum())
    if not 0 < left_out < data.n - len(params):
        return []
    return [(f"without {left_out} outliers (beyond {OUTLIER:g} robust sd)", settings, data.where(inside))]


def _other_sizes(settings: Settings, data: Data) -> list[tuple[str, Settings, Data]]:
    if "params" not in data.columns:
        return []
    names = [name for name in ("params_all", "params_non_embedding") if name in data.columns]
    different = [name for name in names if data.columns[name] != data.columns["params"]]
    return [
        (f"N = {name}", settings, dataclasses.replace(data, columns={**data.columns, "params": data.columns[name]}))
        for name in different
    ]


def _row(
    name: str, settings: Settings, data: Data, params: dict[str, float], flops: Mapping[str, float], base: Array
) -> dict[str, object]:
    problem = data.problem(settings)
    predicted = problem.law.predict(params, problem.inputs)
    value = problem.value(
        np.where(problem.is_log, np.log(predicted), predicted) - _measured(problem.target, problem.is_log)
    )
    change = float(np.abs(predicted / base - 1).max()) if len(predicted) == len(base) else float("nan")
    exponent = _exponent(problem.law, params, flops)
    return {
        "setting": name,
        "n": data.n,
        **params,
        "objective": value,
        "largest_change": change,
        "exponent_N": exponent,
    }


def _measured(target: Array, is_log: bool) -> Array:
    return np.log(target) if is_log else target


def _exponent(law: Law, params: Mapping[str, float], flops: Mapping[str, float]) -> float:
    """Exponent a of N_opt ~ C^a; NaN for a law without an optimum."""
    try:
        size, _ = law.optimal(params, BUDGETS, flops)
    except ValueError:
        return float("nan")
    return float(np.log(size[1] / size[0]) / np.log(BUDGETS[1] / BUDGETS[0]))
