"""Variants against their baseline, as a forest plot."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.ablation.blocks import ANY_RATE, VariantOf, label_runs
from analysis.columns import truths
from analysis.figures.points import Drawing, Marks, register, study_name

BETTER, WORSE, WITHIN = "#004488", "#bb5566", style.GREY


@register
def ablation_figure(
    table: pd.DataFrame,
    frame: pd.DataFrame,
    *,
    variant: VariantOf = "model",
    rate: VariantOf | None = None,
    title: str | None = None,
) -> Drawing:
    """Forest plot of an ablation table: differences from the baseline with their intervals, one panel per metric.

    Differences beyond the noise are filled, those within it hollow; the grey band shows differences too small
    for the seeds to detect. Text beside each row gives the difference in training
    tokens of the baseline, where the table knows it.

    Parameters
    ----------
    table
        As `analysis.ablation.ablation_table` gives it.
    frame
        The tidy frame it was made from; every mark leads to the runs whose mean it is: the variant's
        and the baseline's, each at the rate chosen for it, of the seeds that both have.
    variant, rate
        Columns or functions of the variants' labels and learning rates, as given to `ablation_table`.
    title
        Heading; None names the study.

    Returns
    -------
    figure, points
        The plotted points, one row per run behind a difference; `role` is effect.

    Raises
    ------
    ValueError
        The table is empty, or was made with a `rate` that is missing here.
    """
    if table.empty:
        raise ValueError("the ablation table is empty: nothing to draw")
    if rate is None and (table[["rate", "baseline_rate"]] != ANY_RATE).to_numpy().any():
        raise ValueError("the table chose learning rates: give the same rate= here")
    metrics = list(dict.fromkeys(table["metric"]))
    order = list(dict.fromkeys(table["variant"]))
    cooled = label_runs(frame.loc[truths(frame, "annealed") & frame["value"].notna()], variant, rate)
    marks = Marks()
    with style.house_style():
        width, height = 2.2 + 3.9 * len(metrics), 1.9 + 0.36 * len(order)
        figure = Figure(figsize=(width, height), layout="constrained")
        panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            rows = table.loc[table["metric"] == metric].to_dict("records")
            _draw_panel(axes, rows, order, metric)
            scored = cooled.loc[cooled["metric"] == metric]
            for row in (one for one in rows if one["seeds"]):
                place, behind = float(order.index(row["variant"])), _behind(scored, row)
                marks.add(axes, float(row["difference"]), place, behind, panel=metric, role="effect")
        baseline = table["baseline"].iloc[0]
        figure.suptitle(title or f"{study_name(frame)}: difference from {baseline}", x=0.01, ha="left")
        figure.legend(
            handles=_handles(),
            loc="outside lower left",
            ncols=3,
            title=_caption(table),
            alignment="left",
            title_fontsize=7.5,
        )
        return figure, marks.points()


def _behind(scored: pd.DataFrame, row: dict[Any, Any]) -> pd.DataFrame:
    """Take the runs whose mean is one difference."""
    own, base = (
        scored.loc[(scored["_variant"] == str(row[name])) & (scored["_rate"] == row[rate])]
        for name, rate in (("variant", "rate"), ("baseline", "baseline_rate"))
    )
    paired = set(own["_seed"]) & set(base["_seed"])
    both = pd.concat([own, base])
    return both.loc[both["_seed"].isin(list(paired))]


def _draw_panel(axes: Axes, rows: list[dict[Any, Any]], order: list[str], metric: str) -> None:
    known = [float(row["detectable"]) for row in rows if not pd.isna(row["detectable"])]
    if known:
        axes.axvspan(-max(known), max(known), color="#ececec", zorder=0)
    axes.axvline(0, color=style.GREY, linewidth=0.9)
    for row in rows:
        place = order.index(row["variant"])
        color = {"variant": BETTER, "baseline": WORSE}.get(str(row["better"]), WITHIN)
        error = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]]
        axes.errorbar(
            [row["difference"]],
            [place],
            xerr=error,
            color=color,
            marker={"variant": "o", "baseline": "s"}.get(str(row["better"]), "D"),
            markersize=6,
            markerfacecolor=color if row["mark"] == "beyond" else "white",
            capsize=2.5,
            elinewidth=1.3,
            zorder=3,
        )
        axes.annotate(
            _beside(row),
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(order)), order)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_title(style.metric_label(metric))
    lower = rows[0]["lower_is_better"]
    better = "left" if lower else "right"
    axes.set_xlabel(f"Difference ({better} is better)")


def _beside(row: dict[Any, Any]) -> str:
    """Write the difference and, where it is known, what it is worth in training."""
    words = f"{row['difference']:+.3f}"
    times = row.get("times")
    return words if times is None or pd.isna(times) else f"{words} = tokens x{times:.2f}"


def _caption(table: pd.DataFrame) -> str:
    seeds = sorted(set(table["seeds"].astype(int)))
    counts = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    level, power = 1 - float(table["alpha"].iloc[0]), float(table["power"].iloc[0])
    words = [
        f"Paired over {counts} seeds, {level:.0%} intervals; marks after the correction: {table['correction'].iloc[0]}."
    ]
    words.append(f"Grey: differences too small to be found with probability {power:.0%}.")
    notes = (note for row in table.to_dict("records") if row["note"] for note in str(row["note"]).split("; "))
    for note in dict.fromkeys(notes):
        words += textwrap.wrap(note, 110)
    return "\n".join(words)


def _handles() -> list[Line2D]:
    looks = (
        ("variant better, beyond the noise", BETTER, "o", BETTER),
        ("baseline better, beyond the noise", WORSE, "s", WORSE),
        ("within the noise, or noise not known", WITHIN, "D", "white"),
    )
    return [
        Line2D([], [], color=color, marker=marker, markerfacecolor=face, markersize=6, linewidth=1.3, label=label)
        for label, color, marker, face in looks
    ]
