"""How long the documents of prepared data are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.figures.points import Drawing, Marks

UNITS = ("bytes", "tokens")


def lengths_figure(record: Mapping[str, Any], study: str | None = None, *, title: str | None = None) -> Drawing:
    """Draw the share of documents against their length, a panel a unit and a line a source.

    Parameters
    ----------
    record
        Of one prepared store, as `analysis.data_records.load_data_records` gives it.
    study
        Study that its marks name.
    title
        Heading; None names the data.

    Returns
    -------
    figure, points
        A mark a source and power of two, at the lower edge of its lengths and the share in percent; it leads to the data's
        fingerprint, which no single run is behind.

    Raises
    ------
    ValueError
        The store has no lengths.
    """
    lengths: Mapping[str, Mapping[str, Mapping[str, int]]] = record.get("lengths") or {}
    units = [unit for unit in UNITS if any(by.get(unit) for by in lengths.values())]
    if not units:
        raise ValueError(f"the lengths of the documents of {record['fingerprint']} were not measured")
    looks, marks = style.category_looks(list(lengths)), Marks()
    rows = pd.DataFrame([{"study": study, "data_fingerprint": record["fingerprint"]}])
    with style.house_style():
        figure = Figure(figsize=(0.6 + 3.6 * len(units), 3.2), layout="constrained")
        panels = figure.subplots(1, len(units), squeeze=False, sharey=True)[0]
        for unit, axes in zip(units, panels, strict=True):
            for source, (color, marker, dash) in looks.items():
                xs, ys = _shares(lengths[source].get(unit) or {})
                axes.plot(xs, ys, color=color, marker=marker, linestyle=dash, markersize=4, linewidth=1.2)
                for x, y in zip(xs, ys, strict=True):
                    marks.add(axes, x, y, rows, panel=unit, role=f"lengths, {source}")
            _label(axes, unit)
        panels[0].set_ylabel("Documents of the source (%)")
        figure.suptitle(
            title or f"{record.get('name') or record['fingerprint']}: lengths of documents", x=0.01, ha="left"
        )
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle=dash, markersize=4, label=source)
            for source, (color, marker, dash) in looks.items()
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=4)
    return figure, marks.points()


def _shares(histogram: Mapping[str, int]) -> tuple[list[float], list[float]]:
    """Lower edges and percent of a histogram; between the first and the last edge, those without documents have 0."""
    counts = {int(edge): count for edge, count in histogram.items()}
    total = sum(counts.values())
    if not total:
        return [], []
    edges = [edge for edge in (0, *(1 << power for power in range(64))) if min(counts) <= edge <= max(counts)]
    return [max(edge, 0.5) for edge in edges], [100 * counts.get(edge, 0) / total for edge in edges]


def _label(axes: Axes, unit: str) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: "0" if x < 1 else f"{x:,.0f}" if x < 10_000 else style.count_label(x))
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"Length ({unit}; each mark: from here to twice as many)")
