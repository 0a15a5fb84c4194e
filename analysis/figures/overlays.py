"""What can be laid over a figure of metrics against tokens: reference points, chance levels, falls."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.columns import truth
from analysis.figures.points import Marks


def draw_reference(axes: Axes, overlay: pd.DataFrame | None, metric: str, marks: Marks) -> list[float]:
    """Draw a reference's points of one metric in grey; return their tokens."""
    if overlay is None:
        return []
    known = overlay.loc[(overlay["metric"] == metric) & overlay["value"].notna() & overlay["tokens"].notna()]
    for model, rows in known.groupby("model", sort=False):
        line = rows.sort_values("tokens")
        axes.plot(line["tokens"], line["value"], "x--", color=style.GREY, linewidth=1, markersize=5, zorder=2)
        end = float(line["tokens"].iloc[-1]), float(line["value"].iloc[-1])
        axes.annotate(str(model), end, (-3, 5), textcoords="offset points", ha="right", fontsize=7)
    marks.add_rows(axes, known, x="tokens", y="value", panel=metric, role="reference")
    return known["tokens"].astype(float).tolist()


def draw_judgements(axes: Axes, judged: pd.DataFrame | None, scored: pd.DataFrame, metric: str) -> None:
    """Mark what `analysis.tasks.curve_shapes` found: chance levels, falls beyond the noise, uninformative curves."""
    if judged is None:
        return
    rows = judged.loc[judged["metric"] == metric]
    for level in sorted(set(rows["chance"].dropna().astype(float))):
        axes.axhline(level, color=style.GREY, linewidth=0.9, linestyle=":", zorder=1)
        axes.annotate(
            "chance",
            (1.0, level),
            (-2, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color=style.GREY,
        )
    for row in rows.to_dict("records"):
        if _is_true(row["not_monotone"]):
            _draw_fall(axes, row, scored)
    _list_marks(axes, rows, lower_left=style.lower_is_better(metric, unknown=False))


def _is_true(mark: object) -> bool:
    """Whether a judgement is true; a missing one is not."""
    return truth(mark) is True


def _draw_fall(axes: Axes, row: dict[Any, Any], scored: pd.DataFrame) -> None:
    """Join the two points between which a curve fell most."""
    curve = scored.loc[scored["model"] == row["model"]]
    if row["curve"] == "milestones":
        curve = curve.loc[curve["stage"] == row["stage"]]
    ends = [float(row[f"fall_{end}_tokens"]) for end in ("from", "to")]
    values = [float(curve.loc[curve["tokens"] == tokens, "value"].mean()) for tokens in ends]
    axes.plot(ends, values, color=style.HELD_OUT, linewidth=4, alpha=0.45, solid_capstyle="round", zorder=1)


def _list_marks(axes: Axes, rows: pd.DataFrame, *, lower_left: bool) -> None:
    """Name the marked models where curves that learn leave room: at the left, above those that rise.

    A model is named if any of its curves falls, and as saturated or at chance only if all of its curves are.
    """
    texts: list[str] = []
    names = (
        ("not_monotone", "falls beyond the noise (orange)"),
        ("saturated", "saturated"),
        ("at_chance", "at chance"),
    )
    for column, words in names:
        own = {
            str(model): [_is_true(mark) for mark in curves[column] if mark is not None]
            for model, curves in rows.groupby("model", sort=False)
        }
        agree = any if column == "not_monotone" else all
        models = [model for model, marks in own.items() if marks and agree(marks)]
        if models:
            listed = (
                f"all {len(models)}" if set(models) == set(rows["model"]) and len(models) > 1 else ", ".join(models)
            )
            texts.append(textwrap.fill(f"{words}: {listed}", 46, subsequent_indent="  ", break_on_hyphens=False))
    y, side = (0.03, "bottom") if lower_left else (0.97, "top")
    axes.text(0.02, y, "\n".join(texts), transform=axes.transAxes, va=side, fontsize=7, color=style.HELD_OUT, zorder=5)
