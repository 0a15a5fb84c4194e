"""Rows beside a fit's predictions, and how the figures of a fit show them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import style
from analysis.figures.points import Array, Marks, column, size_looks
from analysis.fitting import Fit
from analysis.frames import require_columns, select_loss

FITTED, HELD_OUT = "fitted", "held_out"


def fit_rows(frame: pd.DataFrame, fit: Fit) -> pd.DataFrame:
    """Rows that a fit is about, with `role`: whether it saw them (`fitted`) or not (`held_out`).

    Parameters
    ----------
    frame
        The frame that was fitted, or the study's tidy frame, from which the fit's metric is then selected.
    fit
        As `analysis.fitting.fit_law` gives it.

    Raises
    ------
    ValueError
        The frame lacks params, tokens or the fit's target, or a tidy frame lacks the fit's metric.
    """
    target = fit.settings.target
    if target not in frame and "metric" in frame:
        frame = select_loss(frame, fit.metric, size=fit.size_column)
    require_columns(frame, ("params", "tokens", target))
    held = np.zeros(len(frame), dtype=bool)
    for name, threshold in fit.settings.holdout.items():
        held |= column(frame, name) >= threshold
    return frame.assign(loss=frame[target], role=np.where(held, HELD_OUT, FITTED))


def judge(frame: pd.DataFrame, fit: Fit) -> pd.DataFrame:
    """Put a fit's prediction beside each of its rows: `predicted`, and `residual`, log(predicted / measured).

    Raises
    ------
    ValueError
        As in `fit_rows`, or the fit has no numbers.
    """
    rows = fit_rows(frame, fit)
    predicted = np.asarray(fit.predict(rows), dtype=np.float64)
    return rows.assign(predicted=predicted, residual=np.log(predicted) - np.log(column(rows, "loss")))


def predict_fresh(fit: Fit, params: Array, tokens: Array) -> Array:
    """Prediction for fresh data at N and D, in their shape."""
    flat = {"params": params.ravel(), "tokens": tokens.ravel(), "unique_tokens": tokens.ravel()}
    return np.asarray(fit.predict(flat), dtype=np.float64).reshape(params.shape)


def draw_judged(
    axes: Axes, runs: pd.DataFrame, x: str, y: str, panel: str, marks: Marks, looks: dict[float, tuple[str, str]]
) -> None:
    """Draw rows as points in their size's look, held-out ones hollow with an orange edge; note each as a mark."""
    for size, (color, marker) in looks.items():
        for role in (FITTED, HELD_OUT):
            rows = runs.loc[(runs["params"].astype(float) == size) & (runs["role"] == role)]
            hollow = role == HELD_OUT
            axes.plot(
                column(rows, x),
                column(rows, y),
                marker,
                markersize=6,
                color=color,
                markerfacecolor="white" if hollow else color,
                markeredgecolor=style.HELD_OUT if hollow else "white",
                markeredgewidth=1.4 if hollow else 0.6,
                zorder=3,
            )
            marks.add_rows(axes, rows, x=x, y=y, panel=panel, role=role)


def legend_handles(runs: pd.DataFrame) -> list[Line2D]:
    """Explain which marker is which size, and what a hollow one means."""
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="none", label=f"N = {style.count_label(size)}")
        for size, (color, marker) in size_looks(runs).items()
    ]
    if HELD_OUT in set(runs["role"]):
        hollow = Line2D([], [], color=style.HELD_OUT, marker="o", markerfacecolor="white", linestyle="none")
        hollow.set_markeredgewidth(1.4)
        hollow.set_label("held out")
        handles.append(hollow)
    return handles
