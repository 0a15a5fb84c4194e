"""What a table of several comparisons may claim: Holm's correction, and the smallest difference it could find."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's step-down: p_(i) (m - i + 1) for the i-th smallest, made monotone, at most 1.

    Parameters
    ----------
    p
        p-values of one family, shape (m,); NaN stays NaN and counts as no comparison.

    References
    ----------
    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    values = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(len(values), math.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted.tolist()


def detectable_effect(stderr: float, dof: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true difference that a two-sided t test finds with a given probability.

    Solves P(|T| > t_alpha) = power for T noncentral t with noncentrality difference / stderr. With T = (Z + shift) / s,
    a shift of t_alpha s_q + z_q suffices, for s_q and z_q the quantiles of s and Z at q = sqrt(power): the search
    starts there.

    Parameters
    ----------
    stderr
        Standard error of the difference, in the metric's unit.
    dof
        Its degrees of freedom.
    alpha
        Level of the test.
    power
        Probability of finding it.

    References
    ----------
    Cohen 1988, "Statistical Power Analysis", chapter 2.
    """
    return _detectable_shift(dof, alpha, power) * stderr if stderr > 0 and dof >= 1 else math.nan


@functools.lru_cache(maxsize=256)
def _detectable_shift(dof: int, alpha: float, power: float) -> float:
    """Noncentrality that is found; a table's rows mostly share it, and the search takes 20 ms."""
    critical = float(stats.t.ppf(1 - alpha / 2, dof))
    q = math.sqrt(power)
    low, high = 0.0, critical * math.sqrt(float(stats.chi2.ppf(q, dof)) / dof) + float(stats.norm.ppf(q))

    def found(shift: float) -> float:
        # SciPy 1.17 gives NaN for the wrong side where that underflows, as at 2 degrees of freedom and a shift of 8.
        wrong_side = float(np.nan_to_num(stats.nct.cdf(-critical, dof, shift)))
        return float(stats.nct.sf(critical, dof, shift)) + wrong_side

    # Bisection: the far tail of the noncentral t underflows in what brentq would try first. NaN is not "found".
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= power else (middle, high)
    return high
