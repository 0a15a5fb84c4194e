"""Runs held out of a fit by scale, and how well simpler predictions do on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.fitting.settings import DATA_SET, Data, Settings
from analysis.laws.base import Array

TIED = 1e-9
"""Difference of two distances, in log units, below which they count as equal."""


@dataclass(frozen=True)
class HeldOut:
    """How well the largest runs were predicted."""

    by: str
    """Column that they were held out by."""
    threshold: float
    """Rows at or above it were held out."""
    n: int
    """How many."""
    inputs: dict[str, tuple[float, ...]]
    """Their columns."""
    measured: tuple[float, ...]
    """Their target."""
    predicted: tuple[float, ...]
    """The fit's predictions."""
    signed_error: float
    """Mean of (predicted - measured) / measured."""
    largest_error: float
    """Largest absolute value of it."""
    extrapolation: float
    """Largest held-out value of `by` over the largest fitted one."""
    baselines: dict[str, tuple[float, float]]
    """By name, the same two errors of a prediction made without the law."""
    seed_noise: float | None
    """Relative standard deviation of runs that agree in all inputs and their data; None where no run was repeated."""

    @property
    def relative_errors(self) -> tuple[float, ...]:
        """(predicted - measured) / measured of each run; infinite where 0 was measured."""
        return tuple((p - m) / m if m else np.inf for p, m in zip(self.predicted, self.measured, strict=True))

    def describe(self) -> str:
        """Describe it in one line."""
        noise = "not known" if self.seed_noise is None else f"{self.seed_noise:.2%}"
        others = ", ".join(f"{name} {worst:.2%}" for name, (_, worst) in self.baselines.items())
        return (
            f"{self.n} largest runs held out ({self.by} up to {self.extrapolation:.3g} times the fitted): error "
            f"{self.signed_error:+.2%} on average, {self.largest_error:.2%} at most "
            f"(without a law: {others}; seed noise {noise})"
        )


def is_held_out(data: Data, holdout: dict[str, float]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Rows at or above any of the thresholds, shape (n,).

    Raises
    ------
    ValueError
        A column is unknown, or the thresholds leave no row to fit or hold none out.
    """
    held = np.zeros(data.n, dtype=np.bool_)
    for name, threshold in holdout.items():
        if name not in data.columns:
            raise ValueError(f"holdout={name!r} is not a column of the rows, which have {', '.join(data.columns)}")
        held |= data.array(name) >= threshold
    if holdout and held.all():
        raise ValueError(f"holdout {holdout} leaves no row to fit")
    if holdout and not held.any():
        largest = ", ".join(f"{name} at most {data.array(name).max():g}" for name in holdout)
        raise ValueError(f"holdout {holdout} holds out no row: the rows have {largest}")
    return held


def judge_holdout(settings: Settings, seen: Data, unseen: Data, predicted: Array) -> HeldOut:
    """Compare predictions of the held-out rows with measurements and with trivial predictions."""
    by, threshold = next(iter(settings.holdout.items()))
    measured = unseen.array(settings.target)
    names = settings.make_law().inputs
    signed, largest = _errors(predicted, measured)
    baselines = {
        "nearest run": _errors(_nearest(seen, unseen, names, settings.target), measured),
        "log-linear": _errors(_log_linear(seen, unseen, names, settings.target), measured),
    }
    return HeldOut(
        by=by,
        threshold=threshold,
        n=unseen.n,
        inputs={name: unseen.columns[name] for name in names},
        measured=unseen.columns[settings.target],
        predicted=tuple(float(value) for value in predicted),
        signed_error=signed,
        largest_error=largest,
        extrapolation=float(unseen.array(by).max() / seen.array(by).max()),
        baselines=baselines,
        seed_noise=seed_noise(seen, unseen, names=names, target=settings.target),
    )


def seed_noise(*parts: Data, names: tuple[str, ...], target: str) -> float | None:
    """Pooled standard deviation of the log target among rows above 0 that agree in all inputs; None without such rows.

    Rows with different data, or different numbers of distinct tokens, are not repeats.
    """
    runs: dict[tuple[float, ...], list[float]] = {}
    for data in parts:
        same = [*names, *(name for name in (DATA_SET, "unique_tokens") if name in data.columns)]
        for row, value in zip(
            zip(*(data.columns[name] for name in same), strict=True), data.array(target), strict=True
        ):
            if value > 0:
                runs.setdefault(row, []).append(float(np.log(value)))
    squares = sum(float(((np.array(values) - np.mean(values)) ** 2).sum()) for values in runs.values())
    freedom = sum(len(values) - 1 for values in runs.values())
    return float(np.sqrt(squares / freedom)) if freedom else None


def _errors(predicted: Array, measured: Array) -> tuple[float, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = predicted / measured - 1
    return float(relative.mean()), float(np.abs(relative).max())


def _logs(data: Data, names: tuple[str, ...]) -> Array:
    return np.stack([np.log(data.array(name)) for name in names], axis=1)


def _nearest(seen: Data, unseen: Data, names: tuple[str, ...], target: str) -> Array:
    """Target of the fitted run nearest in the logarithms of the inputs; the mean of several equally near."""
    distance = np.abs(_logs(unseen, names)[:, None] - _logs(seen, names)[None]).sum(axis=2)
    near = distance <= distance.min(axis=1, keepdims=True) + TIED
    return near @ seen.array(target) / near.sum(axis=1)


def _log_linear(seen: Data, unseen: Data, names: tuple[str, ...], target: str) -> Array:
    """Power of the inputs without an offset, by least squares of the logarithms; NaN where a target is 0."""
    if not seen.array(target).all():
        return np.full(unseen.n, np.nan)
    design, other = (np.column_stack([np.ones(data.n), _logs(data, names)]) for data in (seen, unseen))
    coefficients = np.linalg.lstsq(design, np.log(seen.array(target)), rcond=None)[0]
    return np.exp(other @ coefficients)
