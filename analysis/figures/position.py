"""Loss by the token's position in its context, before and after a longer context."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.columns import known_errors
from analysis.figures.points import Drawing, Group, Marks, column, group_by, register, study_name
from analysis.overrides import base_models

POSITION = re.compile(r"position/(?P<source>.+)/(?P<first>\d+)-(?P<last>\d+)/bits_per_byte")
"""Name of a metric of the suite `positions`."""
BEFORE, SCALED, TRAINED = "before", "scaled", "trained"
LOOKS: dict[str, tuple[str, str, Any]] = {
    BEFORE: (style.CATEGORIES[0], "o", "-"),
    SCALED: (style.CATEGORIES[2], "s", (0, (5, 2))),
    TRAINED: (style.CATEGORIES[1], "D", "-"),
}
"""Colour, marker and dash of a model before, after scaling, and after training at the longer context."""


@register
def position_figure(frame: pd.DataFrame, sources: Sequence[str] | None = None, *, title: str | None = None) -> Drawing:
    """Draw bits per byte against position: a column of panels for each method, a row for each source.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study and one model, with metrics of the suite `positions`.
    sources
        Held-out sources; None takes all.
    title
        Heading; None names the study.

    Returns
    -------
    figure, points
        The plotted points; `role` is before, scaled or trained. Error bars are one standard error over documents, which
        all lines share.

    Raises
    ------
    ValueError
        There are several models, nothing was scored by position, or none has a longer context.
    """
    rows = position_rows(frame)
    models = sorted(set(base_models(rows)))
    if len(models) > 1:
        raise ValueError(f"the frame has the models {', '.join(models)}: select the rows of one")
    methods = sorted(set(rows["method"]) - {""}, key=_method_order)
    if not methods:
        raise ValueError("no model of the frame was given a longer context (then=extend)")
    names = sorted(set(rows["source"]), reverse=True) if sources is None else list(sources)
    marks = Marks()
    with style.house_style():
        figure = Figure(figsize=(1.0 + 2.6 * len(methods), 1.2 + 2.6 * len(names)), layout="constrained")
        grid = figure.subplots(len(names), len(methods), squeeze=False, sharex=True, sharey="row")
        for source, line in zip(names, grid, strict=True):
            of_source = rows.loc[rows["source"] == source]
            for method, axes in zip(methods, line, strict=True):
                shown = of_source.loc[of_source["method"].isin(["", method])]
                _draw_panel(axes, shown, f"{source}, {method}", marks)
            line[0].set_ylabel(f"Bits per byte, held-out {source}\n(lower is better)")
        for axes in grid[-1]:
            axes.set_xlabel("Position in the context")
        figure.suptitle(title or f"{study_name(frame)}: loss by position", x=0.01, ha="left")
        figure.legend(
            handles=_handles(),
            loc="outside lower left",
            ncols=4,
            title="Bars: one standard error over documents, which are the same for all lines.",
            alignment="left",
            title_fontsize=7.5,
        )
        return figure, marks.points()


def position_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Select the rows that were scored by position, before a longer context and after it.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it.

    Returns
    -------
    DataFrame
        With the columns source, bucket (its place: 0 for 0-15, 1 for 16-31, ...), first, last, phase (`before`, `scaled`,
        `trained`) and method (such as `yarn x4`; empty before). Of a training, the last checkpoint alone.

    Raises
    ------
    ValueError
        Nothing was scored by position.
    """
    frame = frame.reset_index(drop=True)
    parts = frame["metric"].astype(str).str.extract(POSITION)
    scored = parts["source"].notna() & frame["value"].notna()
    if not scored.any():
        raise ValueError("nothing was scored by position (evaluation=positions)")
    rows = frame.loc[scored].assign(source=parts["source"])
    rows = rows.assign(first=parts["first"].loc[scored].astype(int), last=parts["last"].loc[scored].astype(int))
    rows["bucket"] = [0 if first == 0 else int(first).bit_length() - 4 for first in rows["first"]]
    rows["phase"] = [_phase(str(kinds)) for kinds in rows["kinds"]]
    rows["method"] = ["" if p == BEFORE else _method(m) for p, m in zip(rows["phase"], rows["model"], strict=True)]
    rows = rows.loc[rows["phase"] != ""]
    ends = rows.groupby(["trajectory", "phase", "method"])["tokens"].transform("max")
    return rows.loc[rows["tokens"] == ends]


def has_positions(frame: pd.DataFrame) -> bool:
    """Whether a model was scored by position with a longer context than it had."""
    try:
        return set(position_rows(frame)["phase"]) - {BEFORE} != set()
    except ValueError:
        return False


def _phase(kinds: str) -> str:
    """Name the phase by the kinds behind a row; empty where something else follows the longer context."""
    names = kinds.split(">")
    if "rescale" not in names:
        return BEFORE
    return {"rescale": SCALED, "extend": TRAINED}.get(names[-1], "")


def _method(model: str) -> str:
    """Read method and factor from a label such as `m0_3 yarn x4 trained`."""
    return " ".join(model.split(" ")[1:3])


def _method_order(method: str) -> tuple[int, str]:
    known = ("unscaled", "linear", "ntk", "yarn")
    name = method.split(" ")[0]
    return known.index(name) if name in known else len(known), method


def _draw_panel(axes: Axes, rows: pd.DataFrame, panel: str, marks: Marks) -> None:
    for phase, (color, marker, dash) in LOOKS.items():
        groups = group_by(rows.loc[rows["phase"] == phase], "bucket")
        axes.errorbar(
            [group.x for group in groups],
            [group.mean for group in groups],
            yerr=[_error(group) for group in groups],
            color=color,
            marker=marker,
            linestyle=dash,
            markersize=4.5,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=2,
        )
        for group in groups:
            marks.add(axes, group.x, group.mean, group.rows, panel=panel, role=phase)
    before = rows.loc[rows["phase"] == BEFORE, "bucket"]
    if len(before):
        axes.axvline(float(before.max()) + 0.5, color=style.GREY, linewidth=0.9, linestyle=":")
    places = rows.drop_duplicates("bucket").sort_values("bucket")
    labels = [f"{first}-{last}" for first, last in zip(places["first"], places["last"], strict=True)]
    axes.set_xticks(places["bucket"].tolist(), labels, rotation=45, ha="right")
    axes.set_title(panel)


def _error(group: Group) -> float:
    """Mean standard error of a group's rows, which share their documents; NaN where none is known."""
    errors = known_errors(column(group.rows, "stderr"))
    known = errors[errors == errors]
    return float(known.mean()) if len(known) else float("nan")


def _handles() -> list[Line2D]:
    words = {BEFORE: "before", SCALED: "longer context, no training", TRAINED: "after training at it"}
    lines = [
        Line2D([], [], color=color, marker=marker, linestyle=dash, markersize=4.5, label=words[phase])
        for phase, (color, marker, dash) in LOOKS.items()
    ]
    return [*lines, Line2D([], [], color=style.GREY, linestyle=":", linewidth=0.9, label="the old context ends")]
