"""Judgements on one curve of scores: where it falls, whether it has stopped rising, whether it has left chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from analysis.columns import known_errors
from analysis.metrics import is_higher_better, is_proportion
from analysis.style import count_label
from analysis.tasks.chance import Chance

Array = NDArray[np.float64]
MIN_SLOPE_POINTS = 3
"""A slope, and whether the points scatter about it."""


@dataclass(frozen=True)
class Rules:
    """Thresholds at which a mark is set."""

    level: float
    """Level of each mark on its own."""
    gain: float
    """Smallest change per doubling that counts as rising."""
    window: float
    """Factor of tokens at the end of a curve."""
    noise: Mapping[str, float] | float | None
    """Standard deviation over seeds, by metric or one for all."""

    def noise_of(self, metric: str) -> float:
        """Return the standard deviation of a metric over seeds; 0 where none was given."""
        return self.noise.get(metric, 0.0) if isinstance(self.noise, Mapping) else self.noise or 0.0


@dataclass(frozen=True)
class Fall:
    """The fall that exceeds its noise most."""

    not_monotone: bool | None
    """Whether it exceeds the noise; None where not judged."""
    fall: float = math.nan
    """In the metric's unit."""
    fall_z: float = math.nan
    """In standard errors."""
    fall_from_tokens: float = math.nan
    """Where it starts."""
    fall_to_tokens: float = math.nan
    """Where it ends."""


@dataclass(frozen=True)
class Plateau:
    """How a curve ends."""

    saturated: bool | None
    """Whether it rises less than `gain`; None where not judged."""
    falling: bool | None = None
    """It falls."""
    slope: float = math.nan
    """Change of y per doubling of tokens."""
    slope_stderr: float = math.nan
    """Its standard error."""


@dataclass(frozen=True)
class AboveChance:
    """Where a curve leaves chance."""

    at_chance: bool | None
    """Whether it never does; None where not judged."""
    chance: float = math.nan
    """The level; NaN where unknown."""
    above_chance_from: float = math.nan
    """Tokens of the first point above it."""


@dataclass(frozen=True)
class Curve:
    """Points of one curve that can be judged, in order of their tokens; arrays of shape (points,)."""

    metric: str
    """Its name."""
    tokens: Array
    """Trained on."""
    value: Array
    """In the metric's unit."""
    y: Array
    """The value, or -log of it where lower is better: larger is better."""
    stderr: Array
    """Standard error of y, the seeds' noise included; above 0."""
    unjudged: Array
    """y of the other points, whose standard error is not known; shape (others,)."""


def make_curve(metric: str, points: pd.DataFrame, noise: float) -> Curve:
    """Select from ordered rows what can be judged: finite values with a standard error above 0.

    Where every document was answered wrong, or every one right, lm-eval gives an error of 0. Such a point takes the
    largest of the curve's other errors, which is no less than its own: the documents are the same.
    """
    tokens, value, stderr = (points[name].to_numpy(dtype=np.float64) for name in ("tokens", "value", "stderr"))
    errors = known_errors(stderr)
    if is_proportion(metric) and np.isfinite(errors).any():
        errors = np.where(np.isnan(errors) & ((value == 0) | (value == 1)), np.nanmax(errors), errors)
    total = np.hypot(errors, noise)
    y, finite = value, np.isfinite(value)
    if not is_higher_better(metric):
        finite &= value > 0
        safe = np.where(finite, value, 1.0)
        y, total = -np.log(safe), total / safe
    known = finite & np.isfinite(total)
    return Curve(metric, tokens[known], value[known], y[known], total[known], y[finite & ~known])


def find_fall(curve: Curve, floor: float, rules: Rules) -> Fall:
    """Find the pair of points whose fall exceeds its noise most; values below `floor` count as `floor`."""
    count, y = len(curve.y), np.maximum(curve.y, floor)
    if count < 2:
        return Fall(None)
    first, second = np.triu_indices(count, 1)
    z = (y[first] - y[second]) / np.hypot(curve.stderr[first], curve.stderr[second])
    place = int(np.argmax(z))
    i, j = int(first[place]), int(second[place])
    if z[place] <= 0:
        return Fall(False)
    critical = _one_sided(rules.level, len(z))
    worse = abs(float(curve.value[i] - curve.value[j]))
    return Fall(bool(z[place] > critical), worse, float(z[place]), float(curve.tokens[i]), float(curve.tokens[j]))


def find_plateau(curve: Curve, rules: Rules) -> Plateau:
    """Measure the slope at the end, weighted by the points' noise."""
    late = (curve.tokens > 0) & (curve.tokens >= curve.tokens[-1:].sum() / rules.window)
    y, stderr = curve.y[late], curve.stderr[late]
    if late.sum() < MIN_SLOPE_POINTS:
        return Plateau(None)
    x, weights = np.log2(curve.tokens[late]), 1 / stderr**2
    centred = x - np.average(x, weights=weights)
    spread = float((weights * centred**2).sum())
    slope, error = float((weights * centred * y).sum() / spread), 1 / math.sqrt(spread)
    high = slope + _one_sided(rules.level, 1) * error
    return Plateau(0 <= high < rules.gain, high < 0, slope, error)


def find_chance(curve: Curve, level: Chance | None, rules: Rules) -> AboveChance:
    """Find the first point above chance beyond its noise; one that is not above it needs no standard error for that."""
    if level is None:
        return AboveChance(None)
    if len(curve.y):
        above = (curve.y - level.level) / curve.stderr > _one_sided(rules.level, len(curve.y))
        if above.any():
            return AboveChance(False, level.level, float(curve.tokens[int(np.argmax(above))]))
    nothing = not len(curve.y) and not len(curve.unjudged)
    unknown = nothing or bool((curve.unjudged > level.level).any())
    return AboveChance(None if unknown else True, level.level)


def _one_sided(level: float, tests: int) -> float:
    """Limit that one of `tests` normal deviates passes with a probability of at most 1 - level."""
    return float(cast("Any", special.ndtri)(1 - (1 - level) / tests))


def say_marks(
    curve: Curve, fall: Fall, plateau: Plateau, above: AboveChance, level: Chance | None, rules: Rules
) -> str:
    """Describe the marks in words; empty if there are none."""
    words: list[str] = []
    if fall.not_monotone is None:
        words.append("not judged: fewer than two points with a standard error")
    elif len(curve.unjudged):
        count = len(curve.unjudged)
        points = f"{count} point{'s' if count > 1 else ''} of {count + len(curve.y)}"
        words.append(f"{points} not judged: no standard error above 0")
    if fall.not_monotone:
        ends = [float(curve.value[curve.tokens == t][0]) for t in (fall.fall_from_tokens, fall.fall_to_tokens)]
        at = [count_label(t) for t in (fall.fall_from_tokens, fall.fall_to_tokens)]
        where = f"{ends[0]:.4g} at {at[0]} tokens, {ends[1]:.4g} at {at[1]}"
        words.append(f"not monotone: {where} ({fall.fall_z:.1f} standard errors)")
    if plateau.saturated or plateau.falling:
        slope = f"{plateau.slope:+.2g} ± {plateau.slope_stderr:.2g} per doubling"
        where = f"over the last factor of {rules.window:g} in tokens"
        words.append(f"{'saturated' if plateau.saturated else 'falling'}: {slope} {where}")
    if above.at_chance and level is not None:
        words.append(f"at chance ({level.level:.3g}: {level.source})")
    return "; ".join(words)
