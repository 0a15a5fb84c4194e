"""A fit as a record: parameters, diagnostics, and everything needed to query or repeat it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from analysis.fitting import intervals, profile
from analysis.fitting.holdout import HeldOut
from analysis.fitting.minima import RIVAL, Minimum
from analysis.fitting.objectives import Problem
from analysis.fitting.optimum import optimal_table
from analysis.fitting.sensitivity import PLAIN_FLOPS, sensitivity_table
from analysis.fitting.settings import Data, Settings
from analysis.fitting.stored import read_record
from analysis.laws.base import Array, Law

Columns = pd.DataFrame | Mapping[str, Any]
"""A frame, or arrays by column."""


@dataclass(frozen=True)
class Fit:
    """A fitted law, or why it could not be fitted: the result of `analysis.fitting.fit_law`."""

    settings: Settings
    """Arguments of the fit."""
    data: Data
    """The rows fitted."""
    unseen: Data
    """The held-out rows."""
    excluded: tuple[str, ...]
    """What was left out, with counts and reasons."""
    params: dict[str, float]
    """The law's parameters in full precision; empty where the data do not identify them."""
    flags: tuple[str, ...]
    """Warnings that a reader must know before using the parameters, in words."""
    objective: float
    """Sum of Huber functions of the log residuals (`huber_log`), mean square or mean absolute residual in the
    target's unit; NaN without a fit."""
    gradient_norm: float
    """Largest component of the objective's gradient inside the box at the solution, in units of delta squared per
    standard deviation of the coordinate; NaN without a fit."""
    minima: tuple[Minimum, ...]
    """Every distinct minimum found, the best first: converged, and predicting differently by more than 1e-4."""
    spread: dict[str, float]
    """(largest - smallest) / |best| of each parameter among all ends within 0.1% of the best objective."""
    holdout: HeldOut | None
    """How well the held-out rows were predicted; None where there are none."""
    replicates: tuple[tuple[float, ...], ...]
    """Coordinates of each bootstrap replicate, shape (bootstrap, p)."""

    @property
    def law(self) -> str:
        """Name of the law in `analysis.laws.LAWS`."""
        return self.settings.law

    @property
    def metric(self) -> str:
        """What was fitted, such as `heldout/prose/bits_per_byte`."""
        return self.settings.metric

    @property
    def size_column(self) -> str:
        """Convention of N."""
        return self.settings.size

    @property
    def n(self) -> int:
        """Rows fitted."""
        return self.data.n

    @property
    def sizes(self) -> tuple[float, ...]:
        """Distinct N among the rows fitted; empty where the law has none."""
        return tuple(sorted(set(self.data.columns.get("params", ()))))

    @property
    def identifiable(self) -> bool:
        """Whether there are parameters."""
        return bool(self.params)

    @property
    def multimodal(self) -> bool:
        """Whether another minimum lies within 1% of the best one's objective."""
        return any(other.objective <= self.objective * (1 + RIVAL) for other in self.minima[1:])

    @property
    def residuals(self) -> Array:
        """Log of measured over predicted, shape (n,); minus infinity where 0 was measured."""
        with np.errstate(divide="ignore"):
            return np.log(self.data.array(self.settings.target)) - np.log(self.predict(self._columns))

    @property
    def holdout_error(self) -> float:
        """Largest absolute relative error on the rows held out; NaN without any."""
        return self.holdout.largest_error if self.holdout else math.nan

    @property
    def covariance(self) -> pd.DataFrame:
        """Covariance of the parameters from the curvature, shape (p, p): NaN if singular, 0 if fixed or at a bound.

        `analysis.fitting.intervals.covariance` has the equation; numbers fitted as logarithms by the delta method.
        """
        theta, names = self._theta, self._law.param_names
        inside = intervals.inside_box(theta, *self.settings.box())
        spread = intervals.covariance(self._problem, theta, inside, self.data.groups)
        logs = [parameter.log for parameter in self._law.parameters]
        slope = np.where(logs, np.exp(np.where(logs, theta, 0.0)), 1.0)
        table = spread * slope[:, None] * slope[None, :]
        return pd.DataFrame(table, index=pd.Index(names), columns=pd.Index(names))

    def standard_errors(self, method: str = "bootstrap") -> dict[str, float]:
        """Compute each parameter's standard error: from replicates (`bootstrap`) or the `covariance`.

        That over replicates is NaN where `interval` is.

        Raises
        ------
        ValueError
            The method is unknown, or there are no replicates.
        """
        if method == "curvature":
            return dict(zip(self.params, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))
        _choose(method, ("bootstrap", "curvature"))
        drawn = self._replicated().std(axis=0, ddof=1)
        known = np.where(self._free & self._groups_are_few, np.nan, drawn)
        return dict(zip(self.params, known.tolist(), strict=True))

    def interval(self, level: float = 0.95, method: str = "bootstrap") -> dict[str, tuple[float, float]]:
        """Interval of each number.

        Parameters
        ----------
        level
            Such as 0.95.
        method
            `bootstrap`: expanded percentiles over replicates of resampled groups (`expanded_tail`); `profile`: of the
            normalised likelihood with a fitted scale (`profile_interval`), widened where rows share trunks; with 7 to
            12 trunks it is still too narrow (docs/fits.md).

        Returns
        -------
        dict
            (low, high) by name, in each parameter's unit; a fixed one has no width. NaN where the rows come from too
            few trunks (`analysis.fitting.intervals.too_few_groups`), as a flag says. `interval_flags` names open ends.

        Raises
        ------
        ValueError
            The method is unknown, or the fit has no parameters or no replicates.
        """
        _choose(method, ("bootstrap", "profile"))
        if method == "bootstrap":
            drawn = self._replicated()
            ends = self.quantiles(drawn, level)
            low, high = (np.where(self._free, end, drawn[0]) for end in ends)
            return dict(zip(self.params, zip(low.tolist(), high.tolist(), strict=True), strict=True))
        ends = self._profile_ends(level)
        return {
            parameter.name: (parameter.to_value(low), parameter.to_value(high))
            for parameter, (low, high) in zip(self._law.parameters, ends.tolist(), strict=True)
        }

    def interval_flags(self, level: float = 0.95) -> tuple[str, ...]:
        """Name the ends of the profile intervals that stop at a bound, before the likelihood fell far enough."""
        return profile.edge_flags(self._law, self._profile_ends(level), *self.settings.box(), level)

    def predict(self, frame: Columns, interval: float | None = None) -> Any:
        """Target at a frame's columns.

        Parameters
        ----------
        frame
            With the law's inputs as columns, n rows.
        interval
            Level, such as 0.95: bounds of the curve (not of a new run, which also has noise) over the replicates; a
            replicate whose equation gives no positive number counts as 0.

        Returns
        -------
        predicted, or predicted, low, high
            Shape (n,) each, in the target's unit.

        Raises
        ------
        ValueError
            The fit has no parameters, a column is missing, or there are no replicates.
        """
        law = self._law
        missing = [name for name in law.inputs if name not in frame]
        if missing:
            raise ValueError(f"the frame lacks the column {missing[0]!r}: {law.name} predicts from {law.inputs}")
        inputs = {name: np.asarray(frame[name], dtype=np.float64) for name in law.inputs}
        theta = self._theta
        predicted = np.exp(law.log_predict(theta[None], inputs)[0][0])
        if interval is None:
            return predicted
        curves = np.exp(law.log_predict(np.array(self._replicates()), inputs)[0])
        # Where an equation gives no positive number, that of others is at most 0 there.
        below = np.isnan(curves) & np.isfinite([*inputs.values()]).all(axis=0)
        return predicted, *self.quantiles(np.where(below, 0.0, curves), interval)

    def optimal(self, compute: Any, *, level: float = 0.95, flops: Mapping[str, float] | None = None) -> pd.DataFrame:
        """Lowest loss at compute budgets, and the N and D that reach it.

        Parameters
        ----------
        compute
            Budgets in FLOPs, a number or shape (m,).
        level
            Of the intervals over the bootstrap replicates; they are NaN where there are none. Replicates without an
            optimum (an exponent of 0) count as beyond both ends: too many of them leave an end open, 0 or infinite.
        flops
            k, n and d of C = k N^n D^d; None is 6 N D.

        Returns
        -------
        DataFrame
            One row per budget: compute, params, tokens, tokens_per_param, loss, `_low` and `_high` of each, and
            without_optimum, the share of such replicates (NaN without any).

        Raises
        ------
        ValueError
            The law has no optimum, or the fit no parameters.
        """
        self._theta  # noqa: B018  (refuses a fit without numbers)
        budgets = np.atleast_1d(np.asarray(compute, dtype=np.float64))
        drawn = [self._law.to_params(np.array(row)) for row in self.replicates]
        return optimal_table(
            self._law, self.params, drawn, budgets, flops or PLAIN_FLOPS, lambda values: self.quantiles(values, level)
        )

    def sensitivity(self) -> pd.DataFrame:
        """Parameters under other settings, one row each, with the same bounds and fixed parameters.

        Huber deltas from 1e-4 to 1, mse and mae; without outliers; other conventions of N and of FLOPs where the frame
        had them (params_all, params_non_embedding, flops).

        Returns
        -------
        DataFrame
            setting, n, the law's numbers, objective (of that setting, not comparable between them), largest_change
            (relative, of the predictions on the fitted rows; NaN where rows differ), exponent_N (a of N_opt ~ C^a).
        """
        self._theta  # noqa: B018  (refuses a fit without numbers)
        with threadpool_limits(1):
            return sensitivity_table(self.settings, self.data, self.params)

    def describe(self) -> str:
        """Describe the fit in a few lines: law, parameters, held-out error, flags, what was left out."""
        lines = [f"{self._law.equation} on {self.n} runs, {self.settings.objective}"]
        if self.identifiable:
            names = [
                f"{name} = {value:.4g}{' (fixed)' * (name in self.settings.fixed)}"
                for name, value in self.params.items()
            ]
            lines.append(", ".join(names))
            lines.append(self._minima_text())
        if self.holdout:
            lines.append(self.holdout.describe())
        left_out = [f"left out: {'; '.join(self.excluded)}"] if self.excluded else []
        return "\n".join([*lines, *self.flags, *left_out])

    def _minima_text(self) -> str:
        best, *others = self.minima
        found = f"{len(others) + 1} minima" if others else "one minimum"
        text = f"{found}; {best.share:.0%} of the starts reached the best"
        rises = [f"{other.objective / best.objective - 1:+.1%}" for other in others if best.objective > 0]
        return f"{text}, the others' objectives are {', '.join(rises)}" if rises else text

    def to_json(self) -> str:
        """Write the record with its data; `from_json` restores it bit for bit."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Fit:
        """Read what `to_json` wrote; `analysis.fitting.fit_rows.replay` repeats the fit."""
        return Fit(**read_record(text))

    def save(self, path: Path) -> Path:
        """Write the record to a file and return its path."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json(), encoding="utf-8")
        return path

    @staticmethod
    def load(path: Path) -> Fit:
        """Read a record that `save` wrote."""
        return Fit.from_json(path.read_text(encoding="utf-8"))

    @property
    def _law(self) -> Law:
        return self.settings.make_law()

    @property
    def _problem(self) -> Problem:
        return self.data.problem(self.settings)

    @property
    def _columns(self) -> dict[str, Array]:
        return {name: self.data.array(name) for name in self._law.inputs}

    @property
    def _theta(self) -> Array:
        if not self.identifiable:
            raise ValueError(f"the fit has no parameters: {'; '.join(self.flags)}")
        return self._law.to_theta(self.params)

    @property
    def _free(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        lower, upper = self.settings.box()
        return lower < upper

    @property
    def _groups_are_few(self) -> bool:
        return intervals.too_few_groups(self.n, self.data.num_groups, int(self._free.sum()))

    def _replicates(self) -> tuple[tuple[float, ...], ...]:
        self._theta  # noqa: B018  (refuses a fit without numbers)
        if not self.replicates:
            raise ValueError(
                "the fit has no bootstrap replicates: fit with bootstrap=1000, or ask for method='profile'"
            )
        return self.replicates

    def _profile_ends(self, level: float) -> Array:
        """Compute the ends of the profile intervals as coordinates, shape (p, 2)."""
        theta, box, problem = self._theta, self.settings.box(), self._problem
        minima = np.array([self._law.to_theta(minimum.params) for minimum in self.minima])
        inside = intervals.inside_box(theta, *box)
        wider = intervals.group_inflation(problem, theta, inside, self.data.groups)
        if self._groups_are_few or np.isnan(wider).any():
            return np.where(self._free, np.nan, theta)[:, None].repeat(2, axis=1)
        spread = intervals.covariance(problem, theta, inside, tuple(range(self.n)))
        with threadpool_limits(1):
            return profile.profile_interval(problem, minima, *box, spread, level, wider, self.data.num_groups)

    def _replicated(self) -> Array:
        """Numbers of each replicate, shape (bootstrap, p)."""
        return np.array([list(self._law.to_params(np.array(row)).values()) for row in self._replicates()])

    def quantiles(self, values: Array, level: float) -> list[Array]:
        """Interval of any quantity computed from `replicates`, over its first axis: expanded percentiles.

        NaN where the rows come from too few groups. A replicate that is NaN counts as beyond both ends, so that an end
        is infinite where more than the tail is unknown.
        """
        numbers, groups = int(self._free.sum()), self.data.num_groups
        tail = intervals.expanded_tail(level, self._problem, self._theta, numbers, groups)
        if self._groups_are_few:
            return [np.full(values.shape[1:], np.nan)] * 2
        return intervals.open_quantiles(values, tail)


def _choose(method: str, known: tuple[str, ...]) -> None:
    if method not in known:
        raise ValueError(f"method {method!r} is unknown; choose one of {', '.join(known)}")
