"""Scaling laws: equation, gradient, starts and bounds of each, in logarithms.

A law predicts log L from N (parameters) and D (tokens). Its coordinates `theta` are chosen so that an
optimizer can move freely in them; `to_params` gives the numbers of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Chinchilla:
    """L(N, D) = E + A / N^alpha + B / D^beta.

    `theta = (log E, log A, alpha, log B, beta)`, so that log L is the log-sum-exp of three terms linear in
    theta.

    References
    ----------
    Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", eqs. 2 and 3 (appendix D.3).
    """

    name: str = "chinchilla"
    """Name in stored fits."""

    @property
    def param_names(self) -> tuple[str, ...]:
        """Names of the paper's numbers: E in the loss's unit, A, alpha, B, beta."""
        return ("E", "A", "alpha", "B", "beta")

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """Box for theta; a fit that ends on its edge is flagged."""
        return [(-12.0, 6.0), (-12.0, 60.0), (0.0, 3.0), (-12.0, 60.0), (0.0, 3.0)]

    def log_predict(self, theta: Array, params: Array, tokens: Array) -> tuple[Array, Array]:
        """Log of the loss, and its gradient.

        Parameters
        ----------
        theta
            Coordinates, shape (5,).
        params, tokens
            N and D, shape (n,).

        Returns
        -------
        log_loss, gradient
            Shapes (n,) and (n, 5).
        """
        log_n, log_d = np.log(params), np.log(tokens)
        e, a, alpha, b, beta = theta
        terms = np.stack([np.full_like(log_n, e), a - alpha * log_n, b - beta * log_d])
        top = terms.max(axis=0)
        log_loss = top + np.log(np.exp(terms - top).sum(axis=0))
        share_e, share_a, share_b = np.exp(terms - log_loss)
        gradient = np.stack([share_e, share_a, -share_a * log_n, share_b, -share_b * log_d], axis=1)
        return log_loss, gradient

    def starts(self, params: Array, tokens: Array, loss: Array, count: int, seed: int) -> Array:
        """Draw starting points, shape (count, 5): shares of the data's losses given to each term at random.

        Each start explains the median loss: E gets a share of the smallest loss, and the two power laws
        split the rest at the median N and D, with exponents between 0.1 and 1.
        """
        rng = np.random.default_rng(seed)
        log_n, log_d = float(np.median(np.log(params))), float(np.median(np.log(tokens)))
        floor = loss.min() * rng.uniform(0.05, 0.98, count)
        rest = np.maximum(np.median(loss) - floor, 1e-3 * loss.min())
        split = rng.uniform(0.1, 0.9, count)
        alpha, beta = rng.uniform(0.1, 1.0, count), rng.uniform(0.1, 1.0, count)
        a = np.log(rest * split) + alpha * log_n
        b = np.log(rest * (1 - split)) + beta * log_d
        return np.stack([np.log(floor), a, alpha, b, beta], axis=1)

    def to_params(self, theta: Array) -> dict[str, float]:
        """Convert coordinates to the paper's numbers."""
        e, a, alpha, b, beta = (float(value) for value in theta)
        return {
            "E": float(np.exp(e)),
            "A": float(np.exp(a)),
            "alpha": alpha,
            "B": float(np.exp(b)),
            "beta": beta,
        }

    def to_theta(self, params: dict[str, float]) -> Array:
        """Convert the paper's numbers to coordinates."""
        logs = {key: np.log(params[key]) for key in ("E", "A", "B")}
        return np.array([logs["E"], logs["A"], params["alpha"], logs["B"], params["beta"]])


LAWS = {"chinchilla": Chinchilla()}
"""Laws by the name that stored fits carry."""
