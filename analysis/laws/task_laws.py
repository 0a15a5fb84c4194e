"""Laws of a downstream task: its error or accuracy from the model's loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from analysis.laws.base import Array, Inputs, Law, Parameter

# Slopes between "a nat changes nothing" and "a hundredth of a nat changes everything".
SLOPE_LOW, SLOPE_HIGH = 1e-3, 1e3


@dataclass(frozen=True)
class TaskError(Law):
    """error(L) = eps - k exp(-gamma L).

    eps: error of a model that knows nothing (shares of 1); k: unit of the error; gamma: per unit of loss. Below a loss
    of log(k / eps) / gamma the equation gives no positive error, and the prediction is NaN. Coordinates are
    (log eps, log k, log gamma).

    References
    ----------
    Gadre et al. 2024, "Language models scale reliably with over-training and on downstream tasks", eq. 5.
    """

    name: ClassVar[str] = "task_error"
    target: ClassVar[str] = "error"

    @property
    def equation(self) -> str:
        """The equation in plain text."""
        return "error(L) = eps - k exp(-gamma L)"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns it predicts from."""
        return ("loss",)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """eps, k and gamma."""
        return (
            Parameter("eps", 1e-3, 1.5, "share of 1", log=True),
            Parameter("k", 1e-6, 1e12, "share of 1", log=True),
            Parameter("gamma", SLOPE_LOW, SLOPE_HIGH, "1 / unit of the loss", log=True),
        )

    def log_predict(self, theta: Array, inputs: Inputs) -> tuple[Array, Array]:
        """Logarithm of the error and its gradient; see `Law.log_predict`."""
        eps, gain, gamma = np.exp(theta[:, 0, None]), theta[:, 1, None], np.exp(theta[:, 2, None])
        loss = inputs["loss"]
        known = np.exp(gain - gamma * loss)
        error = eps - known
        positive = error > 0
        error = np.where(positive, error, np.nan)
        gradient = np.stack([eps / error, -known / error, known * gamma * loss / error], axis=1)
        return np.log(error), gradient

    def starts(self, inputs: Inputs, target: Array, count: int, rng: np.random.Generator) -> Array:
        """Draw starts, shape (count, 3): eps above the largest error, and the least loss explained exactly."""
        loss = inputs["loss"]
        spread = max(float(np.ptp(loss)), 1e-3 * float(loss.max()))
        eps = np.minimum(target.max() * (1 + rng.uniform(0.005, 0.3, count)), 1.5)
        gamma = rng.uniform(0.3, 6.0, count) / spread
        lowest = float(loss.min())
        gain = np.log(eps - target.min() * rng.uniform(0.8, 1.0, count)) + gamma * lowest
        return np.stack([np.log(eps), gain, np.log(gamma)], axis=1)


@dataclass(frozen=True)
class TaskAccuracy(Law):
    """accuracy(L) = chance + (top - chance) / (1 + exp(k (L - L0))).

    top: accuracy at the end of the curve (shares of 1); k: per unit of loss; L0: loss half-way. Coordinates are
    (top, log k, L0).

    References
    ----------
    Bhagia et al. 2024, "Establishing Task Scaling Laws via Compute-Efficient Model Ladders", its step from task loss
    to accuracy, with the lower level held at chance; Llama Team 2024, "The Llama 3 Herd of Models", section 3.2.1.
    """

    chance: float = 0.25
    """Accuracy of guessing: 1 / number of answers, 0 for open ones."""
    name: ClassVar[str] = "task_accuracy"
    target: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        if not 0 <= self.chance < 1:
            raise ValueError(f"chance is {self.chance}: give a share of 1, 0 for open answers")

    @property
    def equation(self) -> str:
        """The equation in plain text."""
        return f"accuracy(L) = {self.chance:g} + (top - {self.chance:g}) / (1 + exp(k (L - L0)))"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns it predicts from."""
        return ("loss",)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Top, k and L0."""
        return (
            Parameter("top", self.chance + 1e-3 * (1 - self.chance), 1.0, "share of 1"),
            Parameter("k", SLOPE_LOW, SLOPE_HIGH, "1 / unit of the loss", log=True),
            Parameter("L0", -1e2, 1e2, "unit of the loss"),
        )

    def log_predict(self, theta: Array, inputs: Inputs) -> tuple[Array, Array]:
        """Logarithm of the accuracy and its gradient; see `Law.log_predict`."""
        rise, k, middle = theta[:, 0, None] - self.chance, np.exp(theta[:, 1, None]), theta[:, 2, None]
        distance = inputs["loss"] - middle
        share = 0.5 * (1 - np.tanh(0.5 * k * distance))
        accuracy = self.chance + rise * share
        # Without chance a far tail underflows to 0, which has no logarithm.
        accuracy = np.where(accuracy > 0, accuracy, np.nan)
        steep = rise * share * (1 - share) / accuracy
        return np.log(accuracy), np.stack([share / accuracy, -steep * k * distance, steep * k], axis=1)

    def starts(self, inputs: Inputs, target: Array, count: int, rng: np.random.Generator) -> Array:
        """Draw starts, shape (count, 3): top above the best accuracy, half-way anywhere in the data or below."""
        loss = inputs["loss"]
        spread = max(float(np.ptp(loss)), 1e-3 * float(loss.max()))
        best = max(float(target.max()), self.chance + 2e-3)
        top = best + (1.0 - best) * rng.uniform(0.0, 1.0, count)
        k = rng.uniform(1.0, 12.0, count) / spread
        middle = loss.min() + spread * rng.uniform(-0.5, 1.0, count)
        return np.stack([top, np.log(k), middle], axis=1)
