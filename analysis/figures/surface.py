"""The fitted loss over size and tokens, with lines of equal loss."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# (pandas and matplotlib are typed in part)
from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis import style
from analysis.figures.judged import fit_rows, predict_fresh
from analysis.figures.points import Array, Drawing, Marks, column, register, study_name
from analysis.fit import Fit

GRID = 160
"""Points a side of the grid that lines of equal loss are drawn from."""


@register
def loss_surface_figure(frame: pd.DataFrame, fit: Fit, *, title: str | None = None) -> Drawing:
    """Fitted loss over tokens and parameters: isoloss lines, lines of equal 6 N D, and the path of least loss on them.

    Points are the measured runs, coloured by their loss on the lines' scale. The dotted frame is the range of the
    data; everything outside it is extrapolation. 6 N D counts neither head nor attention: small models need more.

    Parameters
    ----------
    frame
        The frame that was fitted, or the study's tidy frame.
    fit
        Of a law of N and D, as `analysis.fit.fit_law` gives it.
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
        _draw_flops(axes, sides[1], sides[0])
        _draw_optimal(axes, fit, *sides)
        low, high = (tokens.min(), params.min()), (tokens.max(), params.max())
        frame_of_data = Rectangle(low, high[0] - low[0], high[1] - low[1], fill=False, linestyle=":", color=style.GREY)
        axes.add_patch(frame_of_data)
        drawn = axes.scatter(tokens, params, c=loss, cmap="viridis", norm=shades, s=42, edgecolors="black", zorder=4)
        figure.colorbar(drawn, ax=axes, label=style.metric_label(metric))
        marks.add_rows(axes, rows, x="tokens", y="params", panel=metric, role="measured")
        _set_axes(axes, sides[1], sides[0])
        figure.suptitle(title or f"{study_name(rows)}: fitted loss over size and tokens", x=0.01, ha="left")
        handles = axes.get_legend_handles_labels()[0]
        words = "Dotted: range of the data, beyond which all is extrapolation. Grey: equal 6 N D; head and attention are not"
        words += " counted in it."
        if not handles:
            words += "\nNo size in sight is best for its 6 N D."
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
    """Where lines of equal loss cross the row two thirds up the figure, falling with tokens."""
    row = GRID * 2 // 3
    inside = [level for level in levels if surface[row, -2] < level < surface[row, 1]]
    return [(float(np.interp(-level, -surface[row], tokens)), float(params[row])) for level in inside]


def _draw_flops(axes: Axes, tokens: Array, params: Array) -> None:
    """Draw lines of equal 6 N D at powers of ten, named where they leave the figure on the right."""
    low, high = 6 * tokens[0] * params[0], 6 * tokens[-1] * params[-1]
    for exponent in range(int(np.ceil(np.log10(low))), int(np.log10(high)) + 1):
        line = 10.0**exponent / (6 * tokens)
        axes.plot(tokens, line, color="#c9c9c9", linewidth=0.7, zorder=1)
        if params[0] < line[-1] < params[-1]:
            axes.annotate(
                f"6ND = 10$^{{{exponent}}}$",
                (1.0, float(line[-1])),
                (2, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=6.5,
                color=style.GREY,
            )


def _draw_optimal(axes: Axes, fit: Fit, params: Array, tokens: Array) -> None:
    """Draw the least loss at each 6 N D, where it lies inside the figure."""
    path: list[tuple[float, float]] = []
    for budget in np.geomspace(6 * params[0] * tokens[0], 6 * params[-1] * tokens[-1], 60):
        n = np.geomspace(max(params[0], budget / (6 * tokens[-1])), min(params[-1], budget / (6 * tokens[0])), GRID)
        d = budget / (6 * n)
        best = int(predict_fresh(fit, n, d).argmin())
        if 0 < best < GRID - 1:
            path.append((float(d[best]), float(n[best])))
    if path:
        xs, ys = zip(*path, strict=True)
        axes.plot(xs, ys, "--", color=style.HELD_OUT, linewidth=1.6, label="least fitted loss at equal 6 N D")


def _set_axes(axes: Axes, tokens: Array, params: Array) -> None:
    axes.set(xscale="log", yscale="log", ylabel="Parameters")
    style.token_axis(axes, tokens.tolist())
    axes.set(xlim=(tokens[0], tokens[-1]), ylim=(params[0], params[-1]))
    style.log_axis(axes.yaxis, params.tolist(), counts=True)
    axes.grid(visible=False)
