"""The value of repeated data: loss against epochs, and effective against seen tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.columns import truths
from analysis.figures.points import Array, Drawing, Group, Marks, draw_groups, group_by, register, study_name
from analysis.frames import require_columns

FRESH_EPOCHS = 1.05
"""Epochs up to which data count as fresh: rounding in a source repeats a sequence or two."""


@register
def repetition_figure(
    frame: pd.DataFrame, *, decay: float | Mapping[float, float] | None = None, title: str | None = None
) -> Drawing:
    """Loss against epochs and effective against seen tokens, one line per number of distinct tokens.

    Dashed lines on the left are fresh data of the same length. On the right, a point is the number of fresh tokens
    that give the same loss as its repeated ones, interpolated between fresh runs of the same size
    (log-linear between neighbours); those beyond the fresh runs are counted below. With `decay`, curves show
    D' = U (1 + R* (1 - exp(-R / R*))), and R* ln 2 repetitions are marked: from there on a further token is worth
    less than half a fresh one.

    Parameters
    ----------
    frame
        Columns params, tokens, unique_tokens and loss, and those of lineage where they are known, as
        `analysis.frames.select_loss` gives them; of one study.
    decay
        R_D* in repetitions, as a fit of `analysis.laws.DataConstrained` has it under `R_D`, one for all or by size N;
        sizes without one get no curve.
    title
        Heading; None names the study.

    Returns
    -------
    figure, points
        The plotted points; `role` is repeated or fresh (against epochs), and effective.

    Raises
    ------
    ValueError
        A column is missing, or no run repeats its data.

    References
    ----------
    Muennighoff et al. 2023, "Scaling Data-Constrained Language Models", eq. 5.
    """
    require_columns(frame, ("params", "tokens", "unique_tokens", "loss"))
    runs = _with_epochs(frame)
    if bool(runs["fresh"].to_numpy(dtype=bool).all()):
        raise ValueError("no run repeats its data: tokens are unique_tokens everywhere")
    sizes = sorted(set(runs["params"].astype(float)))
    metric, marks = str(frame.attrs.get("metric", "loss")), Marks()
    decays = dict(decay) if isinstance(decay, Mapping) else dict.fromkeys(sizes, decay) if decay is not None else {}
    looks = _looks(runs)
    with style.house_style():
        figure = Figure(figsize=(10.2, 0.9 + 3.8 * len(sizes)), layout="constrained")
        grid = figure.subplots(len(sizes), 2, squeeze=False)
        beyond = 0
        for (left, right), size in zip(grid, sizes, strict=True):
            rows = runs.loc[runs["params"].astype(float) == size]
            panel = f"N = {style.count_label(size)}"
            own = decays.get(size)
            _draw_epochs(left, rows, panel, looks, marks, own)
            beyond += _draw_effective(right, rows, panel, looks, marks, own)
            left.set_ylabel(f"{style.metric_label(metric)} (lower is better)")
        figure.suptitle(title or f"{study_name(frame)}: what repeated data are worth", x=0.01, ha="left")
        figure.legend(
            handles=[
                Line2D([], [], color=color, marker=marker, label=f"{style.count_label(pool)} distinct tokens")
                for pool, (color, marker) in looks.items()
            ],
            loc="outside lower left",
            ncols=4,
            title=_caption(decays, beyond),
            alignment="left",
            title_fontsize=7.5,
        )
        return figure, marks.points()


def repeats_data(frame: pd.DataFrame) -> bool:
    """Whether any cooled-down run of a frame saw its data more than once."""
    known = frame.loc[truths(frame, "annealed") & frame["unique_tokens"].notna()]
    return not bool(_with_epochs(known)["fresh"].to_numpy(dtype=bool).all())


def _with_epochs(frame: pd.DataFrame) -> pd.DataFrame:
    """Epochs of each run, whether its data were fresh, and the pool of distinct tokens that it belongs to.

    Pools are the distinct tokens of runs that repeat; counts within a twentieth are one pool, since a run ends
    with its last whole batch. A fresh run that saw about as many is its pool's first epoch.
    """
    unique = frame["unique_tokens"].astype(float).to_numpy()
    epochs = frame["tokens"].astype(float).to_numpy() / unique
    pools: list[float] = []
    for count in sorted(set(unique[epochs > FRESH_EPOCHS].tolist()), reverse=True):
        if not pools or count < pools[-1] / FRESH_EPOCHS:
            pools.append(count)
    own = [next((pool for pool in pools if pool / FRESH_EPOCHS <= count <= pool * 1.01), math.nan) for count in unique]
    return frame.assign(epochs_seen=epochs, fresh=epochs <= FRESH_EPOCHS, pool=own)


def _looks(rows: pd.DataFrame) -> dict[float, tuple[str, str]]:
    pools = sorted(set(rows.loc[~rows["fresh"], "pool"].astype(float)))
    colors = style.size_colors(len(pools))
    return {pool: (colors[index], style.MARKERS[index % len(style.MARKERS)]) for index, pool in enumerate(pools)}


def _draw_epochs(
    axes: Axes,
    rows: pd.DataFrame,
    panel: str,
    looks: dict[float, tuple[str, str]],
    marks: Marks,
    decay: float | None,
) -> None:
    fresh = group_by(rows.loc[rows["fresh"]], "tokens", "loss")
    for pool, (color, marker) in looks.items():
        line = rows.loc[(rows["pool"] == pool)]
        groups = group_by(line, "epochs_seen", "loss")
        if not groups:
            continue
        draw_groups(axes, groups, color, marker=marker, markersize=5.5, zorder=3)
        _mark_groups(marks, axes, groups, panel, "repeated")
        same = [group for group in fresh if pool * 0.95 <= group.x <= pool * 1.05 * groups[-1].x]
        xs = [group.x / pool for group in same]
        axes.plot(xs, [group.mean for group in same], "--", color=color, linewidth=1, marker=".", zorder=2)
        for x, group in zip(xs, same, strict=True):
            marks.add(axes, x, group.mean, group.rows, panel=panel, role="fresh")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(style.COUNTS)
    axes.set_xlabel("Epochs over the distinct tokens")
    if decay is not None:
        _mark_half_life(axes, decay)
    axes.set_title(f"{panel}; dashed: fresh data of the same length")


def _mark_half_life(axes: Axes, decay: float) -> None:
    """Draw a line where a further repetition is worth half, or state that it lies beyond the runs."""
    repetitions, last = decay * math.log(2), axes.get_xlim()[1]
    words = f"half-life: {repetitions:.3g} repetitions"
    place, side = axes.transAxes, "right"
    if 1 + repetitions < last:
        axes.axvline(1 + repetitions, color=style.GREY, linestyle=":", linewidth=1)
        place, side = axes.get_xaxis_transform(), "left"
    else:
        words += ", beyond the runs"
    x = 0.98 if side == "right" else (1 + repetitions) * 1.04
    axes.text(x, 0.97, words, transform=place, ha=side, va="top", fontsize=7, color=style.GREY)


def _draw_effective(
    axes: Axes,
    rows: pd.DataFrame,
    panel: str,
    looks: dict[float, tuple[str, str]],
    marks: Marks,
    decay: float | None,
) -> int:
    """Draw effective tokens; return the number of repeated groups whose loss lies beyond the fresh runs."""
    fresh, beyond = group_by(rows.loc[rows["fresh"]], "tokens", "loss"), 0
    low, high = rows["tokens"].astype(float).min() / 1.2, rows["tokens"].astype(float).max() * 1.2
    axes.plot([low, high], [low, high], color=style.GREY, linewidth=0.9, label="fresh")
    axes.annotate("fresh", (high / 1.3, high / 1.3), (-4, 4), textcoords="offset points", ha="right", fontsize=7)
    for pool, (color, marker) in looks.items():
        repeated = rows.loc[(rows["pool"] == pool) & ~rows["fresh"]]
        seen = group_by(repeated, "tokens", "loss")
        known = [(g, tokens) for g in seen if (tokens := _fresh_tokens(fresh, g.mean)) is not None]
        beyond += len(seen) - len(known)
        axes.plot([g.x for g, _ in known], [t for _, t in known], marker, color=color, markersize=5.5, zorder=3)
        for group, tokens in known:
            marks.add(axes, group.x, tokens, group.rows, panel=panel, role="effective")
        if decay is not None:
            span = np.geomspace(pool, high, 100)
            axes.plot(span, _effective(span, pool, decay), color=color, linewidth=1.2, zorder=2)
            half = np.array([pool * (1 + decay * math.log(2))])
            if half[0] < high:
                axes.plot(half, _effective(half, pool, decay), "|", color=color, markersize=14, zorder=4)
    axes.set_yscale("log")
    style.token_axis(axes, rows["tokens"].astype(float).tolist(), "Tokens seen")
    style.log_axis(axes.yaxis, rows["tokens"].astype(float).tolist(), counts=True)
    axes.set_ylabel("Effective tokens")
    axes.set_title("Fresh tokens of the same loss")
    return beyond


def _effective(tokens: Array, unique: float, decay: float) -> Array:
    return unique * (1 - decay * np.expm1(-(tokens / unique - 1) / decay))


def _fresh_tokens(fresh: list[Group], loss: float) -> float | None:
    """Tokens at which the fresh runs reach a loss, log-linear between neighbours; None beyond them."""
    for before, after in itertools.pairwise(fresh):
        if after.mean <= loss <= before.mean and before.mean > after.mean:
            share = (before.mean - loss) / (before.mean - after.mean)
            return float(before.x * (after.x / before.x) ** share)
    return None


def _mark_groups(marks: Marks, axes: Axes, groups: list[Group], panel: str, role: str) -> None:
    for group in groups:
        marks.add(axes, group.x, group.mean, group.rows, panel=panel, role=role)


def _caption(decays: Mapping[float, float], beyond: int) -> str:
    words: list[str] = []
    if decays:
        fitted = ", ".join(f"{value:.3g} repetitions (N = {style.count_label(size)})" for size, value in decays.items())
        words.append(f"Curves on the right: the fitted law, R_D* = {fitted}; a bar marks the half-life.")
    if beyond:
        words.append(f"Not shown on the right, because their loss lies outside that of the fresh runs: {beyond}.")
    return "\n".join(words)
