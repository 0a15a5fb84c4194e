"""Loss against the similarity from which on near duplicates were taken out of the training text."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.deduplication import Search, scored_rows, standard_error
from analysis.figures.points import (
    Drawing,
    Marks,
    column,
    direction,
    group_by,
    model_looks,
    model_sizes,
    register,
    study_name,
)


@register
def duplicates_figure(frame: pd.DataFrame, metric: str, *, title: str | None = None) -> Drawing:
    """One metric against the threshold of the search for near duplicates, a panel per budget and a line per model.

    At the left near duplicates are kept. A mark is the mean over seeds with its standard error; dots are the runs.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of a study that names several searches (`analysis.deduplication.NEAR`).
    metric
        Its name.
    title
        Heading; None names the study.

    Returns
    -------
    figure, points
        The plotted points, one mark per mean with the runs behind it; `role` is cooled_down.

    Raises
    ------
    ValueError
        As `analysis.deduplication.scored_rows`.
    """
    rows = scored_rows(frame, metric)
    budgets = sorted({int(tokens) for tokens in rows["tokens"]})
    found: dict[float, Search] = {search.threshold: search for search in rows["search"]}
    marks = Marks()
    with style.house_style():
        figure = Figure(figsize=(1.6 + 4.2 * len(budgets), 4.4), layout="constrained")
        grid = figure.subplots(1, len(budgets), squeeze=False, sharey=True)[0]
        for axes, budget in zip(grid, budgets, strict=True):
            here = rows.loc[rows["tokens"] == budget]
            panel = f"{style.count_label(budget)} tokens trained on"
            _draw_panel(axes, here, rows, panel, marks)
            _thresholds(axes, found)
            axes.set_title(panel)
        grid[0].set_ylabel(f"{style.metric_label(metric)} {direction(metric)}")
        figure.suptitle(title or f"{study_name(frame)}: near duplicates taken out", x=0.01, ha="left")
        figure.legend(
            handles=_handles(rows),
            loc="outside lower left",
            ncols=4,
            title="Mean over seeds and its standard error; dots are runs. In brackets: bands and rows of the search.",
            alignment="left",
            title_fontsize=7.5,
        )
        return figure, marks.points()


def _draw_panel(axes: Axes, here: pd.DataFrame, rows: pd.DataFrame, panel: str, marks: Marks) -> None:
    for model, (color, marker) in model_looks(rows).items():
        line = here.loc[here["model"] == model]
        if line.empty:
            continue
        axes.plot(line["threshold"], line["value"], ".", color=color, alpha=0.4, markersize=5, zorder=2)
        groups = group_by(line, "threshold")
        errors = [standard_error(column(group.rows, "value")) for group in groups]
        axes.errorbar(
            [group.x for group in groups],
            [group.mean for group in groups],
            yerr=errors,
            color=color,
            marker=marker,
            markersize=6,
            markeredgecolor="white",
            capsize=3,
            zorder=3,
        )
        for group in groups:
            marks.add(axes, group.x, group.mean, group.rows, panel=panel, role="cooled_down")


def _thresholds(axes: Axes, found: dict[float, Search]) -> None:
    """Label the thresholds, the corpus with its near duplicates at the left."""
    places = sorted(found, reverse=True)
    labels = [found[place].label.replace(" (", "\n(") for place in places]
    axes.set_xticks(places, labels, fontsize=7.5)
    reach = 0.08 * (places[0] - places[-1]) or 0.05
    axes.set_xlim(places[0] + reach, places[-1] - reach)
    axes.set_xlabel("Jaccard similarity from which on near duplicates go")


def _handles(rows: pd.DataFrame) -> list[Line2D]:
    sizes = model_sizes(rows)
    return [
        Line2D([], [], color=color, marker=marker, markersize=5.5, label=f"{model}: {style.count_label(sizes[model])}")
        for model, (color, marker) in model_looks(rows).items()
    ]
