"""The rule of training FLOPs, C = k N^n D, that a study's runs follow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SIX = (6.0, 1.0)
"""k and n of C = 6 N D."""


def flops_rule(params: Array, tokens: Array, flops: Array) -> tuple[float, float]:
    """Fit k and n of C = k N^n D, by least squares of log(C / D) on log N.

    Head and attention make n smaller than 1 for small models; 6 N D gives 6 and 1 exactly.

    Parameters
    ----------
    params, tokens, flops
        N, D and C of the runs, shape (runs,), with at least two distinct N.
    """
    power, constant = np.polyfit(np.log(params), np.log(flops) - np.log(tokens), 1)
    return float(np.exp(constant)), float(power)
