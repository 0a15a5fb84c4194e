"""Loss against learning rate under each parametrisation, and how the best rate drifts with size."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.columns import truths
from analysis.figures.points import (
    Drawing,
    Marks,
    column,
    direction,
    draw_groups,
    group_by,
    model_looks,
    model_sizes,
    register,
    study_name,
)
from analysis.overrides import base_models, override_of
from analysis.rate_drift import PARAMETRISATION, rate_drift, transferred_rates
from analysis.rates import RATE

Look = tuple[str, str]


@register
def transfer_figure(
    frame: pd.DataFrame,
    metric: str,
    *,
    rate: str = RATE,
    noise: float | None = None,
    draws: int = 1000,
    title: str | None = None,
) -> Drawing:
    """One metric against the learning rate, a panel a parametrisation and a line a size; last, the best rates by size.

    A ring is a line's best rate, the lowest point of the parabola through the lowest loss and its neighbours; a line
    whose lowest loss is at its first or last rate has none. Bars are 95% intervals under redrawn noise between seeds,
    where that is known.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study whose points name the rate and the parametrisation.
    metric
        The loss, such as `heldout/prose/bits_per_byte`.
    rate
        Override that was swept.
    noise, draws
        As `analysis.rate_drift.transferred_rates` takes them.
    title
        Heading; None names the study.

    Returns
    -------
    figure, points
        The plotted points; `role` is cooled_down (a mean of seeds), or best, whose sources are its line's runs.

    Raises
    ------
    ValueError
        As `transferred_rates`.
    """
    best = transferred_rates(frame, metric, rate=rate, noise=noise, draws=draws)
    rows = frame.loc[(frame["metric"] == metric) & truths(frame, "annealed") & frame["value"].notna()]
    runs = rows.assign(
        model=base_models(rows), rate=override_of(rows, rate).astype(float), panel=override_of(rows, PARAMETRISATION)
    )
    names, marks = list(dict.fromkeys(best["parametrisation"])), Marks()
    looks, categories = model_looks(runs), style.category_looks(names)
    with style.house_style():
        figure = Figure(figsize=(1.2 + 3.6 * (len(names) + 1), 4.4), layout="constrained")
        *panels, last = figure.subplots(1, len(names) + 1)
        for axes, name in zip(panels, names, strict=True):
            axes.sharey(panels[0])
            _draw_losses(axes, runs.loc[runs["panel"] == name], best.loc[best["parametrisation"] == name], looks, marks)
            axes.set(title=name, xlabel=rate)
        for name, (color, marker, dash) in categories.items():
            of = best.loc[best["parametrisation"] == name]
            _draw_drift(last, runs.loc[runs["panel"] == name], of, (color, marker), dash, marks)
        _finish_drift(last, runs)
        panels[0].set_ylabel(f"{style.metric_label(metric)} {direction(metric)}")
        figure.suptitle(title or f"{study_name(frame)}: best learning rate against size", x=0.01, ha="left")
        handles, labels = panels[0].get_legend_handles_labels()
        drifts, words = last.get_legend_handles_labels()
        figure.legend(
            [*handles, *drifts],
            [*labels, *words],
            loc="outside lower left",
            ncols=3,
            title="Ringed: the lowest point of a parabola in log rate. Right: these, with 95% intervals by seed noise.",
            alignment="left",
            title_fontsize=7.5,
        )
        return figure, marks.points()


def _draw_losses(axes: Axes, runs: pd.DataFrame, best: pd.DataFrame, looks: dict[str, Look], marks: Marks) -> None:
    places, sizes = best.set_index("model"), model_sizes(runs)
    panel = str(runs["panel"].iloc[0])
    for model, (color, marker) in looks.items():
        line = runs.loc[runs["model"] == model]
        if line.empty:
            continue
        groups, label = group_by(line, "rate"), f"{model}: {style.count_label(sizes[model])}"
        draw_groups(axes, groups, color, marker=marker, markersize=5.5, markeredgecolor="white", label=label)
        for group in groups:
            marks.add(axes, group.x, group.mean, group.rows, panel=panel, role="cooled_down")
        place = float(places.at[model, "best_rate"]), float(places.at[model, "loss"])
        if not np.isnan(place[0]):
            axes.scatter([place[0]], [place[1]], s=121, facecolors="none", edgecolors=color, zorder=4)
            marks.add(axes, *place, line, panel=panel, role="best")
    axes.set_xscale("log")
    style.log_axis(axes.xaxis, sorted(set(column(runs, "rate").tolist())))


def _draw_drift(axes: Axes, runs: pd.DataFrame, best: pd.DataFrame, look: Look, dash: object, marks: Marks) -> None:
    known = best.loc[best["best_rate"].notna()]
    if known.empty:
        return
    (color, marker), name = look, str(best["parametrisation"].iloc[0])
    rates, spread = column(known, "best_rate"), np.nan_to_num(1.96 * column(known, "spread"))
    bars = np.stack([rates - rates * np.exp(-spread), rates * np.exp(spread) - rates])
    shown = bars if spread.any() else None
    exponent = float(rate_drift(best)["exponent"].iloc[0])
    label = name if np.isnan(exponent) else f"{name}: best rate ~ N^{exponent:.2f}"
    axes.errorbar(
        column(known, "params"), rates, yerr=shown, color=color, marker=marker, linestyle=dash, capsize=2.5, label=label
    )
    for row in known.to_dict("records"):
        line = runs.loc[runs["model"] == row["model"]]
        marks.add(axes, float(row["params"]), float(row["best_rate"]), line, panel="best rate", role="best")


def _finish_drift(axes: Axes, runs: pd.DataFrame) -> None:
    """Name the models at their sizes."""
    sizes = model_sizes(runs)
    axes.set(xscale="log", yscale="log", title="Best rate", xlabel="Model, by parameters N")
    style.log_axis(axes.xaxis, sorted(sizes.values()))
    axes.set_xticks(list(sizes.values()), list(sizes))
    rates = column(runs, "rate")
    axes.set_ylim(rates.min() / 1.2, rates.max() * 1.2)
    style.log_axis(axes.yaxis, sorted(set(rates.tolist())))
