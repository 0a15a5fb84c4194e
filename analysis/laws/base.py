"""Interface of a law: an equation with named parameters, its gradient, coordinates and starting points.

A new law is one subclass of `Law`, added to `analysis.laws.LAWS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Inputs = Mapping[str, Array]
"""Columns of a frame by name, shape (n,) each."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law, with the bounds it is fitted in."""

    name: str
    """As in the equation."""
    low: float
    """Lower bound, in the parameter's own unit."""
    high: float
    """Upper bound."""
    unit: str
    """Unit, or "1"."""
    log: bool = False
    """Whether the coordinate is its logarithm, which keeps it positive."""

    def to_coordinate(self, value: float) -> float:
        """Coordinate of a value."""
        return float(np.log(value)) if self.log else float(value)

    def to_value(self, coordinate: float) -> float:
        """Value at a coordinate."""
        return float(np.exp(coordinate)) if self.log else float(coordinate)


@dataclass(frozen=True)
class Law(ABC):
    """An equation that predicts a positive target from a frame's columns.

    Its coordinates `theta`, shape (p,), are the parameters or their logarithms, in the order of `parameters`.
    """

    name: ClassVar[str]
    """Name in stored fits, a key of `analysis.laws.LAWS`."""
    target: ClassVar[str] = "loss"
    """Column that is predicted unless the caller names another."""

    @property
    @abstractmethod
    def equation(self) -> str:
        """The equation in plain text."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """Columns it predicts from."""

    @property
    @abstractmethod
    def parameters(self) -> tuple[Parameter, ...]:
        """Its numbers."""

    @property
    def needs(self) -> dict[str, tuple[str, ...]]:
        """By column, the parameters that its distinct values must determine."""
        return dict.fromkeys(self.inputs, self.param_names)

    @property
    def param_names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper bounds of the coordinates, shapes (p,); a fit that ends on one is flagged."""
        low = [parameter.to_coordinate(parameter.low) for parameter in self.parameters]
        high = [parameter.to_coordinate(parameter.high) for parameter in self.parameters]
        return np.array(low), np.array(high)

    @abstractmethod
    def log_predict(self, theta: Array, inputs: Inputs) -> tuple[Array, Array]:
        """Logarithm of the target and its gradient, for many coordinates at once.

        Parameters
        ----------
        theta
            Coordinates, shape (b, p).
        inputs
            The columns, shape (n,) each.

        Returns
        -------
        log_target, gradient
            Shapes (b, n) and (b, p, n); NaN where the equation gives no positive number.
        """

    @abstractmethod
    def starts(self, inputs: Inputs, target: Array, count: int, rng: np.random.Generator) -> Array:
        """Draw starting coordinates that match the data's magnitude, shape (count, p)."""

    def optimal(self, params: Mapping[str, float], compute: Array, flops: Mapping[str, float]) -> tuple[Array, Array]:
        """N and D of least loss at a compute budget, shape (m,) each, where FLOPs are k N^n D^d.

        Parameters
        ----------
        params
            The law's numbers.
        compute
            Budgets in FLOPs, shape (m,).
        flops
            k, n and d; 6, 1 and 1 for C = 6 N D.

        Raises
        ------
        ValueError
            The law has no such optimum.
        """
        raise ValueError(f"the law {self.name!r} has no compute-optimal allocation; fit Chinchilla's law")

    def predict(self, params: Mapping[str, float], inputs: Inputs) -> Array:
        """Target at a frame's columns, shape (n,), in its own unit; NaN where the equation gives no positive number."""
        log_target, _ = self.log_predict(self.to_theta(params)[None], inputs)
        return np.exp(log_target[0])

    def to_params(self, theta: Array) -> dict[str, float]:
        """Numbers by name at coordinates of shape (p,)."""
        return {p.name: p.to_value(float(value)) for p, value in zip(self.parameters, theta, strict=True)}

    def to_theta(self, params: Mapping[str, float]) -> Array:
        """Coordinates of numbers by name, shape (p,)."""
        return np.array([p.to_coordinate(params[p.name]) for p in self.parameters])

    def settings(self) -> dict[str, Any]:
        """Write the fields that distinguish this law from its defaults, for `analysis.laws.make_law`."""
        return asdict(self)


def log_sum_exp(terms: Array) -> tuple[Array, Array]:
    """Logarithm of the sum of exponentials over the first axis, and each term's share of the sum.

    Parameters
    ----------
    terms
        Shape (k, ...).

    Returns
    -------
    total, shares
        Shapes (...) and (k, ...); the shares are the gradient with respect to the terms.
    """
    top = terms.max(axis=0)
    shares = np.exp(terms - top)
    total = shares.sum(axis=0)
    shares /= total
    return top + np.log(total), shares
