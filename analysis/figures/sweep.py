"""A metric against one swept setting, such as the learning rate."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.figures.metric_panels import finish_panels, make_panels, model_handles
from analysis.figures.points import Drawing, Marks, draw_groups, group_by, model_looks, register, study_name
from analysis.frames import cooled_scores
from analysis.overrides import base_models, override_values, refuse_pooled

SAME_TOKENS = 1.05
"""Ratio up to which token counts are the same budget: different batches round it to different steps."""


@register
def sweep_figure(
    frame: pd.DataFrame, metric: str, setting: str, *, panels: str | None = None, title: str | None = None
) -> Drawing:
    """One metric of the cooled-down points against a swept setting, one line per model size, the best of each ringed.

    Where the best is the first or last setting of its line, its ring is dashed: the optimum may lie beyond.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study.
    metric
        Its name.
    setting
        Override that was swept, such as `optimizer.learning_rate`; its values must be numbers above 0.
    panels
        Another override with a panel for each value, such as `recipe.batch_sequences`; None draws one panel.
    title
        Heading; None names the study.

    Returns
    -------
    figure, points
        The plotted points; `role` is cooled_down, or best at the best mean of each line (edge where that is its first
        or last setting). A mark is the mean of its seeds.

    Raises
    ------
    ValueError
        The metric was evaluated on no cooled-down point, no point names the setting with a number above 0, or points of
        one line differ by tokens or by another override (it is named).
    """
    scored = cooled_scores(frame, metric)
    runs = scored.assign(
        setting=_numbers(scored, setting),
        panel_value=override_values(scored, panels) if panels else "",
        model=base_models(scored),
    )
    for _, line in runs.groupby(["model", "panel_value"]):
        _refuse_pooled(line, setting, panels)
    values = sorted({str(value) for value in runs["panel_value"]}, key=_order)
    marks = Marks()
    with style.house_style():
        figure, grid = make_panels(len(values), width=4.2, margin=1.2)
        for axes, value in zip(grid, values, strict=True):
            rows = runs.loc[runs["panel_value"].astype(str) == value]
            panel = f"{panels}={value}" if panels else metric
            _draw_panel(axes, rows, runs, panel, metric, marks)
            axes.set_xlabel(setting)
        heading = title or f"{study_name(frame)}: {setting.split('.')[-1].replace('_', ' ')}"
        note = "Ringed: the best of a line; dashed where it is the first or last tried: the optimum may lie beyond."
        finish_panels(figure, metric, heading, model_handles(runs), note)
        return figure, marks.points()


def _refuse_pooled(line: pd.DataFrame, setting: str, panels: str | None) -> None:
    refuse_pooled(line, [name for name in (setting, panels) if name], "a line")
    tokens = sorted({float(count) for count in line["tokens"]})
    if setting not in ("tokens", "flops") and tokens[-1] > SAME_TOKENS * tokens[0]:
        counts = ", ".join(style.count_label(count) for count in tokens)
        raise ValueError(f"a line of {line['model'].iloc[0]} would pool {counts} tokens: select the rows of one")


def _numbers(frame: pd.DataFrame, name: str) -> list[float]:
    numbers: list[float] = []
    for point, text in zip(frame["point"], override_values(frame, name), strict=True):
        number, _ = _order(text or "")
        if number <= 0:
            raise ValueError(f"point {point!r} has no number above 0 for {name!r}")
        numbers.append(number)
    return numbers


def _order(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return 0.0, value


def _draw_panel(axes: Axes, rows: pd.DataFrame, runs: pd.DataFrame, panel: str, metric: str, marks: Marks) -> None:
    lower = style.lower_is_better(metric)
    for model, (color, marker) in model_looks(runs).items():
        line = rows.loc[rows["model"] == model]
        if line.empty:
            continue
        groups = group_by(line, "setting")
        draw_groups(axes, groups, color, marker=marker, markersize=5.5, markeredgecolor="white")
        best = (min if lower else max)(groups, key=lambda group: group.mean)
        inside = best not in (groups[0], groups[-1])
        ring = "-" if inside else (0, (2, 1.5))
        axes.scatter([best.x], [best.mean], s=121, facecolors="none", edgecolors=color, linestyles=[ring], zorder=4)
        for group in groups:
            role = ("best" if inside else "edge") if group is best else "cooled_down"
            marks.add(axes, group.x, group.mean, group.rows, panel=panel, role=role)
    axes.set_xscale("log")
    style.log_axis(axes.xaxis, sorted(set(rows["setting"])))
    axes.set_title(panel if panel != metric else style.metric_label(metric))
