"""A fitted law over the points it was fitted to."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# (pandas and matplotlib are typed in part)
from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.figures.points import Drawing, Marks, column, model_looks, register, study_name
from analysis.fit import Fit, select_runs


@register
def fit_figure(frame: pd.DataFrame, fit: Fit) -> Drawing:
    """Cooled-down points with the fitted law, and the relative error of each beside it.

    Runs that the fit did not see are drawn in another colour. Without an identifiable fit the points stand
    alone and the figure says why.

    Parameters
    ----------
    frame
        The frame that was fitted.
    fit
        What `analysis.fit.fit_law` made of it.

    Returns
    -------
    figure, points
        The plotted points; `role` is fitted or held_out.

    Raises
    ------
    ValueError
        The fit's metric is unknown to the frame.
    """
    runs = select_runs(frame, fit.target)
    role = np.where(runs[fit.size_column].isin(fit.sizes), "fitted", "held_out")
    points = runs.assign(role=role)
    marks = Marks()
    with style.house_style():
        figure = Figure(figsize=(9.6, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
        _draw_law(left, points, fit)
        _draw_errors(right, points, fit)
        for kind, rows in points.groupby("role"):
            marks.add_rows(left, rows, x="tokens", y="value", panel=fit.target, role=str(kind))
        figure.suptitle(f"{study_name(frame)}: {style.metric_label(fit.target)}", x=0.01, ha="left")
        figure.text(0.01, -0.01, fit.describe(), ha="left", va="top", fontsize=8, color=style.GREY)
    return figure, marks.points()


def _draw_law(axes: Axes, points: pd.DataFrame, fit: Fit) -> None:
    looks = model_looks(points)
    tokens = column(points, "tokens")
    spread = np.geomspace(tokens.min() / 1.1, tokens.max() * 1.1, 200)
    for model, runs in points.groupby("model", sort=False):
        color, marker = looks[str(model)]
        held_out = set(runs["role"]) == {"held_out"}
        size = float(runs[fit.size_column].iloc[0])
        if fit.identifiable:
            curve = fit.predict(np.full_like(spread, size), spread)
            axes.plot(spread, curve, color=color, linewidth=1.2, linestyle="--" if held_out else "-", zorder=2)
        axes.errorbar(
            runs["tokens"],
            runs["value"],
            yerr=column(runs, "stderr"),
            color=color,
            marker=marker,
            markersize=6,
            markeredgecolor=style.HELD_OUT if held_out else "white",
            markeredgewidth=1.3 if held_out else 0.6,
            linestyle="none",
            elinewidth=1.0,
            label=f"{model}, N = {style.count_label(size)}" + (" (held out)" if held_out else ""),
            zorder=3,
        )
    style.token_axis(axes, points["tokens"].tolist())
    axes.set_ylabel(style.metric_label(fit.target))
    axes.set_title("Fitted law" if fit.identifiable else "No fit: not identifiable")
    axes.legend()


def _draw_errors(axes: Axes, points: pd.DataFrame, fit: Fit) -> None:
    if not fit.identifiable:
        axes.set_axis_off()
        return
    looks = model_looks(points)
    for model, runs in points.groupby("model", sort=False):
        color, marker = looks[str(model)]
        predicted = fit.predict(column(runs, fit.size_column), column(runs, "tokens"))
        held_out = set(runs["role"]) == {"held_out"}
        edge = style.HELD_OUT if held_out else "white"
        error = 100 * (predicted / column(runs, "value") - 1)
        axes.plot(runs["tokens"], error, marker, color=color, markersize=6, markeredgecolor=edge, markeredgewidth=1.2)
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    style.token_axis(axes, points["tokens"].tolist())
    axes.set_title("Predicted against measured")
    axes.set_ylabel("Relative error, % (orange edge: held out)")
