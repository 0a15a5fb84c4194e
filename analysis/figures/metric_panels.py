"""What figures of one metric in panels side by side have in common: their rows, panels, heading and legend."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.figures.points import direction, model_looks, model_sizes


def make_panels(count: int, *, width: float, margin: float, height: float = 4.4) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels in a row that share their vertical axis; all lengths in inches."""
    figure = Figure(figsize=(margin + width * count, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False, sharey=True)[0])


def finish_panels(figure: Figure, metric: str, heading: str, handles: Sequence[Line2D], note: str) -> None:
    """Name the metric at the left panel, put the heading above, and below the legend with a note over it."""
    figure.axes[0].set_ylabel(f"{style.metric_label(metric)} {direction(metric)}")
    figure.suptitle(heading, x=0.01, ha="left")
    figure.legend(handles=handles, loc="outside lower left", ncols=4, title=note, alignment="left", title_fontsize=7.5)


def model_handles(rows: pd.DataFrame) -> list[Line2D]:
    """Legend of a frame's models, with their sizes."""
    sizes = model_sizes(rows)
    return [
        Line2D([], [], color=color, marker=marker, markersize=5.5, label=f"{model}: {style.count_label(sizes[model])}")
        for model, (color, marker) in model_looks(rows).items()
    ]
