"""Axes drawn from a frame: these functions take data and never fetch any.

Each returns the figure and the plotted points, every one with the MLflow run it came from; `save_figure`
writes both side by side.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# (pandas and matplotlib are typed in part)
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis import style
from analysis.fit import Fit, select_runs

POINT_COLUMNS = [
    "panel",
    "role",
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


def token_scaling_figure(
    frame: pd.DataFrame, metric: str | Sequence[str], *, title: str | None = None
) -> tuple[Figure, pd.DataFrame]:
    """Metrics against tokens, a line a model size, a panel a metric.

    Filled markers are cooled-down points, joined by a line through the mean of the seeds, with a band over
    the seeds' range; hollow markers on a thin line are milestones of a trunk or of an unfinished decay. Bars
    are one standard error of the evaluation.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study.
    metric
        One metric's name or several.
    title
        Heading; None names the study.

    Returns
    -------
    figure, points
        The plotted points, with columns `POINT_COLUMNS`; `role` is cooled_down or milestone.

    Raises
    ------
    ValueError
        A metric is unknown to the frame, nothing was evaluated on it, or several cooled-down points share
        model, tokens and seeds, so that a line would mix variants.
    """
    metrics = [metric] if isinstance(metric, str) else list(metric)
    with style.house_style():
        columns, rows = min(2, len(metrics)), math.ceil(len(metrics) / 2)
        figure = Figure(figsize=(1.2 + 4.6 * columns, 0.8 + 3.8 * rows), layout="constrained")
        parts = [
            _draw_panel(figure.add_subplot(rows, columns, place), frame, name)
            for place, name in enumerate(metrics, start=1)
        ]
        points = pd.concat(parts, ignore_index=True)
        figure.suptitle(title or f"{_study_name(frame)}: held-out scores against training tokens", x=0.01, ha="left")
        figure.legend(
            handles=_size_handles(points) + _role_handles(points),
            loc="outside lower left",
            ncols=min(4, len(set(points["model"]))),
            title=_caption(frame, points, metrics),
            alignment="left",
            title_fontsize=7.5,
        )
    return figure, points


def fit_figure(frame: pd.DataFrame, fit: Fit) -> tuple[Figure, pd.DataFrame]:
    """Cooled-down points with the fitted law, and the relative error of each beside it.

    Runs that the fit did not see are drawn in another colour. Without an identifiable fit the points stand
    alone and the figure says why.

    Parameters
    ----------
    frame
        The frame that was fitted.
    fit
        What `analysis.fit.fit_law` made of it.

    Returns
    -------
    figure, points
        The plotted points; `role` is fitted or held_out.

    Raises
    ------
    ValueError
        The fit's metric is unknown to the frame.
    """
    runs = select_runs(frame, fit.target)
    role = np.where(runs[fit.size_column].isin(fit.sizes), "fitted", "held_out")
    points = runs.assign(panel=fit.target, role=role).loc[:, POINT_COLUMNS]
    with style.house_style():
        figure = Figure(figsize=(9.6, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
        _draw_law(left, points, fit)
        _draw_errors(right, points, fit)
        figure.suptitle(f"{_study_name(frame)}: {style.metric_label(fit.target)}", x=0.01, ha="left")
        figure.text(0.01, -0.01, fit.describe(), ha="left", va="top", fontsize=8, color=style.GREY)
    return figure, points


def save_figure(figure: Figure, points: pd.DataFrame, directory: Path, name: str) -> list[Path]:
    """Write `<name>.svg`, `.png` and the plotted points as `.csv`.

    Returns
    -------
    list of Path
        The three files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}.{kind}" for kind in ("svg", "png", "csv")]
    with style.house_style():
        figure.savefig(paths[0], metadata={"Date": None})
        figure.savefig(paths[1])
    points.to_csv(paths[2], index=False)
    return paths


