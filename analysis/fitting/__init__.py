"""Fits of laws to a frame's rows, as records with their diagnostics.

`fit_law` fits, `compare_laws` compares, `replay` repeats a stored record. The other modules are their parts: objectives,
minimisation, minima, intervals, flags, held-out runs, sensitivity.
"""

from analysis.fitting.fit_rows import Fit, compare_laws, fit_law, replay

__all__ = ["Fit", "compare_laws", "fit_law", "replay"]
