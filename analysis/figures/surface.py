"""The fitted loss over size and tokens, with lines of equal loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis import style
from analysis.figures.judged import fit_rows, predict_fresh
from analysis.figures.points import Array, Drawing, Marks, column, register, study_name
from analysis.fitting import Fit
from analysis.rule_of_flops import SIX, flops_rule

GRID = 160
"""Points per side of the grid that lines of equal loss are computed on."""


@register
def loss_surface_figure(frame: pd.DataFrame, fit: Fit, *, title: str | None = None) -> Drawing:
    """Fitted loss over tokens and parameters: lines of equal loss and of equal FLOPs, and the path of least loss.

    Points are the measured runs, coloured by their loss on the lines' scale. The dotted frame is the range of the
    data; everything outside it is extrapolation. FLOPs are k N^n D, fitted to the runs' own where the frame has them
    (head and attention make n smaller than 1 for small models), and 6 N D elsewhere.

    Parameters
    ----------
    frame
        The frame that was fitted, or the study's tidy frame; with a column flops where they are known.
    fit
        Of a law of N and D, as `analysis.fitting.fit_law` gives it.
    title
        Heading; None names the study.

    Returns
    -------
    figure, points
        The plotted points; `role` is measured.

    Raises
    ------
    ValueError
        The frame lacks a column or the fit's metric, or the fit has no numbers.
    """
    rows = fit_rows(frame, fit)
    params, tokens, loss = (column(rows, name) for name in ("params", "tokens", "loss"))
    sides = [np.geomspace(values.min() / 3, values.max() * 3, GRID) for values in (params, tokens)]
    n, d = np.meshgrid(*sides, indexing="ij")
    surface = predict_fresh(fit, n, d)
    metric, marks = fit.metric, Marks()
    with style.house_style():
        figure = Figure(figsize=(7.2, 5.4), layout="constrained")
        axes = figure.subplots()
        levels = _levels(loss)
        shades = colors.Normalize(levels[0], levels[-1])
        lines = axes.contour(d, n, surface, levels=levels, cmap="viridis", norm=shades, linewidths=1.0)
        axes.clabel(lines, fmt="%.3g", fontsize=7, manual=_label_places(levels, surface, *sides))
        rule = _flops_rule(rows)
        _draw_flops(axes, rule, sides[1], sides[0])
        _draw_optimal(axes, fit, rule, *sides)
        low, high = (tokens.min(), params.min()), (tokens.max(), params.max())
        frame_of_data = Rectangle(low, high[0] - low[0], high[1] - low[1], fill=False, linestyle=":", color=style.GREY)
        axes.add_patch(frame_of_data)
        drawn = axes.scatter(tokens, params, c=loss, cmap="viridis", norm=shades, s=42, edgecolors="black", zorder=4)
        figure.colorbar(drawn, ax=axes, label=style.metric_label(metric))
        marks.add_rows(axes, rows, x="tokens", y="params", panel=metric, role="measured")
        _set_axes(axes, sides[1], sides[0])
        figure.suptitle(title or f"{study_name(rows)}: fitted loss over size and tokens", x=0.01, ha="left")
        handles = axes.get_legend_handles_labels()[0]
        words = "Dotted: range of the data; everything outside is extrapolation. Grey: equal FLOPs, "
        own = f"{rule[0]:.3g} N^{rule[1]:.2f} D as counted by the runs."
        words += "6 N D; head and attention are not counted." if rule == SIX else own
        if not handles:
            words += "\nNo optimal size lies within the figure."
        figure.legend(
            handles=handles, loc="outside lower left", ncols=3, title=words, alignment="left", title_fontsize=7.5
        )
        return figure, marks.points()


def _levels(loss: Array) -> Array:
    """About a dozen losses, evenly spaced in their logarithm beyond the measured ones."""
    low, high = np.log(loss.min()), np.log(loss.max())
    margin = 0.3 * (high - low)
    return np.exp(np.linspace(low - margin, high + margin, 14))


def _label_places(levels: Array, surface: Array, params: Array, tokens: Array) -> list[tuple[float, float]]:
    """Where lines of equal loss cross the row two thirds up the figure."""
    row = GRID * 2 // 3
    inside = [level for level in levels if surface[row, -2] < level < surface[row, 1]]
    return [(float(np.interp(-level, -surface[row], tokens)), float(params[row])) for level in inside]


def _flops_rule(rows: pd.DataFrame) -> tuple[float, float]:
    """Return k and n of C = k N^n D: fitted to the runs' FLOPs, or those of 6 N D where they are unknown."""
    if "flops" not in rows or len(set(rows["params"])) < 2 or bool(rows["flops"].isna().to_numpy().any()):
        return SIX
    return flops_rule(*(column(rows, name) for name in ("params", "tokens", "flops")))


