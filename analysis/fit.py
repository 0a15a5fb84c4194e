"""A law fitted to cooled-down points, with the largest runs held out, as a record with its diagnostics."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# (pandas and scipy are typed in part)
from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize
from threadpoolctl import threadpool_limits

from analysis.laws import LAWS, Array, Chinchilla

MIN_SIZES = 3
"""A curve in N with an offset has three numbers."""
MIN_TOKENS = 3
"""So has one in D."""
NEAR_BEST = 1e-3
"""Starts that end within this relative distance of the best objective count as having found it."""


@dataclass(frozen=True)
class HeldOut:
    """One run that the fit did not see."""

    params: float
    """N."""
    tokens: float
    """D."""
    measured: float
    """Its loss."""
    predicted: float
    """What the fit says."""

    @property
    def relative_error(self) -> float:
        """(predicted - measured) / measured."""
        return (self.predicted - self.measured) / self.measured


@dataclass(frozen=True)
class Fit:
    """L(N, D) as fitted, or why it could not be."""

    law: str
    """Name of the law in `analysis.laws.LAWS`."""
    params: dict[str, float]
    """The law's numbers in full precision; empty where the data do not identify them."""
    flags: tuple[str, ...]
    """What a reader must know before using the numbers, in words."""
    objective: float
    """Sum of Huber losses of the log residuals; NaN without a fit."""
    delta: float
    """Huber's delta, in log units."""
    gradient_norm: float
    """Largest component of the objective's gradient at the solution, over delta squared; NaN without a fit."""
    starts: int
    """Starting points tried."""
    share_of_starts: float
    """Share of them that ended within 0.1% of the best objective."""
    n: int
    """Points fitted."""
    sizes: tuple[float, ...]
    """Distinct N among them."""
    token_counts: tuple[float, ...]
    """Distinct D among them."""
    holdout: tuple[HeldOut, ...]
    """Runs held out, with the fit's predictions."""
    target: str
    """Metric that was fitted."""
    size_column: str
    """Column that N was taken from."""

    @property
    def identifiable(self) -> bool:
        """Whether there are numbers."""
        return bool(self.params)

    @property
    def holdout_error(self) -> float:
        """Largest absolute relative error on the runs held out; NaN without any."""
        return max((abs(run.relative_error) for run in self.holdout), default=float("nan"))

    def predict(self, params: Array, tokens: Array) -> Array:
        """Loss at N and D, shape (n,).

        Raises
        ------
        ValueError
            The fit is not identifiable.
        """
        if not self.identifiable:
            raise ValueError(f"nothing to predict from: {'; '.join(self.flags)}")
        law = LAWS[self.law]
        log_loss, _ = law.log_predict(
            law.to_theta(self.params), np.asarray(params, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        )
        return np.exp(log_loss)

    def describe(self) -> str:
        """Say the fit in a few lines: numbers, held-out error, flags."""
        lines = [f"L(N, D) = E + A/N^alpha + B/D^beta on {self.n} cooled-down runs, {len(self.sizes)} sizes"]
        if self.identifiable:
            lines.append(", ".join(f"{name} = {value:.4g}" for name, value in self.params.items()))
        if self.identifiable and self.holdout:
            signed = float(np.mean([run.relative_error for run in self.holdout]))
            lines.append(
                f"{len(self.holdout)} largest runs held out: error {signed:+.2%} on average, "
                f"{self.holdout_error:.2%} at most"
            )
        return "\n".join([*lines, *self.flags])

    def to_json(self) -> str:
        """Write the record; `from_json` gives it back bit for bit."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> Fit:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        values["holdout"] = tuple(HeldOut(**run) for run in values["holdout"])
        for name in ("flags", "sizes", "token_counts"):
            values[name] = tuple(values[name])
        return Fit(**values)

    def save(self, path: Path) -> Path:
        """Write the record to a file and return its path."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json())
        return path


def select_runs(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Cooled-down checkpoints that were scored on a metric, a row each.

    Raises
    ------
    ValueError
        The metric is unknown to the frame.
    """
    if metric not in set(frame["metric"]):
        known = ", ".join(sorted(set(frame["metric"].dropna())))
        raise ValueError(f"metric {metric!r} is not in the frame; there are: {known or 'none'}")
    return frame.loc[(frame["metric"] == metric) & frame["annealed"] & frame["value"].notna()]


def fit_law(
    law: Chinchilla,
    frame: pd.DataFrame,
    *,
    metric: str,
    size_column: str = "params_non_embedding",
    holdout_sizes: int = 1,
    delta: float = 1e-3,
    starts: int = 100,
    seed: int = 0,
) -> Fit:
    """Fit a law to a study's cooled-down points.

    Minimises the sum of Huber losses of log L - log L(N, D) by L-BFGS with the analytic gradient from many
    starting points.

    Parameters
    ----------
    law
        The law.
    frame
        As `analysis.load.load_study` gives it; rows that are not annealed or have no value are left out.
    metric
        Which metric is the loss L, such as `heldout/prose/bits_per_byte`.
    size_column
        `params_non_embedding` or `params`: the convention moves the exponent, and the record names it.
    holdout_sizes
        How many of the largest sizes are held out and predicted.
    delta
        Huber's delta, in log units.
    starts
        Starting points.
    seed
        Seed of the starting points.

    Returns
    -------
    Fit
        Without numbers, and flagged "not identifiable", where fewer than three sizes or three token counts
        remain, or no more points than the law has numbers.

    Raises
    ------
    ValueError
        The metric is unknown, or a value is not above zero.

    References
    ----------
    Hoffmann et al. 2022, appendix D.3; Besiroglu et al. 2024 on the optimizer's tolerance.
    """
    runs = select_runs(frame, metric)
    values = _column(runs, "value")
    if (values <= 0).any():
        raise ValueError(f"metric {metric!r} has a value of {values.min()}: logarithms need values above 0")
    sizes = sorted({float(size) for size in runs[size_column]})
    largest = sizes[len(sizes) - holdout_sizes :] if holdout_sizes else []
    is_largest = runs[size_column].isin(largest)
    seen, unseen = runs.loc[~is_largest], runs.loc[is_largest]
    params, tokens, loss = (_column(seen, name) for name in (size_column, "tokens", "value"))
    empty = Fit(
        law=law.name,
        params={},
        flags=(),
        objective=float("nan"),
        delta=delta,
        gradient_norm=float("nan"),
        starts=starts,
        share_of_starts=0.0,
        n=len(seen),
        sizes=tuple(sorted(set(params.tolist()))),
        token_counts=tuple(sorted(set(tokens.tolist()))),
        holdout=(),
        target=metric,
        size_column=size_column,
    )
    reason = _unidentifiable(law, empty, len(largest))
    if reason:
        return dataclasses.replace(empty, flags=(reason,))
    # Two BLAS threads on matrices of five rows wait for each other: 29 s a fit on a busy machine against 2 s.
    with threadpool_limits(1):
        theta, objective, gradient_norm, share = _minimise(law, params, tokens, loss, delta, starts, seed)
    fit = dataclasses.replace(
        empty,
        params=law.to_params(theta),
        flags=tuple(_flags(law, theta, gradient_norm, share, len(seen), len(empty.sizes), len(empty.token_counts))),
        objective=objective,
        gradient_norm=gradient_norm,
        share_of_starts=share,
    )
    n, d, measured = (_column(unseen, name) for name in (size_column, "tokens", "value"))
    predicted = fit.predict(n, d)
    held = [HeldOut(*map(float, row)) for row in zip(n, d, measured, predicted, strict=True)]
    return dataclasses.replace(fit, holdout=tuple(held))


def _column(frame: pd.DataFrame, name: str) -> Array:
    return frame[name].to_numpy(dtype=np.float64)


def _unidentifiable(law: Chinchilla, fit: Fit, held_out: int) -> str:
    counts = f"{len(fit.sizes)} sizes, {len(fit.token_counts)} token counts and {fit.n} points remain"
    if len(fit.sizes) < MIN_SIZES or len(fit.token_counts) < MIN_TOKENS or fit.n <= len(law.param_names):
        return (
            f"not identifiable: {counts} with the {held_out} largest sizes held out; "
            f"the law needs {MIN_SIZES} sizes, {MIN_TOKENS} token counts and {len(law.param_names) + 1} points"
        )
    return ""


def _minimise(
    law: Chinchilla, params: Array, tokens: Array, loss: Array, delta: float, starts: int, seed: int
) -> tuple[Array, float, float, float]:
    """Coordinates, objective, gradient norm and share of starts of the best minimum found."""
    log_loss = np.log(loss)

    def scaled(theta: Array) -> tuple[float, Array]:
        # Over delta squared: the sum itself is so small that default tolerances stop at once.
        predicted, gradient = law.log_predict(theta, params, tokens)
        ratio = (predicted - log_loss) / delta
        inside = np.abs(ratio) <= 1
        value = np.where(inside, 0.5 * ratio**2, np.abs(ratio) - 0.5).sum()
        slope = np.where(inside, ratio, np.sign(ratio)) / delta
        return float(value), slope @ gradient

    lower, upper = np.array(law.bounds).T
    ends: list[tuple[float, Array]] = []
    for start in law.starts(params, tokens, loss, starts, seed):
        options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-9}
        theta = np.clip(start, lower, upper)
        for _ in range(2):  # A second round forgets the first one's curvature, and often goes on.
            theta = optimize.minimize(scaled, theta, jac=True, method="L-BFGS-B", bounds=law.bounds, options=options).x
        ends.append((scaled(theta)[0], theta))
    best, theta = min(ends, key=lambda end: end[0])
    share = sum(value <= best * (1 + NEAR_BEST) + 1e-12 for value, _ in ends) / starts
    free = (theta > lower) & (theta < upper)
    gradient = scaled(theta)[1][free]
    return theta, best * delta**2, float(np.abs(gradient).max(initial=0.0)), share


def _flags(
    law: Chinchilla, theta: Array, gradient_norm: float, share: float, n: int, sizes: int, token_counts: int
) -> list[str]:
    flags: list[str] = []
    for name, value, (low, high) in zip(law.param_names, theta, law.bounds, strict=True):
        if value <= low + 1e-6 or value >= high - 1e-6:
            flags.append(f"{name} is at a bound: the data do not determine it")
    if n <= 2 * len(law.param_names):
        flags.append(f"{n} points for {len(law.param_names)} numbers: intervals would be wide")
    for counted, what in ((sizes, "sizes"), (token_counts, "token counts")):
        if counted <= 3:
            flags.append(f"{counted} {what} for two numbers and an offset: nothing is left to contradict them")
    if share < 0.05:
        flags.append(f"only {share:.0%} of the starts found this minimum")
    if gradient_norm > 1.0:
        flags.append(f"not converged: gradient norm {gradient_norm:.2g}")
    return flags
