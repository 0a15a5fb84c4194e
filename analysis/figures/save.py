"""A figure on disk, its plotted points beside it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# (pandas and matplotlib are typed in part)
from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import style


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
