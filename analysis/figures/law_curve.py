"""A fitted law over the points it was fitted to."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.figures.judged import draw_judged, fit_rows, judge, legend_handles, predict_fresh
from analysis.figures.points import Drawing, Marks, column, direction, register, size_looks, study_name
from analysis.fitting import Fit

LINE_CHARACTERS = 150
"""What the caption is wrapped at."""


@register
def fit_figure(frame: pd.DataFrame, fit: Fit) -> Drawing:
    """Measured points with the fitted law, one curve per size, and the relative error of each point.

    Runs that the fit did not see are hollow, their size's curve dashed. Curves are those of fresh data. With
    bootstrap replicates a band shows the curve's 95% interval. Without an identifiable fit only the points are drawn
    and the figure says why.

    Parameters
    ----------
    frame
        The frame that was fitted, or the study's tidy frame.
    fit
        The fit that `analysis.fitting.fit_law` made of it.

    Returns
    -------
    figure, points
        The plotted points; `role` is fitted or held_out.

    Raises
    ------
    ValueError
        The frame lacks a column, or the fit's metric.
    """
    rows = judge(frame, fit) if fit.identifiable else fit_rows(frame, fit)
    marks = Marks()
    with style.house_style():
        figure = Figure(figsize=(9.6, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
        _draw_law(left, rows, fit, marks)
        _draw_errors(right, rows, fit, marks)
        figure.suptitle(f"{study_name(rows)}: {style.metric_label(fit.metric)}", x=0.01, ha="left")
        figure.legend(
            handles=legend_handles(rows),
            loc="outside lower left",
            ncols=6,
            title=_wrapped(fit.describe()),
            alignment="left",
            title_fontsize=7.5,
        )
        return figure, marks.points()


def _draw_law(axes: Axes, rows: pd.DataFrame, fit: Fit, marks: Marks) -> None:
    tokens = column(rows, "tokens")
    spread = np.geomspace(tokens.min() / 1.1, tokens.max() * 1.1, 200)
    for size, (color, _) in size_looks(rows).items():
        if fit.identifiable:
            _draw_curve(axes, fit, size, spread, color)
    draw_judged(axes, rows, "tokens", "loss", fit.metric, marks, size_looks(rows))
    style.token_axis(axes, tokens.tolist())
    axes.set_ylabel(f"{style.metric_label(fit.metric).split(',')[0]} {direction(fit.metric)}")
    axes.set_title("Fitted law" if fit.identifiable else "No fit: not identifiable")


def _draw_curve(axes: Axes, fit: Fit, size: float, tokens: np.ndarray[tuple[int]], color: str) -> None:
    params = np.full(len(tokens), size)
    dash = "-" if not fit.sizes or size in fit.sizes else "--"
    axes.plot(tokens, predict_fresh(fit, params, tokens), color=color, linewidth=1.2, linestyle=dash, zorder=2)
    if fit.replicates:
        inputs = {"params": params, "tokens": tokens, "unique_tokens": tokens}
        _, low, high = fit.predict(inputs, 0.95)
        axes.fill_between(tokens, low, high, color=color, alpha=0.15, linewidth=0, zorder=1)


def _draw_errors(axes: Axes, rows: pd.DataFrame, fit: Fit, marks: Marks) -> None:
    if not fit.identifiable:
        axes.set_axis_off()
        return
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    errors = rows.assign(error=100 * np.expm1(column(rows, "residual")))
    draw_judged(axes, errors, "tokens", "error", "relative error", marks, size_looks(rows))
    style.token_axis(axes, column(rows, "tokens").tolist())
    axes.set_title("Predicted against measured")
    axes.set_ylabel("Relative error of the prediction, %")


def _wrapped(text: str) -> str:
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, LINE_CHARACTERS))
