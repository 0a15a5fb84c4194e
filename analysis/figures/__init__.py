"""Axes drawn from data: these functions take frames, fits and tables, and fetch nothing themselves.

Each returns the figure and its plotted points, every mark with the rows of the frame behind it; `save_figure`
writes both with their lineage. `FIGURES` lists them all.
"""

from analysis.figures.ablation import ablation_figure
from analysis.figures.continual import continual_figure
from analysis.figures.deduplication_curve import duplicates_figure
from analysis.figures.diagnostics import diagnostics_figure, predicted_figure
from analysis.figures.isoflop import isoflop_figure
from analysis.figures.law_curve import fit_figure
from analysis.figures.points import FIGURES, POINT_COLUMNS
from analysis.figures.position import position_figure
from analysis.figures.repetition import repetition_figure
from analysis.figures.save import save_figure
from analysis.figures.seeds import seeds_figure
from analysis.figures.surface import loss_surface_figure
from analysis.figures.sweep import sweep_figure
from analysis.figures.token_scaling import token_scaling_figure
from analysis.figures.transfer import transfer_figure
from analysis.figures.tuned import tuned_figure

__all__ = [
    "FIGURES",
    "POINT_COLUMNS",
    "ablation_figure",
    "continual_figure",
    "diagnostics_figure",
    "duplicates_figure",
    "fit_figure",
    "isoflop_figure",
    "loss_surface_figure",
    "position_figure",
    "predicted_figure",
    "repetition_figure",
    "save_figure",
    "seeds_figure",
    "sweep_figure",
    "token_scaling_figure",
    "transfer_figure",
    "tuned_figure",
]
