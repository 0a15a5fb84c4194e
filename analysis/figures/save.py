"""A figure on disk, its plotted points and their lineage beside it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from analysis.lineage import write_lineage


def save_figure(figure: Figure, points: pd.DataFrame, directory: Path, name: str) -> list[Path]:
    """Write `<name>.svg`, `.png`, the plotted points as `.csv`, and where each came from as `.lineage.json`.

    Marks of the SVG link to their ids (`#p3`), which are those of the CSV's column `mark` and of the lineage file.

    Parameters
    ----------
    figure, points
        What a figure function returned.
    directory
        Folder; created if missing.
    name
        File name without its extension.

    Returns
    -------
    list of Path
        The four files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}.{kind}" for kind in ("svg", "png", "csv")]
    with style.house_style():
        figure.savefig(paths[0], metadata={"Date": None})
        # The layout is computed once: it takes a third of the time of writing a figure.
        figure.set_layout_engine("none")
        figure.savefig(paths[1])
    points.to_csv(paths[2], index=False)
    return [*paths, write_lineage(points, directory / f"{name}.lineage.json")]
