"""What is left after a fit: residuals and their quantiles, and predicted against measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis import style
from analysis.figures.judged import FITTED, HELD_OUT, draw_judged, judge, legend_handles
from analysis.figures.points import Drawing, Marks, column, register, size_looks, study_name
from analysis.fitting import Fit


@register
def diagnostics_figure(frame: pd.DataFrame, fit: Fit, *, title: str | None = None) -> Drawing:
    """Residuals of a fit against its predictions, N and D, and their quantiles against the normal's.

    A residual is log(predicted / measured), about the relative error. Held-out runs are hollow and left
    out of the quantiles. A pattern that remains in a panel is what the law does not describe; the Huber loss is
    meant for heavy tails.

    Parameters
    ----------
    frame
        The frame that was fitted, or the study's tidy frame.
    fit
        The fit that `analysis.fitting.fit_law` made of it.
    title
        Heading; None names the study.

    Returns
    -------
    figure, points
        The plotted points; `role` is fitted or held_out.

    Raises
    ------
    ValueError
        A column is missing, or the fit has no numbers.
    """
    runs = judge(frame, fit)
    marks = Marks()
    with style.house_style():
        figure = Figure(figsize=(10.2, 6.6), layout="constrained")
        panels = figure.subplots(2, 2).ravel()
        for axes, name, words in (
            (panels[0], "predicted", "Predicted"),
            (panels[1], "params", "Parameters"),
            (panels[2], "tokens", "Tokens trained on"),
        ):
            _draw_residuals(axes, runs, name, words, marks)
        _draw_quantiles(panels[3], runs, marks)
        figure.suptitle(title or f"{study_name(runs)}: residuals of {fit.law}", x=0.01, ha="left")
        figure.legend(
            handles=legend_handles(runs),
            loc="outside lower left",
            ncols=6,
            title="Error: log(predicted / measured), about the relative error; below 0 the predicted loss is too low.",
            alignment="left",
            title_fontsize=7.5,
        )
        return figure, marks.points()


@register
def predicted_figure(frame: pd.DataFrame, fit: Fit, *, title: str | None = None) -> Drawing:
    """Predicted against measured, runs that the fit did not see hollow and ringed.

    The grey band is the fit's own scatter: two standard deviations of its log residuals.

    Parameters
    ----------
    frame, fit, title
        As in `diagnostics_figure`.

    Returns
    -------
    figure, points
        The plotted points; `role` is fitted or held_out.

    Raises
    ------
    ValueError
        A column is missing, or the fit has no numbers.
    """
    runs = judge(frame, fit)
    metric, marks = fit.metric, Marks()
    with style.house_style():
        figure = Figure(figsize=(6.2, 5.6), layout="constrained")
        axes = figure.subplots()
        both = np.concatenate([column(runs, "loss"), column(runs, "predicted")])
        line = np.array([both.min() * 0.99, both.max() * 1.01])
        spread = float(np.std(column(runs.loc[runs["role"] == FITTED], "residual")))
        axes.fill_between(line, line * np.exp(-2 * spread), line * np.exp(2 * spread), color="#ececec", zorder=0)
        axes.plot(line, line, color=style.GREY, linewidth=0.9)
        draw_judged(axes, runs, "loss", "predicted", metric, marks, size_looks(runs))
        axes.set(xlabel=f"Measured: {style.metric_label(metric)}", ylabel="Predicted by the fit")
        figure.suptitle(title or f"{study_name(runs)}: predicted against measured", x=0.01, ha="left")
        figure.legend(
            handles=legend_handles(runs),
            loc="outside lower left",
            ncols=3,
            title=_held_out_text(runs),
            alignment="left",
            title_fontsize=7.5,
        )
        return figure, marks.points()


def _draw_residuals(axes: Axes, runs: pd.DataFrame, name: str, words: str, marks: Marks) -> None:
    percent = runs.assign(percent=100 * runs["residual"])
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    draw_judged(axes, percent, name, "percent", f"residual against {name}", marks, size_looks(runs))
    axes.set_xscale("log")
    style.log_axis(axes.xaxis, column(runs, name).tolist(), counts=name != "predicted")
    axes.set(xlabel=words, ylabel="Error of the prediction, %")


def _draw_quantiles(axes: Axes, runs: pd.DataFrame, marks: Marks) -> None:
    ordered = runs.loc[runs["role"] == FITTED].sort_values("residual")
    places = (np.arange(len(ordered)) + 0.5) / max(len(ordered), 1)
    ordered = ordered.assign(normal=stats.norm.ppf(places), percent=100 * ordered["residual"])
    draw_judged(axes, ordered, "normal", "percent", "quantiles", marks, size_looks(runs))
    quartiles = np.percentile(column(ordered, "percent"), [25, 75])
    slope = float(quartiles[1] - quartiles[0]) / float(stats.norm.ppf(0.75) - stats.norm.ppf(0.25))
    axes.axline((0, float(quartiles.mean())), slope=slope, color=style.GREY, linewidth=0.9)
    axes.set(
        xlabel="Normal quantile", ylabel="Error of the prediction, %", title="Quantiles (line: through the quartiles)"
    )


def _held_out_text(runs: pd.DataFrame) -> str:
    held = runs.loc[runs["role"] == HELD_OUT]
    if held.empty:
        return "Grey: two standard deviations of the residuals. No run was held out."
    error = np.expm1(column(held, "residual"))
    return (
        f"Grey: two standard deviations of the residuals. {len(held)} runs held out: error {error.mean():+.2%} on "
        f"average,\n{error[np.abs(error).argmax()]:+.2%} at most."
    )
