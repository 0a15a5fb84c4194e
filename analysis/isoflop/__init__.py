"""Approaches 1 and 2 of Hoffmann et al. 2022, and all three side by side.

1. `fit_envelope`: which size has the lowest loss at each budget. 2. `fit_isoflop`: the lowest point of loss against
size at a few budgets. 3. `analysis.fitting.fit_law`: one law for all points.

rows = select_loss(load_study("isoflop"), "heldout/prose/bits_per_byte")
print(fit_isoflop(rows).describe(), compare_approaches(rows))
"""

from analysis.isoflop.allocation import Allocation, Growth
from analysis.isoflop.budgets import fit_isoflop
from analysis.isoflop.envelope import envelope, fit_envelope
from analysis.isoflop.loss_by_size import expected_bias, isoflop_curve
from analysis.isoflop.optimal_sizes import METHODS, assign_budgets, isoflop_minima
from analysis.isoflop.three_approaches import compare_approaches

__all__ = [
    "METHODS",
    "Allocation",
    "Growth",
    "assign_budgets",
    "compare_approaches",
    "envelope",
    "expected_bias",
    "fit_envelope",
    "fit_isoflop",
    "isoflop_curve",
    "isoflop_minima",
]
