"""What can be laid over a figure of metrics against tokens: reference points, chance levels, falls."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# (pandas and matplotlib are typed in part)
from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.figures.points import Marks


def draw_reference(axes: Axes, overlay: pd.DataFrame | None, metric: str, marks: Marks) -> list[float]:
    """Draw a reference's points of one metric in grey; give the tokens they stand at."""
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
    """Mark what `analysis.tasks.task_curves` found: the chance level, and falls beyond the noise."""
    if judged is None:
        return
    rows = judged.loc[judged["metric"] == metric].to_dict("records")
    levels = sorted({float(row["chance"]) for row in rows if not pd.isna(row["chance"])})
    for level in levels:
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
    for row in rows:
        if row["not_monotone"] is True or str(row["not_monotone"]) == "True":
            _draw_fall(axes, row, scored)


def _draw_fall(axes: Axes, row: dict[str, object], scored: pd.DataFrame) -> None:
    """Join the two points between which a curve fell most."""
    curve = scored.loc[scored["model"] == row["model"]]
    if row["curve"] == "milestones":
        curve = curve.loc[curve["stage"] == row["stage"]]
    ends = [float(str(row[f"fall_{end}_tokens"])) for end in ("from", "to")]
    values = [float(curve.loc[curve["tokens"] == tokens, "value"].mean()) for tokens in ends]
    axes.plot(ends, values, color=style.HELD_OUT, linewidth=4, alpha=0.45, solid_capstyle="round", zorder=1)
    axes.annotate(
        f"{row['model']} falls",
        (ends[1], values[1]),
        (0, -11),
        textcoords="offset points",
        ha="right",
        fontsize=7,
        color=style.HELD_OUT,
    )
