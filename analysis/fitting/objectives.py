"""What a fit minimises: a law, data and a loss of the residuals, evaluated for many coordinates at once.

Every objective is a Huber function of residuals r, rho(r) = r^2 / 2 where |r| <= delta, and delta (|r| - delta / 2)
beyond, with delta = infinity for `mse`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.laws.base import Array, Law

OBJECTIVES = ("huber_log", "mse", "mae")
"""Sum of Huber on log residuals; mean square and mean absolute value of residuals in the target's unit."""
MAE_DELTA = 1e-6
"""`mae` is rounded off within this share of the target's median: a corner has no gradient to stop at."""
MSE_SCALE = 1e-3
"""`mse` counts residuals in this share of the target's median, so that tolerances mean the same everywhere."""
CHUNK = 65_536
"""Numbers (coordinates x rows) evaluated at once: about what a core's cache holds, times the law's parameters."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A law, an objective and data."""

    law: Law
    """What predicts."""
    objective: str
    """One of `OBJECTIVES`."""
    delta: float
    """Huber's delta in log units, for `huber_log`."""
    inputs: Mapping[str, Array]
    """Columns, shape (n,) each."""
    target: Array
    """What is predicted, shape (n,)."""
    weights: Array
    """Of the rows, shape (n,)."""

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.target)

    @property
    def is_log(self) -> bool:
        """Whether residuals are differences of logarithms."""
        return self.objective == "huber_log"

    @property
    def scale(self) -> float:
        """Unit of the scaled residuals: delta, or a share of the target's median."""
        if self.is_log:
            return self.delta
        # Of the values above 0: accuracies may be 0 in most rows.
        middle = float(np.median(self.target[self.target > 0]))
        return middle * (MSE_SCALE if self.objective == "mse" else MAE_DELTA)

    @property
    def corner(self) -> float:
        """Scaled residual at which the square becomes a line."""
        return np.inf if self.objective == "mse" else 1.0

    def residuals(self, theta: Array) -> Array:
        """Predicted minus measured, in log units or the target's, shape (b, n) for theta of shape (b, p)."""
        predicted, _ = self.law.log_predict(theta, self.inputs)
        return predicted - np.log(self.target) if self.is_log else np.exp(predicted) - self.target

    def rho(self, residuals: Array) -> Array:
        """Huber function of the residuals, in units of `scale` squared, same shape."""
        size = np.abs(residuals) / self.scale
        return np.where(size <= self.corner, 0.5 * size**2, size - 0.5)

    def value(self, residuals: Array) -> float:
        """Objective as it is reported: the sum (huber_log), or the mean (mse, mae)."""
        if self.objective == "huber_log":
            return float((self.weights * self.rho(residuals)).sum() * self.delta**2)
        power = np.abs(residuals) ** (2 if self.objective == "mse" else 1)
        return float((self.weights * power).sum() / self.weights.sum())

    def evaluate(self, theta: Array, weights: Array | None = None) -> tuple[Array, Array]:
        """Sum of rho in units of scale squared, and its gradient.

        Parameters
        ----------
        theta
            Coordinates, shape (b, p).
        weights
            Of the rows, shape (b, n) or (n,); None takes the problem's own.

        Returns
        -------
        value, gradient
            Shapes (b,) and (b, p); infinite and 0 where the law is undefined.
        """
        parts = [self._evaluate(*part) for part in self._chunks(theta, weights)]
        return np.concatenate([value for value, _ in parts]), np.concatenate([slope for _, slope in parts])

    def curvature(self, theta: Array, weights: Array | None = None, *, inside: bool = False) -> Array:
        """Gauss-Newton matrix, shape (b, p, p), in units of scale squared.

        Rows beyond delta count by rho'(r) / r, as iterated reweighting takes them, or, with `inside`, not at all: rho
        has no curvature there.
        """
        parts: list[Array] = []
        for coordinates, row_weights in self._chunks(theta, weights):
            scaled, gradient = self._linearise(coordinates)
            size = np.abs(scaled) if np.isfinite(self.corner) else 0 * scaled
            pull = row_weights * (size <= 1) if inside else row_weights / np.maximum(size, 1.0)
            parts.append((gradient * pull[:, None]) @ gradient.transpose(0, 2, 1))
        return np.concatenate(parts)

    def jacobian(self, theta: Array) -> Array:
        """Slope of each residual (unscaled) in each coordinate, shape (p, n), at theta of shape (p,)."""
        return self._linearise(theta[None])[1][0] * self.scale

    def _chunks(self, theta: Array, weights: Array | None) -> list[tuple[Array, Array]]:
        size = max(1, CHUNK // self.n)
        rows = np.atleast_2d(self.weights if weights is None else weights)
        spans = [slice(at, at + size) for at in range(0, len(theta), size)]
        return [(theta[span], rows[span] if len(rows) > 1 else rows) for span in spans]

    def _linearise(self, theta: Array) -> tuple[Array, Array]:
        """Scaled residuals and their gradient, shapes (b, n) and (b, p, n)."""
        predicted, gradient = self.law.log_predict(theta, self.inputs)
        if self.is_log:
            return (predicted - np.log(self.target)) / self.scale, gradient / self.scale
        with np.errstate(over="ignore"):
            level = np.exp(predicted)
        return (level - self.target) / self.scale, gradient * (level / self.scale)[:, None]

    def _evaluate(self, theta: Array, weights: Array) -> tuple[Array, Array]:
        with np.errstate(invalid="ignore", over="ignore"):
            scaled, gradient = self._linearise(theta)
            size = np.abs(scaled)
            value = (weights * np.where(size <= self.corner, 0.5 * size**2, size - 0.5)).sum(axis=1)
            pull = weights * np.clip(scaled, -self.corner, self.corner)
            slope = (gradient @ pull[:, :, None])[:, :, 0]
        bad = ~(np.isfinite(value) & np.isfinite(slope).all(axis=1))
        value[bad], slope[bad] = np.inf, 0.0
        return value, slope
