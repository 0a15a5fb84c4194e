"""Loss against size at equal compute, and how the best size grows."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.figures.points import Array, Drawing, Marks, column, direction, group_by, register, study_name
from analysis.frames import EXCLUDED
from analysis.isoflop import Allocation, assign_budgets, fit_isoflop, isoflop_curve
from analysis.isoflop.allocation import with_flops


@register
def isoflop_figure(frame: pd.DataFrame, allocation: Allocation | None = None, *, title: str | None = None) -> Drawing:
    """Loss against size, one curve per compute budget with its lowest point, and those points against compute.

    A ring is an optimum; a budget whose optimum is refused is dashed and has no ring, and the figure gives the reason
    and the allocation's other flags. Bars on the right are the optima's intervals under redrawn noise, and the band
    that of the exponent about the line's middle.

    Parameters
    ----------
    frame
        What `allocation` is made from: columns params, tokens, loss, and flops where known, and those of lineage.
    allocation
        As `analysis.isoflop.fit_isoflop` gives it; None makes it, by parabola.
    title
        Heading; None names the study.

    Returns
    -------
    figure, points
        The plotted points; `role` is measured, or optimum, whose sources are the runs of its budget.

    Raises
    ------
    ValueError
        The frame lacks a column, or is not what the allocation was made from; as `fit_isoflop` without one.
    """
    allocation = allocation or fit_isoflop(frame)
    rows, _ = with_flops(frame)
    numbers, optima = assign_budgets(rows), allocation.optima.to_dict("records")
    if int(numbers.max()) + 1 != len(optima):
        raise ValueError(f"the frame has {int(numbers.max()) + 1} budgets and the allocation {len(optima)}")
    metric, marks = str(frame.attrs.get("metric", "loss")), Marks()
    method = allocation.approach.rsplit(" ", 1)[-1]
    colors = style.size_colors(len(optima))
    with style.house_style():
        figure = Figure(figsize=(10.2, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
        for number, optimum in enumerate(optima):
            points = rows.loc[numbers == number]
            look = colors[number], style.MARKERS[number % len(style.MARKERS)]
            _draw_budget(left, points, optimum, method, look, metric, marks)
            if not optimum["refused"]:
                _draw_optimum(right, points, optimum, look, marks)
        _draw_growth(right, allocation)
        sizes = column(rows, "params")
        left.set_xscale("log")
        style.log_axis(left.xaxis, sorted(set(sizes.tolist())), counts=True)
        left.set(xlabel="Parameters", ylabel=f"{style.metric_label(metric).split(',')[0]} {direction(metric)}")
        left.set_title(style.metric_label(metric))
        figure.suptitle(title or f"{study_name(rows)}: loss at equal compute", x=0.01, ha="left")
        figure.legend(
            *left.get_legend_handles_labels(),
            loc="outside lower left",
            ncols=4,
            title=_caption(allocation),
            alignment="left",
            title_fontsize=7.5,
        )
        return figure, marks.points()


def _draw_budget(
    axes: Axes,
    points: pd.DataFrame,
    optimum: dict[str, float],
    method: str,
    look: tuple[str, str],
    panel: str,
    marks: Marks,
) -> None:
    color, marker = look
    groups = group_by(points, "params", "loss")
    label = f"{style.power_label(optimum['flops'])} FLOPs"
    xs, ys = [group.x for group in groups], [group.mean for group in groups]
    axes.plot(xs, ys, marker, color=color, markersize=5.5, label=label, zorder=3)
    for group in groups:
        marks.add(axes, group.x, group.mean, group.rows, panel=panel, role="measured")
    # A curve needs as many sizes as the method has numbers.
    if len(groups) >= 4 or (len(groups) == 3 and method == "parabola"):
        sizes = np.geomspace(xs[0], xs[-1], 100)
        dash = "--" if optimum["refused"] else "-"
        axes.plot(sizes, isoflop_curve(points, method)(sizes), dash, color=color, linewidth=1.2, zorder=2)
    if not optimum["refused"]:
        place = optimum["params"], optimum["loss"]
        axes.plot(*place, "o", markersize=12, markerfacecolor="none", color=color, markeredgewidth=1.4, zorder=4)
        marks.add(axes, *place, points, panel=panel, role="optimum")


def _draw_optimum(
    axes: Axes, points: pd.DataFrame, optimum: dict[str, float], look: tuple[str, str], marks: Marks
) -> None:
    color, marker = look
    size = optimum["params"]
    low, high = (optimum.get(f"params_{end}", np.nan) for end in ("low", "high"))
    bars = None if np.isnan(low) or np.isnan(high) else [[max(size - low, 0.0)], [max(high - size, 0.0)]]
    axes.errorbar(
        [optimum["flops"]], [size], yerr=bars, color=color, marker=marker, markersize=6.5, capsize=2.5, zorder=3
    )
    marks.add(axes, optimum["flops"], size, points, panel="best size", role="optimum")


def _draw_growth(axes: Axes, allocation: Allocation) -> None:
    flops = column(allocation.optima, "flops")
    line = np.geomspace(flops.min() / 1.5, flops.max() * 1.5, 50)
    growth = allocation.params

    def power(exponent: float) -> Array:
        return growth.value * (line / growth.flops) ** exponent

    axes.plot(line, power(growth.exponent), color=style.GREY, linewidth=1.2, zorder=2)
    if not np.isnan([growth.low, growth.high]).any():
        ends = np.stack([power(growth.low), power(growth.high)])
        axes.fill_between(line, ends.min(axis=0), ends.max(axis=0), color=style.GREY, alpha=0.15, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="Training FLOPs", ylabel="Best size, parameters")
    style.log_axis(axes.xaxis, flops.tolist())
    known = column(allocation.optima, "params")
    style.log_axis(axes.yaxis, known[~np.isnan(known)].tolist(), counts=True)
    interval = f"{allocation.level:.0%}: {growth.low:.2f} to {growth.high:.2f}"
    axes.set_title(f"N* ~ C^{growth.exponent:.2f} ({interval})")


def _caption(allocation: Allocation) -> str:
    refused = [
        f"{style.power_label(row['flops'])} FLOPs has no optimum: {row['refused']}."
        for row in allocation.optima.to_dict("records")
        if row["refused"]
    ]
    left_out = [f"left out: {text}" for text in allocation.optima.attrs.get(EXCLUDED, ())]
    known = set(allocation.optima.attrs.get(EXCLUDED, ()))
    flags = left_out + [flag for flag in allocation.flags if " refused: " not in flag and flag not in known]
    lines = [line for flag in flags for line in textwrap.wrap(flag[0].upper() + flag[1:] + ".", 150)]
    return "\n".join([f"Rings: lowest points ({allocation.approach.rsplit(' ', 1)[-1]}).", *refused, *lines])
