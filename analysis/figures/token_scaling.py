"""Metrics against tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.columns import known_errors, truths
from analysis.figures.overlays import draw_judgements, draw_reference
from analysis.figures.points import (
    Drawing,
    Marks,
    column,
    direction,
    model_looks,
    model_sizes,
    register,
    study_name,
)


@register
def token_scaling_figure(
    frame: pd.DataFrame,
    metric: str | Sequence[str],
    *,
    title: str | None = None,
    overlay: pd.DataFrame | None = None,
    judged: pd.DataFrame | None = None,
) -> Drawing:
    """Metrics against tokens, one line per model size, one panel per metric.

    Filled markers are cooled-down points, joined by a line through the mean of the seeds, with a band over
    the seeds' range; hollow markers on a thin line are milestones of a trunk or of an unfinished decay. Bars
    are one standard error of the evaluation.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study.
    metric
        One metric's name or several.
    title
        Heading; None names the study.
    overlay
        Rows of a reference in the same columns, such as `analysis.reference.tinyllama_milestones()`: drawn in grey
        where they have the metric.
    judged
        The frame's `analysis.tasks.curve_shapes`: chance levels are dotted, falls beyond the noise drawn, and curves
        that fall, are saturated or at chance named.

    Returns
    -------
    figure, points
        The plotted points, with columns `POINT_COLUMNS`; `role` is cooled_down (a mark is the mean of its seeds),
        milestone or reference.

    Raises
    ------
    ValueError
        A metric is not in the frame, nothing was evaluated on it, or several cooled-down points share
        model, tokens and seeds, so that a line would mix variants.
    """
    metrics = [metric] if isinstance(metric, str) else list(metric)
    with style.house_style():
        columns, rows = min(2, len(metrics)), math.ceil(len(metrics) / 2)
        figure = Figure(figsize=(1.2 + 4.6 * columns, 0.8 + 3.8 * rows), layout="constrained")
        marks = Marks()
        for place, name in enumerate(metrics, start=1):
            _draw_panel(figure.add_subplot(rows, columns, place), frame, name, marks, overlay, judged)
        points = marks.points()
        figure.suptitle(title or f"{study_name(frame)}: held-out scores against training tokens", x=0.01, ha="left")
        figure.legend(
            handles=_size_handles(frame, points.loc[points["role"] != "reference"]) + _role_handles(points),
            loc="outside lower left",
            ncols=min(4, len(set(points["model"]))),
            title=_caption(frame, points, metrics),
            alignment="left",
            title_fontsize=7.5,
        )
    return figure, points


def _draw_panel(
    axes: Axes,
    frame: pd.DataFrame,
    metric: str,
    marks: Marks,
    overlay: pd.DataFrame | None,
    judged: pd.DataFrame | None,
) -> None:
    if metric not in set(frame["metric"].dropna()):
        raise ValueError(f"metric {metric!r} is not in the frame, which has: {sorted(set(frame['metric'].dropna()))}")
    scored = frame.loc[(frame["metric"] == metric) & frame["value"].notna() & (frame["tokens"] > 0)]
    if scored.empty:
        raise ValueError(f"metric {metric!r} was evaluated on no checkpoint")
    annealed = truths(scored, "annealed")
    cooled, trunk = scored.loc[annealed], scored.loc[~annealed]
    _refuse_variants(cooled, metric)
    looks = model_looks(frame)
    for _, line in trunk.groupby(["trajectory", "stage"], sort=False):
        _draw_trunk(axes, line.sort_values("tokens"), *looks[str(line["model"].iloc[0])])
    marks.add_rows(axes, trunk, x="tokens", y="value", panel=metric, role="milestone")
    for model, runs in cooled.groupby("model", sort=False):
        _draw_cooled(axes, runs, *looks[str(model)])
    for _, runs in cooled.groupby(["model", "tokens"], sort=False):
        mean = float(column(runs, "value").mean())
        marks.add(axes, float(runs["tokens"].iloc[0]), mean, runs, panel=metric, role="cooled_down")
    laid_over = draw_reference(axes, overlay, metric, marks)
    draw_judgements(axes, judged, scored, metric)
    style.token_axis(axes, [*scored["tokens"].tolist(), *laid_over])
    values = scored.loc[scored["value"] > 0, "value"]
    if style.lower_is_better(metric, unknown=False) and values.max() > 30 * values.min():
        # The perplexity of an untrained model is in the millions.
        axes.set_yscale("log")
        style.log_axis(axes.yaxis, values.tolist())
    axes.set_title(style.metric_label(metric))
    axes.set_ylabel(f"{style.metric_label(metric).split(',')[0]} {direction(metric)}")


def _draw_trunk(axes: Axes, line: pd.DataFrame, color: str, marker: str) -> None:
    axes.errorbar(
        line["tokens"],
        line["value"],
        yerr=known_errors(column(line, "stderr")),
        color=color,
        marker=marker,
        markersize=4.5,
        markerfacecolor="white",
        markeredgewidth=1.0,
        linewidth=0.7,
        elinewidth=0.6,
        linestyle=(0, (4, 2)),
        alpha=0.75,
        zorder=2,
    )


def _draw_cooled(axes: Axes, runs: pd.DataFrame, color: str, marker: str) -> None:
    tokens = np.array(sorted(set(runs["tokens"])), dtype=float)
    groups = [runs.loc[runs["tokens"] == count] for count in tokens]
    values = [column(group, "value") for group in groups]
    mean = np.array([value.mean() for value in values])
    if max(len(value) for value in values) > 1:
        low, high = [value.min() for value in values], [value.max() for value in values]
        axes.fill_between(tokens, low, high, color=color, alpha=0.18, linewidth=0, zorder=1)
    axes.plot(tokens, mean, color=color, linewidth=1.8, zorder=3)
    axes.errorbar(
        tokens,
        mean,
        # Seeds are scored on the same documents: their mean's sampling error is that of one of them.
        yerr=[known_errors(column(group, "stderr")).mean() for group in groups],
        color=color,
        marker=marker,
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linestyle="none",
        elinewidth=1.1,
        capsize=2,
        zorder=4,
    )


def _refuse_variants(cooled: pd.DataFrame, metric: str) -> None:
    keys = ["model", "tokens", "seed_init", "seed_data"]
    twice = cooled.loc[cooled.duplicated(keys, keep=False)]
    if not twice.empty:
        raise ValueError(
            f"{metric}: {len(twice)} cooled-down points share model, tokens and seeds, such as "
            f"{twice['point'].iloc[0]!r} and {twice['point'].iloc[1]!r}; select one variant's rows"
        )


def _size_handles(frame: pd.DataFrame, points: pd.DataFrame) -> list[Line2D]:
    """Build the legend of models; their looks are those of the whole frame, whatever was evaluated."""
    sizes, drawn = model_sizes(frame), set(points["model"].astype(str))
    return [
        Line2D(
            [],
            [],
            color=color,
            marker=marker,
            markersize=6,
            linewidth=1.8,
            label=f"{model}: {style.count_label(sizes[model])} parameters",
        )
        for model, (color, marker) in model_looks(frame).items()
        if model in drawn
    ]


def _role_handles(points: pd.DataFrame) -> list[Line2D]:
    if "milestone" not in set(points["role"]):
        return []
    hollow = Line2D([], [], color=style.GREY, marker="o", markersize=4.5, markerfacecolor="white", linewidth=0.7)
    hollow.set_linestyle((0, (4, 2)))
    hollow.set_label("milestone, not cooled down")
    filled = Line2D([], [], color=style.GREY, marker="o", markersize=6, linewidth=1.8, label="cooled down")
    return [filled, hollow]


def _caption(frame: pd.DataFrame, points: pd.DataFrame, metrics: Sequence[str]) -> str:
    """Describe what the marks mean."""
    cooled = points.loc[points["role"] == "cooled_down"]
    keys = zip(cooled["panel"], cooled["model"], cooled["tokens"], strict=True)
    counts = Counter(keys).values()
    seeds, fewest = max(counts, default=1), min(counts, default=1)
    units = " and ".join(
        sorted({"documents" if style.lower_is_better(m, unknown=False) else "questions" for m in metrics})
    )
    words = [f"Sizes count parameters without embeddings. Bars: one standard error over {units}; all sizes are"]
    words.append("scored on\nthe same ones, so differences are more certain than the bars show.")
    words.append(
        f"Band: range of {seeds if seeds == fewest else f'{fewest} to {seeds}'} seeds, line through their mean."
        if seeds > 1
        else "One seed."
    )
    missing = len(frame.loc[frame["metric"].isin(list(metrics)) & frame["value"].isna()])
    if missing:
        words.append(f"Not evaluated: {missing}.")
    asked = frame.loc[frame["metric"].isin(list(metrics)) & frame["value"].notna()]
    barless = int(np.isnan(known_errors(column(asked, "stderr"))).sum())
    if barless:
        words.append(f"No bar where the standard error is not known: {barless} scores.")
    unplaced = len(asked) - int((asked["tokens"] > 0).sum())
    if unplaced:
        words.append(f"Not drawn, because a log axis cannot show 0 or unknown tokens: {unplaced} scores.")
    return " ".join(words)