def _draw_panel(axes: Axes, frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    if metric not in set(frame["metric"].dropna()):
        raise ValueError(f"metric {metric!r} is not in the frame; there are: {sorted(set(frame['metric'].dropna()))}")
    scored = frame.loc[(frame["metric"] == metric) & frame["value"].notna()]
    if scored.empty:
        raise ValueError(f"metric {metric!r} was evaluated on no checkpoint")
    cooled, trunk = scored.loc[scored["annealed"]], scored.loc[~scored["annealed"]]
    _refuse_variants(cooled, metric)
    looks = _looks(frame)
    for _, line in trunk.groupby(["trajectory", "stage"], sort=False):
        _draw_trunk(axes, line.sort_values("tokens"), *looks[str(line["model"].iloc[0])])
    for model, runs in cooled.groupby("model", sort=False):
        _draw_cooled(axes, runs, *looks[str(model)])
    style.token_axis(axes, scored["tokens"].tolist())
    axes.set_title(style.metric_label(metric))
    direction = "lower is better" if style.lower_is_better(metric) else "higher is better"
    axes.set_ylabel(f"{style.metric_label(metric).split(',')[0]} ({direction})")
    parts = [cooled.assign(role="cooled_down"), trunk.assign(role="milestone")]
    return pd.concat(parts, ignore_index=True).assign(panel=metric).loc[:, POINT_COLUMNS]


def _draw_trunk(axes: Axes, line: pd.DataFrame, color: str, marker: str) -> None:
    axes.errorbar(
        line["tokens"],
        line["value"],
        yerr=_column(line, "stderr"),
        color=color,
        marker=marker,
        markersize=4.5,
        markerfacecolor="white",
        markeredgewidth=1.0,
        linewidth=0.7,
        elinewidth=0.6,
        linestyle=(0, (4, 2)),
        alpha=0.75,
        zorder=2,
    )


def _draw_cooled(axes: Axes, runs: pd.DataFrame, color: str, marker: str) -> None:
    tokens = np.array(sorted(set(runs["tokens"])), dtype=float)
    groups = [runs.loc[runs["tokens"] == count] for count in tokens]
    values = [_column(group, "value") for group in groups]
    mean = np.array([value.mean() for value in values])
    if max(len(value) for value in values) > 1:
        low, high = [value.min() for value in values], [value.max() for value in values]
        axes.fill_between(tokens, low, high, color=color, alpha=0.18, linewidth=0, zorder=1)
    axes.plot(tokens, mean, color=color, linewidth=1.8, zorder=3)
    axes.errorbar(
        tokens,
        mean,
        # Seeds are scored on the same documents: their mean's sampling error is that of one of them.
        yerr=[_column(group, "stderr").mean() for group in groups],
        color=color,
        marker=marker,
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linestyle="none",
        elinewidth=1.1,
        capsize=2,
        zorder=4,
    )


def _draw_law(axes: Axes, points: pd.DataFrame, fit: Fit) -> None:
    looks = _looks(points)
    tokens = _column(points, "tokens")
    spread = np.geomspace(tokens.min() / 1.1, tokens.max() * 1.1, 200)
    for model, runs in points.groupby("model", sort=False):
        color, marker = looks[str(model)]
        held_out = set(runs["role"]) == {"held_out"}
        size = float(runs[fit.size_column].iloc[0])
        if fit.identifiable:
            curve = fit.predict(np.full_like(spread, size), spread)
            axes.plot(spread, curve, color=color, linewidth=1.2, linestyle="--" if held_out else "-", zorder=2)
        axes.errorbar(
            runs["tokens"],
            runs["value"],
            yerr=_column(runs, "stderr"),
            color=color,
            marker=marker,
            markersize=6,
            markeredgecolor=style.HELD_OUT if held_out else "white",
            markeredgewidth=1.3 if held_out else 0.6,
            linestyle="none",
            elinewidth=1.0,
            label=f"{model}, N = {style.count_label(size)}" + (" (held out)" if held_out else ""),
            zorder=3,
        )
    style.token_axis(axes, points["tokens"].tolist())
    axes.set_ylabel(style.metric_label(fit.target))
    axes.set_title("Fitted law" if fit.identifiable else "No fit: not identifiable")
    axes.legend()


def _draw_errors(axes: Axes, points: pd.DataFrame, fit: Fit) -> None:
    if not fit.identifiable:
        axes.set_axis_off()
        return
    looks = _looks(points)
    for model, runs in points.groupby("model", sort=False):
        color, marker = looks[str(model)]
        predicted = fit.predict(_column(runs, fit.size_column), _column(runs, "tokens"))
        held_out = set(runs["role"]) == {"held_out"}
        edge = style.HELD_OUT if held_out else "white"
        error = 100 * (predicted / _column(runs, "value") - 1)
        axes.plot(runs["tokens"], error, marker, color=color, markersize=6, markeredgecolor=edge, markeredgewidth=1.2)
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    style.token_axis(axes, points["tokens"].tolist())
    axes.set_title("Predicted against measured")
    axes.set_ylabel("Relative error, % (orange edge: held out)")


def _refuse_variants(cooled: pd.DataFrame, metric: str) -> None:
    keys = ["model", "tokens", "seed_init", "seed_data"]
    twice = cooled.loc[cooled.duplicated(keys, keep=False)]
    if not twice.empty:
        raise ValueError(
            f"{metric}: {len(twice)} cooled-down points share model, tokens and seeds, such as "
            f"{twice['point'].iloc[0]!r} and {twice['point'].iloc[1]!r}; give one variant's rows"
        )


def _looks(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Colour and marker of each model, by size."""
    sizes = _sizes(frame)
    models = sorted(sizes, key=lambda model: (sizes[model], model))
    colors = style.size_colors(len(models))
    return {
        model: (color, style.MARKERS[index % len(style.MARKERS)])
        for index, (model, color) in enumerate(zip(models, colors, strict=True))
    }


def _sizes(frame: pd.DataFrame) -> dict[str, int]:
    """Parameters without embeddings of each model."""
    return dict(zip(frame["model"].astype(str), frame["params_non_embedding"].astype(int), strict=True))


def _column(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    return frame[name].to_numpy(dtype=np.float64)


def _size_handles(points: pd.DataFrame) -> list[Line2D]:
    sizes = _sizes(points)
    return [
        Line2D(
            [],
            [],
            color=color,
            marker=marker,
            markersize=6,
            linewidth=1.8,
            label=f"{model}: {style.count_label(sizes[model])} parameters",
        )
        for model, (color, marker) in _looks(points).items()
    ]


def _role_handles(points: pd.DataFrame) -> list[Line2D]:
    if "milestone" not in set(points["role"]):
        return []
    hollow = Line2D([], [], color=style.GREY, marker="o", markersize=4.5, markerfacecolor="white", linewidth=0.7)
    hollow.set_linestyle((0, (4, 2)))
    hollow.set_label("milestone, not cooled down")
    filled = Line2D([], [], color=style.GREY, marker="o", markersize=6, linewidth=1.8, label="cooled down")
    return [filled, hollow]


def _caption(frame: pd.DataFrame, points: pd.DataFrame, metrics: Sequence[str]) -> str:
    """Say what the marks mean."""
    cooled = points.loc[points["role"] == "cooled_down"]
    keys = zip(cooled["panel"], cooled["model"], cooled["tokens"], strict=True)
    counts = Counter(keys).values()
    seeds, fewest = max(counts, default=1), min(counts, default=1)
    units = " and ".join(sorted({"documents" if style.lower_is_better(m) else "questions" for m in metrics}))
    words = [f"Sizes count parameters without embeddings. Bars: one standard error over {units}; all sizes are"]
    words.append("scored on\nthe same ones, so that differences are known better than bars show.")
    words.append(
        f"Band: range of {seeds if seeds == fewest else f'{fewest} to {seeds}'} seeds, line through their mean."
        if seeds > 1
        else "One seed."
    )
    missing = len(frame.loc[frame["metric"].isin(list(metrics)) & frame["value"].isna()])
    if missing:
        words.append(f"Not evaluated: {missing}.")
    return " ".join(words)


def _study_name(frame: pd.DataFrame) -> str:
    names = sorted(set(frame["study"]))
    if len(names) != 1:
        raise ValueError(f"a figure shows one study, and the frame holds {names}")
    return str(names[0])
