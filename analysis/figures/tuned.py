"""What tuning gains and loses, against how far the model was trained before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.columns import known_errors
from analysis.figures.points import Drawing, Group, Marks, direction, group_by, register, study_name
from analysis.overrides import natural_order

_BASES = ("pretrain", "imported")


@register
def tuned_figure(frame: pd.DataFrame, metrics: Sequence[str], *, title: str | None = None) -> Drawing:
    """Metrics of tuned models against the tokens at which their tuning began, beside those of their bases.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study; `kinds` tells the tuned from their bases.
    metrics
        A panel for each.
    title
        Heading; None names the study.

    Returns
    -------
    figure, points
        The plotted points; `role` is base or tuned. A mark is the mean of its seeds, with one standard error: of the
        evaluation where there is one seed, of the seeds where there are several.

    Raises
    ------
    ValueError
        Nothing in the frame was tuned, or a metric was not evaluated on any of it.
    """
    tuned, bases = split_tuned(frame)
    if tuned.empty:
        raise ValueError("the frame has no tuned checkpoint: no stage comes after a pretraining")
    marks = Marks()
    with style.house_style():
        figure = Figure(figsize=(1.0 + 4.0 * len(metrics), 4.2), layout="constrained")
        grid = figure.subplots(1, len(metrics), squeeze=False)[0]
        looks = _looks(tuned, bases)
        for axes, metric in zip(grid, metrics, strict=True):
            _draw_panel(axes, tuned, bases, metric, looks, marks)
        figure.suptitle(title or f"{study_name(frame)}: tuned, and before it", x=0.01, ha="left")
        figure.legend(
            handles=[
                Line2D([], [], color=color, marker=marker, linestyle=dashes, label=name)
                for name, (color, marker, dashes) in looks.items()
            ],
            loc="outside lower left",
            ncols=4,
        )
        return figure, marks.points()


def split_tuned(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of tuned checkpoints, with `begun` the tokens at which their tuning began, and the rows of their bases."""
    last = frame["kinds"].map(lambda kinds: kinds.split(">")[-1] if isinstance(kinds, str) else "pretrain")
    first = frame["kinds"].map(lambda kinds: kinds.split(">")[0] if isinstance(kinds, str) else "pretrain")
    tuned = frame.loc[~last.isin(_BASES) & first.isin(_BASES) & frame["start_tokens"].notna()]
    tuned = tuned.assign(begun=tuned["start_tokens"].astype(float))
    begun = set(zip(tuned["trajectory"], tuned["begun"], strict=True))
    here = [pair in begun for pair in zip(frame["trajectory"], frame["tokens"].astype(float), strict=True)]
    bases = frame.loc[last.isin(_BASES) & pd.Series(here, index=frame.index)]
    return tuned, bases.assign(begun=bases["tokens"].astype(float))


def _looks(tuned: pd.DataFrame, bases: pd.DataFrame) -> dict[str, tuple[str, str, Any]]:
    """Colour, marker and line of each line: bases in black, the tuned in their order."""
    names = sorted(dict.fromkeys(tuned["model"]), key=natural_order)
    shades = dict(zip(names, style.size_colors(len(names)), strict=True))
    looks: dict[str, tuple[str, str, Any]] = dict.fromkeys(dict.fromkeys(bases["model"]), ("black", "o", "--"))
    return looks | {name: (shades[name], style.MARKERS[(i + 1) % 8], "-") for i, name in enumerate(names)}


def _draw_panel(
    axes: Axes,
    tuned: pd.DataFrame,
    bases: pd.DataFrame,
    metric: str,
    looks: dict[str, tuple[str, str, Any]],
    marks: Marks,
) -> None:
    drawn = 0
    for role, rows in (("base", bases), ("tuned", tuned)):
        scored = rows.loc[(rows["metric"] == metric) & rows["value"].notna()]
        for name, line in scored.groupby("model", sort=False):
            color, marker, dashes = looks[str(name)]
            groups = group_by(line, "begun")
            errors = [_error(group) for group in groups]
            xs, means = [group.x for group in groups], [group.mean for group in groups]
            axes.errorbar(xs, means, errors, color=color, marker=marker, linestyle=dashes, capsize=2, markersize=5)
            for group in groups:
                marks.add(axes, group.x, group.mean, group.rows, panel=metric, role=role)
            drawn += len(groups)
    if not drawn:
        raise ValueError(f"metric {metric!r} was evaluated on no tuned checkpoint and on no base")
    style.token_axis(axes, sorted(set(tuned["begun"])), "Tokens of pretraining before it")
    axes.set_title(style.metric_label(metric))
    axes.set_ylabel(direction(metric))


def _error(group: Group) -> float:
    """One standard error: of several seeds' mean, or of the only one's evaluation; 0 where it is not known."""
    values = group.rows["value"].astype(float)
    if len(values) > 1:
        return float(values.std(ddof=1) / len(values) ** 0.5)
    [error] = known_errors(group.rows["stderr"]).tolist()
    return float(error) if pd.notna(error) else 0.0
