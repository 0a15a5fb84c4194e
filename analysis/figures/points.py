"""What is plotted, with where each point came from, and what the figures share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis import style
from analysis.metrics import is_higher_better
from analysis.overrides import label_order

Array = NDArray[np.float64]
MARK_COLUMNS = ["mark", "panel", "role", "x", "y"]
"""What identifies a mark: its id, its panel, what it shows, and its position."""
POINT_COLUMNS = [
    *MARK_COLUMNS,
    "study",
    "point",
    "model",
    "params",
    "params_non_embedding",
    "tokens",
    "seed_init",
    "seed_data",
    "metric",
    "value",
    "stderr",
    "run_id",
    "stage",
    "trajectory",
    "eval_id",
    "checkpoint",
    "commit",
    "data_fingerprint",
]
"""Columns of the plotted points: the mark, then the row of the frame it was drawn from, one row per source."""

Drawing = tuple[Figure, pd.DataFrame]
"""A figure and its plotted points, with the columns `POINT_COLUMNS`."""
Draw = TypeVar("Draw", bound=Callable[..., Drawing])
FIGURES: dict[str, Callable[..., Drawing]] = {}
"""Every figure function by its name; a test walks from a mark of each to config, commit, data and checkpoint."""


def register(draw: Draw) -> Draw:
    """Put a figure function into `FIGURES`."""
    FIGURES[draw.__name__] = draw
    return draw


class Marks:
    """Collects what a figure draws, each mark with the rows of the frame behind it.

    A mark is also an invisible point of the axes that links to its id, so that the SVG has its position.
    """

    def __init__(self) -> None:
        self._parts: list[pd.DataFrame] = []
        self._places: list[tuple[Axes, float, float, str]] = []

    def add(self, axes: Axes, x: float, y: float, rows: pd.DataFrame, *, panel: str, role: str) -> None:
        """Note one mark at (x, y) in the units of its axes, and the rows it was drawn from."""
        name = f"p{len(self._places)}"
        self._places.append((axes, x, y, name))
        place = {"mark": name, "panel": panel, "role": role, "x": x, "y": y}
        self._parts.append(rows.assign(**place).reindex(columns=POINT_COLUMNS))

    def add_rows(self, axes: Axes, rows: pd.DataFrame, *, x: str, y: str, panel: str, role: str) -> None:
        """Note one mark per row, at its columns `x` and `y`."""
        if rows.empty:
            return
        # One part for all: a frame for each row took most of a large study's report.
        xs, ys = [float(value) for value in rows[x]], [float(value) for value in rows[y]]
        names = [f"p{len(self._places) + index}" for index in range(len(rows))]
        self._places += zip([axes] * len(rows), xs, ys, names, strict=True)
        place = {"mark": names, "panel": panel, "role": role, "x": xs, "y": ys}
        self._parts.append(rows.assign(**place).reindex(columns=POINT_COLUMNS))

    def points(self) -> pd.DataFrame:
        """Link every mark in its axes, and return the plotted points."""
        for axes in dict.fromkeys(axes for axes, *_ in self._places):
            here = [(x, y, name) for other, x, y, name in self._places if other is axes]
            xs, ys, names = zip(*here, strict=True)
            limits = axes.get_xlim(), axes.get_ylim()
            links = axes.scatter(xs, ys, s=90, color="white", alpha=0.0, linewidths=0, zorder=10)
            links.set_urls([f"#{name}" for name in names])
            axes.set(xlim=limits[0], ylim=limits[1])
        # Columns that no part has are entirely missing: concat would guess their types.
        parts = [part.astype(object) for part in self._parts]
        return pd.concat(parts, ignore_index=True).infer_objects() if parts else pd.DataFrame(columns=POINT_COLUMNS)


@dataclass(frozen=True)
class Group:
    """Rows at one position of an axis, such as the seeds of one budget."""

    x: float
    """Their position."""
    mean: float
    """Mean of their values."""
    low: float
    """Smallest of them."""
    high: float
    """Largest of them."""
    rows: pd.DataFrame
    """The rows."""


def group_by(rows: pd.DataFrame, x: str, y: str = "value") -> list[Group]:
    """Group rows by a column's value, in its order, with mean and range of another."""
    groups: list[Group] = []
    for place in sorted(set(rows[x].astype(float).tolist())):
        here = rows.loc[rows[x].astype(float) == place]
        values = column(here, y)
        groups.append(Group(place, float(values.mean()), float(values.min()), float(values.max()), here))
    return groups


def draw_groups(axes: Axes, groups: list[Group], color: str, **line: Any) -> None:
    """Draw a line through the groups' means, and a band over their ranges where there are several values."""
    xs = [group.x for group in groups]
    axes.plot(xs, [group.mean for group in groups], color=color, **line)
    if any(len(group.rows) > 1 for group in groups):
        low, high = [group.low for group in groups], [group.high for group in groups]
        axes.fill_between(xs, low, high, color=color, alpha=0.15, linewidth=0, zorder=1)


def model_looks(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Colour and marker of each model, by size."""
    sizes = model_sizes(frame)
    models = sorted(sizes, key=lambda model: (sizes[model], label_order(model)))
    colors = style.size_colors(len(models))
    return {
        model: (color, style.MARKERS[index % len(style.MARKERS)])
        for index, (model, color) in enumerate(zip(models, colors, strict=True))
    }


def size_looks(frame: pd.DataFrame) -> dict[float, tuple[str, str]]:
    """Colour and marker of each size in the column `params`, small to large."""
    sizes = sorted(set(frame["params"].astype(float)))
    colors = style.size_colors(len(sizes))
    return {size: (colors[i], style.MARKERS[i % len(style.MARKERS)]) for i, size in enumerate(sizes)}


def model_sizes(frame: pd.DataFrame) -> dict[str, int]:
    """Parameters without embeddings of each model.

    Raises
    ------
    ValueError
        The sizes of a model are unknown.
    """
    unknown = frame.loc[frame["params_non_embedding"].isna(), "model"]
    if len(unknown):
        raise ValueError(f"model {unknown.iloc[0]!r} has no params_non_embedding: give its size")
    return dict(zip(frame["model"].astype(str), frame["params_non_embedding"].astype(int), strict=True))


def column(frame: pd.DataFrame, name: str) -> Array:
    """Give a column as floats, shape (rows,)."""
    return frame[name].to_numpy(dtype=np.float64)


def study_name(frame: pd.DataFrame) -> str:
    """Name the frame's one study; a frame without the column is "measured runs".

    Raises
    ------
    ValueError
        There are several studies, or none.
    """
    names = sorted({str(name) for name in frame["study"]}) if "study" in frame else ["measured runs"]
    if len(names) != 1:
        raise ValueError(f"a figure shows one study, but the frame has {names}")
    return str(names[0])


def direction(metric: str) -> str:
    """Return which direction is better, in brackets for an axis label; empty where that is unknown."""
    return {True: "(higher is better)", False: "(lower is better)", None: ""}[is_higher_better(metric)]
