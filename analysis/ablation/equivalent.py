"""A difference expressed as training: how many times the baseline's tokens would give the same change."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import pandas as pd
from scipy import optimize

from analysis.fitting import Fit

Curve = Callable[[float], float] | float
"""The baseline's value against its tokens, or its slope against log tokens (metric's unit per factor e)."""

REACH = 1e6
"""Factor of tokens, either way, up to which a curve is searched."""


def compute_equivalent(change: float, tokens: float, curve: Curve) -> float:
    """Tokens that change the baseline by `change`, divided by the tokens it had.

    Solves curve(k tokens) = curve(tokens) + change for k; with a slope s, k = exp(change / s). At a fixed model,
    k is a factor of training compute as well. The curve or slope is taken as known.

    Parameters
    ----------
    change
        Difference in the metric's unit, variant minus baseline.
    tokens
        Tokens that the baseline was trained on.
    curve
        Its value against tokens, monotone; or the slope of the value against log tokens at `tokens`, which
        holds for small changes only.

    Returns
    -------
    float
        k: above 1 where more training would give the change. Infinite where the curve does not reach it
        with a million times the tokens, 0 where it was there with a millionth of them; NaN for an unknown change.

    Raises
    ------
    ValueError
        The slope is 0 or not finite, or the curve does not change over its reach.
    """
    if math.isnan(change) or change == 0:
        return math.nan if math.isnan(change) else 1.0
    if not callable(curve):
        if curve == 0 or not math.isfinite(curve):
            raise ValueError(f"curve={curve!r}: a slope against log tokens must be finite and not 0")
        return math.exp(min(change / curve, math.log(1e300)))
    goal = curve(tokens) + change

    def gap(log_factor: float) -> float:
        return curve(tokens * math.exp(log_factor)) - goal

    reach = math.log(REACH)
    first, last = gap(-reach), gap(reach)
    if first == last:
        raise ValueError(f"the curve is flat from {tokens / REACH:.3g} to {tokens * REACH:.3g} tokens")
    if first * last > 0:
        return math.inf if abs(last) < abs(first) else 0.0
    return math.exp(cast("float", optimize.brentq(gap, -reach, reach, xtol=1e-12)))


def curve_of(fit: Fit, **columns: float) -> Callable[[float], float]:
    """Take a fitted law as a curve: its prediction against tokens at one model.

    The curve is taken as known: values read off it do not include the fit's uncertainty.

    Parameters
    ----------
    fit
        A fit whose target is the metric.
    **columns
        The other columns that its law reads, such as `params=1.05e6`.
    """

    def value(tokens: float) -> float:
        return float(fit.predict(pd.DataFrame({"tokens": [tokens], **{name: [v] for name, v in columns.items()}}))[0])

    return value
