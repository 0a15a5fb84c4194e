"""The arguments and data of a fit: enough to repeat it bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.objectives import OBJECTIVES, Problem
from analysis.laws import make_law
from analysis.laws.base import Array, Law

DEFAULT_STARTS = 200
"""All of them reach the best minimum of the 240 published points of Hoffmann et al. (`benchmarks/fits.py speed`)."""
EXTRA_COLUMNS = ("params", "tokens", "params_all", "params_non_embedding", "flops", "unique_tokens")
"""Columns kept besides a law's own: other conventions of N and of FLOPs, for `Fit.sensitivity`, and what repeats."""
DATA_SET = "data_set"
"""Column with the number of each row's data set, from 1, by the frame's `data_fingerprint`."""


@dataclass(frozen=True)
class Settings:
    """Arguments of `analysis.fitting.fit_law`."""

    law: str
    """Name in `analysis.laws.LAWS`."""
    law_settings: dict[str, Any]
    """Its fields, for `analysis.laws.make_law`."""
    target: str
    """Column that was fitted."""
    metric: str
    """What the column holds, such as `heldout/prose/bits_per_byte`."""
    size: str
    """Convention of N: the column that `params` was taken from."""
    objective: str
    """One of `huber_log`, `mse`, `mae`."""
    delta: float
    """Huber's delta in log units."""
    fixed: dict[str, float]
    """Parameters that were not fitted."""
    starts: int | tuple[dict[str, float], ...]
    """How many starting points were drawn, or the points themselves."""
    holdout: dict[str, float]
    """By column, the value from which runs were held out; empty for none."""
    bootstrap: int
    """Replicates."""
    group: str
    """Column whose equal rows are drawn together."""
    seed: int
    """Of starts and bootstrap."""

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective {self.objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}")
        if not self.delta > 0:
            raise ValueError(f"delta={self.delta} must be above 0 (in log units)")
        if isinstance(self.starts, int) and self.starts < 1:
            raise ValueError(f"starts={self.starts} must be at least 1")
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise ValueError(f"bootstrap={self.bootstrap} must be 0 or at least 2")
        names = self.make_law().param_names
        unknown = [name for name in self.fixed if name not in names]
        if unknown:
            raise ValueError(f"fixed={unknown[0]!r} is not a parameter of {self.law}, which has {', '.join(names)}")
        if len(self.fixed) == len(names):
            raise ValueError(f"fixed holds all of {', '.join(names)}: nothing is left to fit")

    def make_law(self) -> Law:
        """Build the law."""
        return make_law(self.law, self.law_settings)

    def box(self) -> tuple[Array, Array]:
        """Bounds of the coordinates, shape (p,); equal where a parameter is fixed.

        Raises
        ------
        ValueError
            A fixed value lies outside its parameter's bounds.
        """
        law = self.make_law()
        lower, upper = law.bounds
        for index, parameter in enumerate(law.parameters):
            if parameter.name in self.fixed:
                value = self.fixed[parameter.name]
                if not parameter.low <= value <= parameter.high:
                    bounds = f"{parameter.low:g} to {parameter.high:g}"
                    raise ValueError(f"fixed {parameter.name} = {value:g} lies outside {bounds}")
                lower[index] = upper[index] = parameter.to_coordinate(value)
        return lower, upper


@dataclass(frozen=True)
class Data:
    """Rows of a fit, as plain numbers."""

    columns: dict[str, tuple[float, ...]]
    """The law's inputs, the target, and other conventions where the frame had them."""
    groups: tuple[int, ...]
    """Rows with equal numbers are not independent."""
    weights: tuple[float, ...]
    """Of the rows."""

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.groups)

    @property
    def num_groups(self) -> int:
        """Independent groups of rows."""
        return len(set(self.groups))

    def array(self, name: str) -> Array:
        """One column, shape (n,)."""
        return np.array(self.columns[name], dtype=np.float64)

    def where(self, mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Data:
        """Rows of the mask, shape (n,)."""
        keep = np.flatnonzero(mask).tolist()
        columns = {name: tuple(values[i] for i in keep) for name, values in self.columns.items()}
        return Data(columns, tuple(self.groups[i] for i in keep), tuple(self.weights[i] for i in keep))

    def problem(self, settings: Settings) -> Problem:
        """Build what is minimised; weights count relative to their mean, so that their unit does not matter."""
        law = settings.make_law()
        inputs = {name: self.array(name) for name in law.inputs}
        weights = np.array(self.weights, dtype=np.float64)
        relative = weights / weights.mean() if self.n else weights
        return Problem(law, settings.objective, settings.delta, inputs, self.array(settings.target), relative)


def read_data(rows: pd.DataFrame, law: Law, target: str, group: str, weights: Array) -> Data:
    """Take the numbers a fit needs out of checked rows."""
    names = [*law.inputs, target, *(name for name in EXTRA_COLUMNS if name in rows)]
    columns = {
        name: tuple(float(value) for value in rows[name])
        for name in dict.fromkeys(names)
        if name in (*law.inputs, target) or _is_known(rows[name].tolist())
    }
    if "data_fingerprint" in rows and bool(np.any(rows["data_fingerprint"].notna().to_numpy())):
        codes, _ = pd.factorize(rows["data_fingerprint"], use_na_sentinel=False)
        columns[DATA_SET] = tuple(float(code) + 1 for code in codes)
    return Data(columns, _groups(rows, group), tuple(float(weight) for weight in weights))


def merge_fixed(fixed: Mapping[str, float] | None) -> dict[str, float]:
    """Plain numbers of the caller's mapping."""
    return {str(name): float(value) for name, value in (fixed or {}).items()}


def _is_known(values: list[object]) -> bool:
    return all(isinstance(value, (int, float)) and 0 < value < math.inf for value in values)


def _groups(rows: pd.DataFrame, group: str) -> tuple[int, ...]:
    """Assign each group a number; a row without one is a group of its own."""
    if group not in rows:
        return tuple(range(len(rows)))
    codes, _ = pd.factorize(rows[group])
    alone = iter(range(len(rows), 2 * len(rows)))
    return tuple(int(code) if code >= 0 else next(alone) for code in codes)
