"""Repeated data in a report: the decay of repeated tokens, and how far it depends on the rows fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import pandas as pd

from analysis import style
from analysis.figures.repetition import repetition_figure
from analysis.fitting import Fit, fit_law
from analysis.frames import EXCLUDED, select_loss, upto_lowest
from analysis.laws import DataConstrained
from analysis.laws.loss_laws import TINY
from analysis.overrides import override_names, refuse_pooled
from analysis.report.study_results import BOOTSTRAP, Results, file_name

EPOCHS = (16, 8, 4)
"""Cuts at which the decay is fitted again."""
MISFIT = ("the law does not fit", "in ", "not identifiable")
"""Beginning of the flags that a law does not describe its rows."""
ROUNDED = 1.05
"""Epochs count as whole within this factor: a budget ends with its last whole batch."""


def add_repetition(results: Results, frame: pd.DataFrame, bits: Sequence[str]) -> None:
    """Loss against epochs, with the decay of repeated tokens fitted to all sizes together and to each separately.

    Fits take each trajectory up to its lowest loss: that more epochs make it worse is in the figure, but in no law.
    A table gives the results of other cuts.
    """
    for metric in bits:
        rows, words = select_loss(frame, metric), style.metric_label(metric)
        try:
            _refuse_other_repetition(rows)
        except ValueError as error:
            results.notes.append(f"Repeated data: {words} is neither fitted nor drawn: {error}")
            continue
        decays: dict[float, float] = {}
        sizes = sorted({float(size) for size in rows["params"]})
        if len(sizes) > 1:
            results.fit(
                file_name("data_constrained", metric), f"{words}, all sizes", partial(_fit_all, upto_lowest(rows))
            )
        for size in sizes:
            own = rows.loc[rows["params"] == size]
            own.attrs = rows.attrs
            label = style.count_label(size)
            name = f"{file_name('data_constrained', metric)}-{label}"
            fit = results.fit(name, f"{words}, N = {label}", partial(fit_decay, upto_lowest(own)))
            if fit is not None:
                decays[size] = fit.params["R_D"]
        cuts = partial(decay_by_cut, rows)
        note = "One law, fitted to different rows: results that differ beyond their intervals depend on the cut."
        results.table(file_name("decay_by_cut", metric), f"R_D by the rows that are fitted: {words}", cuts, note)
        caption = "Loss against epochs, and the fresh tokens that would give the same loss."
        make = partial(repetition_figure, rows, decay=decays)
        results.draw(file_name("repetition", metric), f"Repeated data: {words}", caption, make)


def decay_by_cut(rows: pd.DataFrame, *, epochs: Sequence[float] = EPOCHS, bootstrap: int = BOOTSTRAP) -> pd.DataFrame:
    """R_D of L(N, D, U) fitted to all rows, to those up to each trajectory's lowest loss, and up to some epochs.

    Parameters
    ----------
    rows
        As `analysis.frames.select_loss` gives them.
    epochs
        Cuts, in epochs over the distinct tokens.
    bootstrap
        Replicates of each fit.

    Returns
    -------
    DataFrame
        One row per cut: rows (what is fitted), points, R_D in repetitions, low and high (95%, bootstrap by trajectory),
        and misfit: the fit's own words where the law does not describe the rows.
    """
    one_size = len(set(rows["params"])) == 1
    seen = (rows["tokens"] / rows["unique_tokens"]).to_numpy(dtype=float)
    cuts = {"all": rows, "up to the lowest loss": upto_lowest(rows)}
    cuts |= {f"up to {limit:g} epochs": rows.loc[seen <= limit * ROUNDED] for limit in epochs}
    found: list[dict[str, object]] = []
    for name, part in cuts.items():
        fit = (fit_decay if one_size else _fit_all)(part, bootstrap)
        low, high = fit.interval(0.95)["R_D"] if fit.params else (math.nan, math.nan)
        misfit = [flag for flag in fit.flags if flag.startswith(MISFIT)]
        row = {"rows": name, "points": fit.n, "R_D": fit.params.get("R_D", math.nan), "low": low, "high": high}
        found.append({**row, "misfit": "; ".join(misfit)})
    table = pd.DataFrame(found)
    table.attrs[EXCLUDED] = tuple(rows.attrs.get(EXCLUDED, ()))
    return table


def _fit_all(rows: pd.DataFrame, bootstrap: int = BOOTSTRAP) -> Fit:
    return fit_law(DataConstrained(excess_params=False), rows, bootstrap=bootstrap)


def _refuse_other_repetition(rows: pd.DataFrame) -> None:
    """Refuse runs of one size that differ by more than how often they saw their data."""
    repeating = [name for name in override_names(rows) if name.endswith(("unique_tokens", "max_epochs"))]
    for _, own in rows.groupby("params"):
        refuse_pooled(own, repeating, "repeated data")


def fit_decay(rows: pd.DataFrame, bootstrap: int = BOOTSTRAP) -> Fit:
    """Fit L(D, U) = E + B / D'^beta, D' = U (1 + R_D (1 - exp(-(D/U - 1) / R_D))), to the runs of one size.

    The term in N is fixed near zero: at one size it is part of E.

    Parameters
    ----------
    rows
        As `analysis.frames.select_loss` gives them, of one size.
    bootstrap
        Replicates for intervals.
    """
    return fit_law(
        DataConstrained(excess_params=False), rows, fixed={"A": 1.001 * TINY, "alpha": 0.0}, bootstrap=bootstrap
    )
