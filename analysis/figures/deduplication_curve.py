"""Loss against the similarity from which on near duplicates were taken out of the training text."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import style
from analysis.deduplication import Search, scored_rows, select_search, standard_error
from analysis.figures.metric_panels import finish_panels, make_panels, model_handles
from analysis.figures.points import Drawing, Marks, column, model_looks, register, study_name


@register
def duplicates_figure(frame: pd.DataFrame, metric: str, *, title: str | None = None) -> Drawing:
    """One metric against the threshold of the search for near duplicates, a panel per budget and a line per model.

    At the left near duplicates are kept. A mark is the mean over seeds of one search, with its standard error; dots are the
    runs. Similarity is of shingles, so that searches for shingles of other lengths have lines of their own, and of searches
    with one threshold each mark is named.

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
    searches = sorted(set(rows["search"]), key=lambda one: one.order)
    marks = Marks()
    with style.house_style():
        figure, grid = make_panels(len(budgets), width=4.2, margin=1.6)
        for axes, budget in zip(grid, budgets, strict=True):
            panel = f"{style.count_label(budget)} tokens trained on"
            _draw_panel(axes, rows.loc[rows["tokens"] == budget], rows, panel, marks)
            _thresholds(axes, searches)
            axes.set_title(panel)
        handles = [*model_handles(rows), *_shingle_handles(searches)]
        note = "Mean over seeds and its standard error; dots are runs. In brackets: bands and rows of the search."
        finish_panels(figure, metric, title or f"{study_name(frame)}: near duplicates taken out", handles, note)
        return figure, marks.points()


def _draw_panel(axes: Axes, here: pd.DataFrame, rows: pd.DataFrame, panel: str, marks: Marks) -> None:
    dashes = _dashes(rows["search"])
    for model, (color, marker) in model_looks(rows).items():
        line = here.loc[here["model"] == model]
        found = sorted(set(line["search"]), key=lambda one: one.order)
        groups = [select_search(line, search) for search in found]
        means = [float(column(group, "value").mean()) for group in groups]
        if not groups:
            continue
        axes.plot(line["threshold"], line["value"], ".", color=color, alpha=0.4, markersize=5, zorder=2)
        for ngram, dash in dashes.items():
            ends = [(s.threshold, y) for s, y in zip(found, means, strict=True) if s.is_kept or s.ngram == ngram]
            axes.plot(*zip(*ends, strict=True), color=color, linestyle=dash, zorder=3)
        axes.errorbar(
            [search.threshold for search in found],
            means,
            yerr=[standard_error(column(group, "value")) for group in groups],
            color=color,
            linestyle="none",
            marker=marker,
            markersize=6,
            markeredgecolor="white",
            capsize=3,
            zorder=3,
        )
        tied = {search for place in _places(set(rows["search"])) if len(place) > 1 for search in place}
        for search, mean, group in zip(found, means, groups, strict=True):
            marks.add(axes, search.threshold, mean, group, panel=panel, role="cooled_down")
            if search in tied:
                name, place = _brackets(search), (search.threshold, mean)
                axes.annotate(name, place, xytext=(5, 4), textcoords="offset points", fontsize=6.5, color=color)


def _dashes(searches: Iterable[Search]) -> dict[int, Any]:
    """Style of the line of each length of shingles."""
    lengths = sorted({search.ngram for search in searches if not search.is_kept})
    return {ngram: ("-", "--", ":", "-.")[i % 4] for i, ngram in enumerate(lengths)}


def _places(searches: Iterable[Search]) -> list[list[Search]]:
    """Group searches by their threshold as it is written, `kept` first and the lowest last."""
    ordered = sorted(searches, key=lambda one: one.order)
    return [list(some) for _, some in groupby(ordered, key=lambda one: round(one.threshold, 2))]


def _brackets(search: Search) -> str:
    return search.label.partition("(")[2].rstrip(")") or search.label


def _thresholds(axes: Axes, searches: list[Search]) -> None:
    """Label the thresholds, the corpus with its near duplicates at the left."""
    places = _places(searches)
    labels = ["\n".join(_lines(some)) for some in places]
    first, last = places[0][0].threshold, places[-1][-1].threshold
    axes.set_xticks([some[0].threshold for some in places], labels, fontsize=7.5)
    reach = 0.08 * (first - last) or 0.05
    axes.set_xlim(first + reach, last - reach)
    axes.set_xlabel("Jaccard similarity from which on near duplicates go")


def _lines(searches: list[Search]) -> list[str]:
    """Lines of a tick: each threshold once, and what stands in brackets of each search."""
    words = [search.label.split(" ", 1) for search in searches]
    return list(dict.fromkeys(one for parts in words for one in parts))


def _shingle_handles(searches: list[Search]) -> list[Line2D]:
    """Legend of the lengths of shingles, where there are several."""
    dashes = _dashes(searches)
    return [
        Line2D([], [], color=style.GREY, linestyle=dash, label=f"{ngram}-grams of words")
        for ngram, dash in (dashes.items() if len(dashes) > 1 else ())
    ]
