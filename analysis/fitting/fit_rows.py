"""A law fitted to a frame's rows, as a record with its diagnostics.

rows = select_loss(load_study("token_scaling"), "heldout/prose/bits_per_byte")
fit = fit_law(Chinchilla(), rows, holdout=900_000, bootstrap=1000)
print(fit.describe(), fit.interval(0.95), fit.sensitivity())
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from analysis.fitting.fit_record import Fit
from analysis.fitting.flags import bootstrap_flags, flags_of, unidentifiable
from analysis.fitting.holdout import HeldOut, is_held_out, judge_holdout
from analysis.fitting.intervals import bootstrap_thetas
from analysis.fitting.likelihoods import compare_laws
from analysis.fitting.minima import Minimum, draw_starts, search_minima
from analysis.fitting.settings import DEFAULT_STARTS, Data, Settings, merge_fixed, read_data
from analysis.frames import EXCLUDED, annealed_rows, check_frame, refuse_mixed_metrics, require_columns
from analysis.laws.base import Array, Law

__all__ = ["Fit", "HeldOut", "Minimum", "compare_laws", "fit_law", "replay"]

WEIGHT = "weights"
GROUP = "trajectory"


def fit_law(
    law: Law,
    frame: pd.DataFrame,
    *,
    target: str = "loss",
    objective: str = "huber_log",
    delta: float = 1e-3,
    fixed: Mapping[str, float] | None = None,
    starts: int | Sequence[Mapping[str, float]] | None = None,
    holdout: float | Mapping[str, float] | None = None,
    bootstrap: int = 0,
    group: str = GROUP,
    weights: str | Sequence[float] | None = None,
    seed: int = 0,
) -> Fit:
    """Fit a law to a frame's rows.

    Minimises sum_i w_i Huber_delta(log L(x_i) - log L_i) (`huber_log`), or the mean square (`mse`) or mean absolute
    value (`mae`) of L(x_i) - L_i, by quasi-Newton steps with analytic gradients from many starts at once
    (`analysis.fitting.minimise`), each distinct minimum sharpened by SciPy's L-BFGS-B.

    Parameters
    ----------
    law
        Of `analysis.laws`, such as `Chinchilla()`.
    frame
        One row per run, n rows; `analysis.frames.select_loss` makes one of a study. Columns: the law's inputs (`params`
        N, `tokens` D, `unique_tokens`), the target and, where known, the group.
    target
        Column to fit, in any unit above 0: `loss` for Chinchilla's law, `error` or `accuracy` (shares of 1) for tasks,
        which may be 0 with `mse` and `mae`.
    objective
        `huber_log`, `mse` or `mae`.
    delta
        Huber's delta in log units (relative error); 1e-3 is Hoffmann et al.'s.
    fixed
        Parameters held at a value, by name; intervals treat them as known exactly.
    starts
        How many starting points to draw (200), or the points themselves, numbers by name.
    holdout
        Rows to predict instead of fitting: those with `params` of at least this, or thresholds by column.
    bootstrap
        Replicates for intervals; 0 for none.
    group
        Column whose equal rows are drawn together: cooldowns off one trunk share its trajectory. Rows where it is
        unknown (NaN), and all rows where there is no such column, count as independent.
    weights
        Of the rows, relative to their mean: a column's name or n numbers; None is 1 each.
    seed
        Of starts and bootstrap.

    Returns
    -------
    Fit
        Without numbers, and flagged "not identifiable", where too few rows or distinct inputs remain.

    Raises
    ------
    ValueError
        A column is missing, holds no numbers or a value not above 0; the frame mixes studies or metrics or has one run;
        an argument is not one of its choices; the holdout leaves or takes nothing. Rows with NaN, duplicates, and, by
        the column `annealed`, rows not cooled down (unless the law predicts from the loss) are left out and named in
        `Fit.excluded`.

    References
    ----------
    Hoffmann et al. 2022, eq. 3 (objective); Besiroglu et al. 2024, "Chinchilla Scaling: A Replication Attempt"
    (tolerance, bootstrap); Choshen et al. 2024, "A Hitchhiker's Guide to Scaling Law Estimation" (held out by scale).
    """
    settings = Settings(
        law=law.name,
        law_settings=law.settings(),
        target=target,
        metric=str(frame.attrs.get("metric", target)),
        size=str(frame.attrs.get("size", "params")),
        objective=objective,
        delta=float(delta),
        fixed=merge_fixed(fixed),
        starts=_starts(starts),
        holdout=_thresholds(holdout),
        bootstrap=int(bootstrap),
        group=group,
        seed=int(seed),
    )
    if group != GROUP and group not in frame:
        raise ValueError(f"group={group!r} is not a column of the frame")
    refuse_mixed_metrics(frame)
    require_columns(frame, (*law.inputs, target))
    weighted = _cooled(frame.assign(**{WEIGHT: _weights(frame, weights)}), law)
    rows, excluded = _check(weighted, law, target, objective)
    data = read_data(rows, law, target, group, rows[WEIGHT].to_numpy(dtype=np.float64))
    return _solve(settings, data, excluded)


def replay(fit: Fit) -> Fit:
    """Repeat a fit from its own record; on the same machine and libraries the result is identical bit for bit.

    Examples
    --------
    `replay(Fit.load(path)) == Fit.load(path)`
    """
    names = fit.data.columns
    columns = {name: (*fit.data.columns[name], *fit.unseen.columns.get(name, ())) for name in names}
    groups, weights = (*fit.data.groups, *fit.unseen.groups), (*fit.data.weights, *fit.unseen.weights)
    return _solve(fit.settings, Data(columns, groups, weights), fit.excluded)


def _solve(settings: Settings, data: Data, excluded: tuple[str, ...]) -> Fit:
    """Fit checked rows."""
    held = is_held_out(data, settings.holdout)
    seen, unseen = data.where(~held), data.where(held)
    law = settings.make_law()
    empty = Fit(settings, seen, unseen, excluded, {}, (), math.nan, math.nan, (), {}, None, ())
    reason = unidentifiable(law, seen, settings.fixed, unseen.n)
    if reason:
        return dataclasses.replace(empty, flags=(reason,))
    # Two BLAS threads on matrices of five rows wait for each other: 29 s per fit on a busy machine against 2 s.
    with threadpool_limits(1):
        fit = _minimum(empty)
    if not unseen.n:
        return fit
    inputs = {name: unseen.array(name) for name in law.inputs}
    return dataclasses.replace(fit, holdout=judge_holdout(settings, seen, unseen, law.predict(fit.params, inputs)))


def _minimum(empty: Fit) -> Fit:
    settings, data = empty.settings, empty.data
    problem, (lower, upper) = data.problem(settings), settings.box()
    search = search_minima(problem, draw_starts(problem, settings), lower, upper)
    flags = flags_of(problem, search, data, lower, upper)
    replicates: tuple[tuple[float, ...], ...] = ()
    if settings.bootstrap:
        drawn = bootstrap_thetas(problem, data, search.theta, lower, upper, settings.bootstrap, settings.seed)
        flags = (*flags, *bootstrap_flags(problem.law, drawn, lower, upper, data))
        replicates = tuple(tuple(row) for row in drawn.tolist())
    return dataclasses.replace(
        empty,
        params=dict(search.minima[0].params),
        flags=flags,
        objective=search.minima[0].objective,
        gradient_norm=search.gradient_norm,
        minima=search.minima,
        spread=search.spread,
        replicates=replicates,
    )


def _check(frame: pd.DataFrame, law: Law, target: str, objective: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows fit for the law; accuracies and errors of 0 only where no logarithm is taken of them."""
    has_zeros = objective != "huber_log" and "loss" in law.inputs
    rows, excluded = check_frame(frame, (*law.inputs, *(() if has_zeros else (target,)), WEIGHT))
    if not has_zeros:
        return rows, excluded
    rows, excluded = check_frame(rows, (target,), positive=False)
    values = rows[target].to_numpy(dtype=np.float64)
    least, most = float(values.min()), float(values.max())
    if least < 0 or most == 0:
        raise ValueError(
            f"{target} lies between {least:g} and {most:g}: give values between 0 and 1 that are not all 0"
        )
    return rows, excluded


