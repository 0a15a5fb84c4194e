"""Axes drawn from a frame: these functions take data and never fetch any.

Each returns the figure and the plotted points, every one with the MLflow run it came from; `save_figure`
writes both side by side.
"""

from analysis.figures.fitted import fit_figure
from analysis.figures.points import POINT_COLUMNS
from analysis.figures.save import save_figure
from analysis.figures.token_scaling import token_scaling_figure

__all__ = ["POINT_COLUMNS", "fit_figure", "save_figure", "token_scaling_figure"]
