"""What a branch learns and what it forgets: held-out loss of each domain, before and after the branch point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.columns import truths
from analysis.figures.points import Drawing, Marks, direction, draw_groups, group_by, register, study_name
from analysis.overrides import base_models, refuse_pooled

TRUNK = "trunk"
"""The part of the chain that all branches share."""
Looks = dict[str, tuple[str, str, Any]]


@register
def continual_figure(
    frame: pd.DataFrame, metrics: Sequence[str], *, baseline: str | None = None, title: str | None = None
) -> Drawing:
    """Held-out metrics against tokens, one line per branch, with the branch point marked.

    A line starts where its branch leaves the trunk. Filled markers are cooled down, hollow ones are not; lines go
    through the mean of the seeds, with a band over their range.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study and one model with branches off a shared trunk.
    metrics
        A column of panels each: the old domain's and the new ones', such as `heldout/prose/bits_per_byte`.
    baseline
        Label of a branch (the one that continues with the old mixture, as `branch_labels` gives it): a second row
        of panels shows the other branches' difference from it at equal tokens, paired by trajectory.
    title
        Heading; None names the study.

    Returns
    -------
    figure, points
        The plotted points; `role` is trunk, branch (not cooled down), cooled_down or difference.

    Raises
    ------
    ValueError
        Fewer than two branches share a trunk, there are several models or trunks that differ by more than seeds, a
        metric has no evaluated checkpoint, or the branch does not exist.
    """
    models = sorted(set(base_models(frame)))
    if len(models) > 1:
        raise ValueError(f"the frame has the models {', '.join(models)}: select the rows of one")
    runs = frame.assign(branch=branch_labels(frame))
    refuse_pooled(runs.loc[runs["branch"] == TRUNK], (), "the trunk")
    names = sorted(set(runs["branch"]) - {TRUNK})
    if len(names) < 2:
        raise ValueError(f"branches {names}: at least two that share a trunk are needed")
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline {baseline!r} is not a branch; the branches are: {', '.join(names)}")
    first = [baseline] if baseline else []
    looks = style.category_looks([TRUNK, *first, *(name for name in names if name != baseline)])
    marks, rows = Marks(), 2 if baseline else 1
    with style.house_style():
        figure = Figure(figsize=(1.0 + 3.6 * len(metrics), 0.9 + 3.0 * rows), layout="constrained")
        grid = figure.subplots(rows, len(metrics), squeeze=False, sharex=True)
        branch_points: set[float] = set()
        for place, metric in enumerate(metrics):
            scored = _scored(runs, metric)
            branch_points |= _draw_lines(grid[0, place], scored, metric, looks, marks)
            if baseline:
                _draw_differences(grid[1, place], scored, metric, looks, marks, baseline)
            grid[-1, place].set_xlabel("Tokens trained on")
        figure.suptitle(title or f"{study_name(frame)}: what branches learn and forget", x=0.01, ha="left")
        figure.legend(
            handles=_handles(looks, branch_points),
            loc="outside lower left",
            ncols=len(looks) + 3,
            title="Lines: mean over seeds. Bands: from the lowest seed to the highest.",
            alignment="left",
            title_fontsize=7.5,
        )
        return figure, marks.points()


def branch_labels(frame: pd.DataFrame) -> pd.Series:
    """Name each row's branch: `trunk`, or what distinguishes its model's label from the shortest one of its trajectory.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it: `m0_3 recipe=continual_code` there is the branch
        `continual_code` of the trunk `m0_3`.
    """
    rows = zip(frame["model"], frame["stage"], frame["trajectory"], strict=True)
    names = [TRUNK if stage == trajectory else _branch(str(model)) for model, stage, trajectory in rows]
    return pd.Series(names, index=frame.index, dtype=object)


def _branch(model: str) -> str:
    """Values of the overrides that distinguish a variant's label from its model's."""
    return " ".join(word.split("=", 1)[-1] for word in model.split(" ")[1:]) or "branch"


def has_branches(frame: pd.DataFrame) -> bool:
    """Whether branches with different recipes leave a trunk that the frame shows."""
    labels = set(zip(frame["trajectory"], branch_labels(frame), strict=True))
    found = Counter(trajectory for trajectory, label in labels if label != TRUNK and (trajectory, TRUNK) in labels)
    return max(found.values(), default=0) > 1


def _scored(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    scored = runs.loc[(runs["metric"] == metric) & runs["value"].notna()]
    if scored.empty:
        raise ValueError(f"metric {metric!r} was evaluated on no checkpoint")
    return scored.sort_values("tokens")


def _draw_lines(axes: Axes, scored: pd.DataFrame, metric: str, looks: Looks, marks: Marks) -> set[float]:
    """Draw trunk and branches; return the tokens at which branches begin, where the trunk was scored there."""
    begin = float(scored.loc[scored["branch"] != TRUNK, "tokens"].min())
    before = [g for g in group_by(scored.loc[scored["branch"] == TRUNK], "tokens") if g.x < begin]
    for name, (color, marker, dash) in looks.items():
        groups = group_by(scored.loc[scored["branch"] == name], "tokens")
        line = groups if name == TRUNK else [*before[-1:], *groups]
        draw_groups(axes, line, color, linestyle=dash, linewidth=1.5, zorder=3)
        for group in groups:
            cooled = bool(truths(group.rows, "annealed").all())
            size, face = (6, color) if cooled else (4.5, "white")
            axes.plot([group.x], [group.mean], marker, markersize=size, color=color, markerfacecolor=face, zorder=4)
            role = TRUNK if name == TRUNK else "cooled_down" if cooled else "branch"
            marks.add(axes, group.x, group.mean, group.rows, panel=metric, role=role)
    branch_points = {group.x for group in before[-1:]}
    for tokens in branch_points:
        axes.axvline(tokens, color=style.GREY, linewidth=0.9, linestyle=":")
    axes.xaxis.set_major_formatter(style.COUNTS)
    axes.set_title(style.metric_label(metric))
    axes.set_ylabel(f"{style.metric_label(metric).split(',')[0]} {direction(metric)}")
    return branch_points


def _draw_differences(axes: Axes, scored: pd.DataFrame, metric: str, looks: Looks, marks: Marks, baseline: str) -> None:
    keys = ["trajectory", "tokens"]
    reference = scored.loc[scored["branch"] == baseline, [*keys, "value"]]
    for name in (name for name in looks if name not in (TRUNK, baseline)):
        both = scored.loc[scored["branch"] == name].merge(reference, on=keys, suffixes=("", "_baseline"))
        groups = group_by(both.assign(gap=both["value"] - both["value_baseline"]), "tokens", "gap")
        color, marker, dash = looks[name]
        draw_groups(axes, groups, color, marker=marker, linestyle=dash, markersize=4.5)
        for group in groups:
            paired = scored["trajectory"].isin(group.rows["trajectory"]) & (scored["tokens"] == group.x)
            behind = scored.loc[paired & scored["branch"].isin([name, baseline])]
            marks.add(axes, group.x, group.mean, behind, panel=metric, role="difference")
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    axes.set_ylabel(f"{style.metric_label(metric).split(',')[0]} above {baseline}")


def _handles(looks: Looks, branch_points: set[float]) -> list[Line2D]:
    lines = [
        Line2D([], [], color=color, marker=marker, linestyle=dash, markersize=5, label=name)
        for name, (color, marker, dash) in looks.items()
    ]
    for label, face in (("cooled down", style.GREY), ("not cooled down", "white")):
        lines.append(
            Line2D(
                [], [], color=style.GREY, marker="o", linestyle="none", markerfacecolor=face, markersize=5, label=label
            )
        )
    if branch_points:
        where = " and ".join(style.count_label(tokens) for tokens in sorted(branch_points))
        lines.append(Line2D([], [], color=style.GREY, linestyle=":", linewidth=0.9, label=f"branches begin: {where}"))
    return lines
