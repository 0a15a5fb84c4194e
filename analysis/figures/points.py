"""What is plotted, with where each point came from, and what the figures share."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# (pandas and matplotlib are typed in part)
from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import style

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


def model_looks(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Colour and marker of each model, by size."""
    sizes = model_sizes(frame)
    models = sorted(sizes, key=lambda model: (sizes[model], model))
    colors = style.size_colors(len(models))
    return {
        model: (color, style.MARKERS[index % len(style.MARKERS)])
        for index, (model, color) in enumerate(zip(models, colors, strict=True))
    }


def model_sizes(frame: pd.DataFrame) -> dict[str, int]:
    """Parameters without embeddings of each model."""
    return dict(zip(frame["model"].astype(str), frame["params_non_embedding"].astype(int), strict=True))


def column(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Give a column as floats, shape (rows,)."""
    return frame[name].to_numpy(dtype=np.float64)


def study_name(frame: pd.DataFrame) -> str:
    """Name the frame's one study.

    Raises
    ------
    ValueError
        There are several, or none.
    """
    names = sorted(set(frame["study"]))
    if len(names) != 1:
        raise ValueError(f"a figure shows one study, and the frame holds {names}")
    return str(names[0])