def _draw_flops(axes: Axes, rule: tuple[float, float], tokens: Array, params: Array) -> None:
    """Draw lines of equal FLOPs at powers of ten, labelled where they leave the figure."""
    factor, power = rule
    low, high = (factor * params[end] ** power * tokens[end] for end in (0, -1))
    for exponent in range(int(np.ceil(np.log10(low))), int(np.log10(high)) + 1):
        line = (10.0**exponent / (factor * tokens)) ** (1 / power)
        axes.plot(tokens, line, color="#c9c9c9", linewidth=0.7, zorder=1)
        name = f"{'6ND' if rule == SIX else 'C'} = 10$^{{{exponent}}}$"
        look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 6.5, "color": style.GREY}
        bottom = 10.0**exponent / (factor * params[0] ** power)
        if params[0] < line[-1] < params[-1]:
            place = (1.0, float(line[-1]))
            axes.annotate(name, place, (2, 0), xycoords=("axes fraction", "data"), va="center", **look)
        elif tokens[0] < bottom < tokens[-1]:
            axes.annotate(name, (bottom, 0.0), (-2, 3), xycoords=("data", "axes fraction"), ha="right", **look)


def _draw_optimal(axes: Axes, fit: Fit, rule: tuple[float, float], params: Array, tokens: Array) -> None:
    """Draw the lowest loss at each number of FLOPs, where it lies inside the figure."""
    factor, power = rule
    path: list[tuple[float, float]] = []
    low, high = (float(factor * params[end] ** power * tokens[end]) for end in (0, -1))
    for budget in np.geomspace(low, high, 60):
        ends = [(budget / (factor * tokens[end])) ** (1 / power) for end in (-1, 0)]
        n = np.geomspace(max(params[0], ends[0]), min(params[-1], ends[1]), GRID)
        loss = predict_fresh(fit, n, budget / (factor * n**power))
        best = int(loss.argmin())
        if not 0 < best < GRID - 1:
            continue
        # Between the grid's points: the bottom of the parabola through the lowest and its neighbours.
        left, middle, right = loss[best - 1 : best + 2]
        bend = left - 2 * middle + right
        size = n[best] * (n[1] / n[0]) ** (0.5 * (left - right) / bend if bend > 0 else 0.0)
        path.append((float(budget / (factor * size**power)), float(size)))
    if path:
        xs, ys = zip(*path, strict=True)
        name = "6 N D" if rule == SIX else "FLOPs"
        axes.plot(xs, ys, "--", color=style.HELD_OUT, linewidth=1.6, label=f"lowest fitted loss at equal {name}")


def _set_axes(axes: Axes, tokens: Array, params: Array) -> None:
    axes.set(xscale="log", yscale="log", ylabel="Parameters")
    style.token_axis(axes, tokens.tolist())
    axes.set(xlim=(tokens[0], tokens[-1]), ylim=(params[0], params[-1]))
    style.log_axis(axes.yaxis, params.tolist(), counts=True)
    axes.grid(visible=False)