def _cooled(frame: pd.DataFrame, law: Law) -> pd.DataFrame:
    """Select cooled-down rows for a law of size or tokens; a law of the loss takes all rows."""
    if "loss" in law.inputs:
        return frame
    rows, uncooled = annealed_rows(frame)
    result = rows.copy()
    result.attrs = {**frame.attrs, EXCLUDED: (*frame.attrs.get(EXCLUDED, ()), *uncooled)}
    return result


def _starts(starts: int | Sequence[Mapping[str, float]] | None) -> int | tuple[dict[str, float], ...]:
    if starts is None:
        return DEFAULT_STARTS
    return int(starts) if isinstance(starts, (int, np.integer)) else tuple(merge_fixed(start) for start in starts)


def _thresholds(holdout: float | Mapping[str, float] | None) -> dict[str, float]:
    if holdout is None:
        return {}
    return merge_fixed(holdout) if isinstance(holdout, Mapping) else {"params": float(holdout)}


def _weights(frame: pd.DataFrame, weights: str | Sequence[float] | None) -> Array:
    if weights is None:
        return np.ones(len(frame))
    if isinstance(weights, str):
        if weights not in frame:
            raise ValueError(f"weights={weights!r} is not a column of the frame")
        return frame[weights].to_numpy(dtype=np.float64)
    if len(weights) != len(frame):
        raise ValueError(f"weights has {len(weights)} numbers for {len(frame)} rows")
    return np.asarray(weights, dtype=np.float64)
