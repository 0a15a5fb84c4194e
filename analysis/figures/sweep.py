"""A metric against one swept setting, such as the learning rate."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# (pandas and matplotlib are typed in part)
from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.figures.points import (
    Drawing,
    Marks,
    direction,
    draw_groups,
    group_by,
    model_looks,
    model_sizes,
    register,
    study_name,
)
from analysis.overrides import override_values


@register
def sweep_figure(
    frame: pd.DataFrame, metric: str, setting: str, *, panels: str | None = None, title: str | None = None
) -> Drawing:
    """One metric of the cooled-down points against a swept setting, a line a model size, the best of each ringed.

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
        The plotted points; `role` is cooled_down, or best at the best mean of each line. A mark is the mean of its
        seeds.

    Raises
    ------
    ValueError
        The metric was evaluated on no cooled-down point, or no point names the setting with a number above 0.
    """
    scored = frame.loc[(frame["metric"] == metric) & frame["annealed"] & frame["value"].notna()]
    if scored.empty:
        raise ValueError(f"metric {metric!r} was evaluated on no cooled-down checkpoint")
    runs = scored.assign(
        setting=_numbers(scored, setting),
        panel_value=override_values(scored, panels) if panels else "",
        model=scored["model"].astype(str).str.split(" ").str[0],
    )
    values = sorted({str(value) for value in runs["panel_value"]}, key=_order)
    marks = Marks()
    with style.house_style():
        figure = Figure(figsize=(1.2 + 4.2 * len(values), 4.4), layout="constrained")
        grid = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
        for axes, value in zip(grid, values, strict=True):
            rows = runs.loc[runs["panel_value"].astype(str) == value]
            panel = f"{panels}={value}" if panels else metric
            _draw_panel(axes, rows, runs, panel, metric, marks)
            axes.set_xlabel(setting)
        grid[0].set_ylabel(f"{style.metric_label(metric)} {direction(metric)}")
        figure.suptitle(title or f"{study_name(frame)}: {setting.split('.')[-1].replace('_', ' ')}", x=0.01, ha="left")
        figure.legend(handles=_handles(runs), loc="outside lower left", ncols=4)
        return figure, marks.points()


def _numbers(frame: pd.DataFrame, name: str) -> list[float]:
    numbers: list[float] = []
    for point, text in zip(frame["point"], override_values(frame, name), strict=True):
        number, _ = _order(text or "")
        if number <= 0:
            raise ValueError(f"point {point!r} gives {name!r} no number above 0")
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
        axes.plot([best.x], [best.mean], "o", markersize=11, markerfacecolor="none", markeredgecolor=color, zorder=4)
        for group in groups:
            role = "best" if group is best else "cooled_down"
            marks.add(axes, group.x, group.mean, group.rows, panel=panel, role=role)
    axes.set_xscale("log")
    style.log_axis(axes.xaxis, sorted(set(rows["setting"])))
    axes.set_title(panel if panel != metric else style.metric_label(metric))


def _handles(runs: pd.DataFrame) -> list[Line2D]:
    sizes = model_sizes(runs)
    return [
        Line2D([], [], color=color, marker=marker, markersize=5.5, label=f"{model}: {style.count_label(sizes[model])}")
        for model, (color, marker) in model_looks(runs).items()
    ]
