"""The effect of seeds: one dot per run, initialisation crossed with data order."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import style
from analysis.figures.metric_panels import finish_panels, make_panels
from analysis.figures.points import Drawing, Marks, column, model_sizes, register, study_name
from analysis.frames import cooled_scores
from analysis.noise.crossed import seed_components
from analysis.overrides import label_order

Looks = dict[int, tuple[str, str, Any]]


@register
def seeds_figure(frame: pd.DataFrame, metric: str, *, title: str | None = None) -> Drawing:
    """Draw crossed seeds, one panel per model: the metric against the data order's seed, one line per initialisation.

    Parallel lines at different heights are the effect of the initialisation, slopes they share that of the data order,
    and crossing lines are what belongs to neither. The band is the mean, and one standard deviation of
    a run with two new seeds.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study; its cooled-down, evaluated rows are drawn.
    metric
        Its name.
    title
        Heading; None names the study.

    Returns
    -------
    figure, points
        The plotted points, one mark per run; `role` is cooled_down.

    Raises
    ------
    ValueError
        The metric was evaluated on no cooled-down point, or a model's seeds are not crossed (the message names what is
        missing).
    """
    scored = cooled_scores(frame, metric)
    sizes = model_sizes(scored)
    models = sorted(sizes, key=lambda model: (sizes[model], label_order(model)))
    inits = sorted({int(seed) for seed in scored["seed_init"]})
    looks: Looks = dict(zip(inits, style.category_looks([str(seed) for seed in inits]).values(), strict=True))
    marks = Marks()
    with style.house_style():
        figure, grid = make_panels(len(models), width=3.4, margin=1.2, height=4.2)
        for axes, model in zip(grid, models, strict=True):
            rows = scored.loc[scored["model"] == model]
            total = {part.source: part for part in seed_components(rows, metric)}["both seeds"]
            _draw_model(axes, rows, looks, total.sd, marks)
            name = f"{model}: {style.count_label(sizes[model])} parameters"
            axes.set_title(f"{name}\nsd {total.sd:.3f} ({total.low**0.5:.3f} to {total.high**0.5:.3f})")
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle=dash, label=f"initialisation {seed}")
            for seed, (color, marker, dash) in looks.items()
        ]
        note = "Band: mean and one standard deviation of a run with two new seeds (95% interval above)."
        finish_panels(figure, metric, title or f"{study_name(frame)}: the effect of seeds", handles, note)
        return figure, marks.points()


def _draw_model(axes: Axes, rows: pd.DataFrame, looks: Looks, sd: float, marks: Marks) -> None:
    mean = float(column(rows, "value").mean())
    axes.axhspan(mean - sd, mean + sd, color=style.GREY, alpha=0.15, linewidth=0)
    axes.axhline(mean, color=style.GREY, linewidth=0.9)
    for seed, (color, marker, dash) in looks.items():
        line = rows.loc[rows["seed_init"] == seed].sort_values("seed_data")
        axes.plot(
            line["seed_data"],
            line["value"],
            marker,
            color=color,
            linestyle=dash,
            linewidth=0.9,
            markersize=5.5,
            zorder=3,
        )
        marks.add_rows(axes, line, x="seed_data", y="value", panel=str(rows["model"].iloc[0]), role="cooled_down")
    axes.set_xticks(sorted({int(seed) for seed in rows["seed_data"]}))
    axes.set_xlabel("Seed of the data order")
