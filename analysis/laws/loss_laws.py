"""Laws of the loss: Chinchilla's, the data-constrained one, and a plain power law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from analysis.laws.base import Array, Inputs, Law, Parameter, log_sum_exp

# Bounds far outside any language model's loss: exp(-12) nats to exp(6), N^3 of 1e9 parameters.
TINY, LARGE, HUGE = float(np.exp(-12)), float(np.exp(6)), float(np.exp(60))
E = Parameter("E", TINY, LARGE, "unit of the loss", log=True)
A = Parameter("A", TINY, HUGE, "unit of the loss x parameters^alpha", log=True)
B = Parameter("B", TINY, HUGE, "unit of the loss x tokens^beta", log=True)
ALPHA = Parameter("alpha", 0.0, 3.0, "1")
BETA = Parameter("beta", 0.0, 3.0, "1")


@dataclass(frozen=True)
class Chinchilla(Law):
    """L(N, D) = E + A / N^alpha + B / D^beta.

    N: `params`; D: `tokens`. E, A and B are in the loss's unit (times N^alpha, D^beta). Coordinates are
    (log E, log A, alpha, log B, beta), so that log L is the log-sum-exp of three terms linear in them.

    References
    ----------
    Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", eqs. 2 and 3 (appendix D.3); Gadre et al.
    2024, "Language models scale reliably with over-training and on downstream tasks", eq. 4 (one exponent).
    """

    tied: bool = False
    """Whether beta is alpha: the law of over-training, L = E + (a M^eta + b M^-eta) C^-eta with M = D / N."""
    name: ClassVar[str] = "chinchilla"

    @property
    def equation(self) -> str:
        """The equation in plain text."""
        return "L(N, D) = E + A/N^alpha + B/D^alpha" if self.tied else "L(N, D) = E + A/N^alpha + B/D^beta"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns it predicts from."""
        return ("params", "tokens")

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """E, A, alpha, B and, unless tied, beta."""
        return (E, A, ALPHA, B) if self.tied else (E, A, ALPHA, B, BETA)

    @property
    def needs(self) -> dict[str, tuple[str, ...]]:
        """Three sizes for E, A and alpha; as many token counts. Tied, the exponent may come from either."""
        if self.tied:
            return {"params": ("E", "A"), "tokens": ("E", "B", "alpha")}
        return {"params": ("E", "A", "alpha"), "tokens": ("E", "B", "beta")}

    def log_predict(self, theta: Array, inputs: Inputs) -> tuple[Array, Array]:
        """Logarithm of the loss and its gradient; see `Law.log_predict`."""
        log_n, log_d = np.log(inputs["params"]), np.log(inputs["tokens"])
        shape = (len(theta), len(log_n))
        e, a, alpha, b = (theta[:, i, None] for i in range(4))
        beta = alpha if self.tied else theta[:, 4, None]
        log_loss, (share_e, share_a, share_b) = log_sum_exp(
            np.stack([np.broadcast_to(e, shape), a - alpha * log_n, b - beta * log_d])
        )
        slope_n, slope_d = -share_a * log_n, -share_b * log_d
        if self.tied:
            return log_loss, np.stack([share_e, share_a, slope_n + slope_d, share_b], axis=1)
        return log_loss, np.stack([share_e, share_a, slope_n, share_b, slope_d], axis=1)

    def starts(self, inputs: Inputs, target: Array, count: int, rng: np.random.Generator) -> Array:
        """Draw starts, shape (count, p): E is a share of the least loss, and two terms split the rest at the median.

        Exponents are drawn between 0.05 and 1.
        """
        log_n, log_d = (float(np.median(np.log(inputs[name]))) for name in self.inputs)
        floor = target.min() * rng.uniform(0.05, 0.98, count)
        rest = np.maximum(np.median(target) - floor, 1e-3 * target.min())
        split = rng.uniform(0.05, 0.95, count)
        alpha = rng.uniform(0.05, 1.0, count)
        beta = alpha if self.tied else rng.uniform(0.05, 1.0, count)
        a = np.log(rest * split) + alpha * log_n
        b = np.log(rest * (1 - split)) + beta * log_d
        columns = [np.log(floor), a, alpha, b]
        return np.stack(columns if self.tied else [*columns, beta], axis=1)

    def optimal(self, params: Mapping[str, float], compute: Array, flops: Mapping[str, float]) -> tuple[Array, Array]:
        """N and D of least loss at C = k N^n D^d, shape (m,) each.

        N^(alpha + n beta / d) = (alpha A d) / (beta B n) (C / k)^(beta / d).

        References
        ----------
        Hoffmann et al. 2022, eq. 4, for k = 6 and n = d = 1.
        """
        alpha = params["alpha"]
        beta = params.get("beta", alpha)
        k, n, d = flops["k"], flops["n"], flops["d"]
        if min(alpha, beta) <= 0:
            raise ValueError(f"alpha = {alpha:g}, beta = {beta:g}: both must be above 0 for an optimum to exist")
        log_budget = np.log(np.asarray(compute, dtype=np.float64) / k)
        gain = np.log(alpha * params["A"] * d) - np.log(beta * params["B"] * n)
        log_n = (gain + log_budget * beta / d) / (alpha + n * beta / d)
        return np.exp(log_n), np.exp((log_budget - n * log_n) / d)


@dataclass(frozen=True)
class DataConstrained(Law):
    """L = E + A / N'^alpha + B / D'^beta with repeated data and excess parameters worth less.

    D' = U_D h(R_D, R_D*), U_D = min(D, unique tokens), R_D = D / U_D - 1, and
    N' = U_N h(R_N, R_N*), U_N = min(N, N_opt(U_D)), R_N = N / U_N - 1, with
    h(R, R*) = 1 + R* (1 - exp(-R / R*)), and N_opt(U_D) the size for which U_D tokens are compute-optimal:
    alpha A / N_opt^alpha = beta B / U_D^beta.

    N: `params`; D: `tokens`; `unique_tokens`. R_D* and R_N* (here `R_D`, `R_N`) are repetitions: R_D* of them
    are together worth 1 - 1/e of the same number of fresh tokens. Coordinates are logarithms of all but alpha and beta.

    References
    ----------
    Muennighoff et al. 2023, "Scaling Data-Constrained Language Models", eqs. 5 and 6 (appendix A for U_N).
    """

    excess_params: bool = True
    """Whether parameters beyond N_opt(U_D) decay; False takes N' = N and has no R_N."""
    name: ClassVar[str] = "data_constrained"

    @property
    def equation(self) -> str:
        """The equation in plain text."""
        first = "A/N'^alpha" if self.excess_params else "A/N^alpha"
        return f"L(N, D, U) = E + {first} + B/D'^beta, D' = U (1 + R_D (1 - exp(-(D/U - 1)/R_D)))"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns it predicts from."""
        return ("params", "tokens", "unique_tokens")

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """E, A, alpha, B, beta, R_D and, unless left out, R_N."""
        r_d, r_n = (Parameter(name, 1e-3, 1e6, "repetitions", log=True) for name in ("R_D", "R_N"))
        return (E, A, ALPHA, B, BETA, r_d, r_n) if self.excess_params else (E, A, ALPHA, B, BETA, r_d)

    @property
    def needs(self) -> dict[str, tuple[str, ...]]:
        """As Chinchilla's law; some tokens must be repeated for R_D, which `fit_law` cannot see from counts."""
        return Chinchilla().needs

    def log_predict(self, theta: Array, inputs: Inputs) -> tuple[Array, Array]:
        """Logarithm of the loss and its gradient; see `Law.log_predict`."""
        log_n, log_d = np.log(inputs["params"]), np.log(inputs["tokens"])
        log_u = np.minimum(np.log(inputs["unique_tokens"]), log_d)
        e, a, alpha, b, beta, r_d = (theta[:, i, None] for i in range(6))
        worth_d, _, decay_d = _worth(log_d, log_u, r_d)
        slopes_n = np.zeros((5, len(theta), len(log_n)))
        worth_n = np.broadcast_to(log_n, slopes_n.shape[1:])
        if self.excess_params:
            worth_n, slopes_n = _worth_of_params(theta, log_n, log_u)
        log_loss, (share_e, share_a, share_b) = log_sum_exp(
            np.stack([np.broadcast_to(e, worth_n.shape), a - alpha * worth_n, b - beta * worth_d])
        )
        into_n = -share_a * alpha
        gradient = [
            share_e,
            share_a + into_n * slopes_n[0],
            -share_a * worth_n + into_n * slopes_n[1],
            share_b + into_n * slopes_n[2],
            -share_b * worth_d + into_n * slopes_n[3],
            -share_b * beta * decay_d,
        ]
        return log_loss, np.stack([*gradient, into_n * slopes_n[4]] if self.excess_params else gradient, axis=1)

    def starts(self, inputs: Inputs, target: Array, count: int, rng: np.random.Generator) -> Array:
        """Draw starts, shape (count, p): those of Chinchilla's law, with R_D and R_N between 1 and 100."""
        base = Chinchilla().starts(inputs, target, count, rng)
        decays = rng.uniform(0.0, np.log(100.0), (count, 2 if self.excess_params else 1))
        return np.concatenate([base, decays], axis=1)


def _worth(log_x: Array, log_u: Array, log_r: Array) -> tuple[Array, Array, Array]:
    """Log of u h(x / u - 1, R*), and its slopes in log u and in log R*."""
    # e^50 repetitions are infinitely many, and still a number.
    ratio = np.exp(np.minimum(log_x - log_u, 50.0))
    scale = np.exp(log_r)
    decay = np.exp(-(ratio - 1) / scale)
    worth = 1 - scale * np.expm1(-(ratio - 1) / scale)
    slope_r = (scale * (1 - decay) - (ratio - 1) * decay) / worth
    return log_u + np.log(worth), 1 - ratio * decay / worth, slope_r


def _worth_of_params(theta: Array, log_n: Array, log_u: Array) -> tuple[Array, Array]:
    """Log N', and its slopes in log A, alpha, log B, beta and log R_N, shape (5, b, n)."""
    _, a, alpha, b, beta, _, r_n = (theta[:, i, None] for i in range(7))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_optimal = (np.log(alpha) + a - np.log(beta) - b + beta * log_u) / alpha
        in_excess = log_n > log_optimal
        ones = np.ones_like(log_optimal)
        by = np.stack([ones / alpha, (1 / alpha - log_optimal) / alpha, -ones / alpha, (log_u - 1 / beta) / alpha])
        worth, slope_u, slope_r = _worth(log_n, np.where(in_excess, log_optimal, log_n), r_n)
        slopes = np.where(in_excess, slope_u * by, 0.0)
    return worth, np.concatenate([slopes, np.where(in_excess, slope_r, 0.0)[None]])


@dataclass(frozen=True)
class PowerLaw(Law):
    """y = E + K / x^gamma, or y = K / x^gamma without the offset.

    x is any positive column; K is in y's unit times x^gamma. Coordinates are (log E, log K, gamma).

    References
    ----------
    Kaplan et al. 2020, "Scaling Laws for Neural Language Models", eqs. 1.1 to 1.3 (no offset); Hestness et al. 2017,
    "Deep Learning Scaling is Predictable, Empirically" (with one).
    """

    x: str = "tokens"
    """Column it predicts from."""
    offset: bool = True
    """Whether there is an E."""
    name: ClassVar[str] = "power_law"

    @property
    def equation(self) -> str:
        """The equation in plain text."""
        return f"y = {'E + ' if self.offset else ''}K/x^gamma, x = {self.x}"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns it predicts from."""
        return (self.x,)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """E (unless left out), K and gamma."""
        rest = (Parameter("K", TINY, HUGE, f"unit of the target x {self.x}^gamma", log=True), _GAMMA)
        return (E, *rest) if self.offset else rest

    def log_predict(self, theta: Array, inputs: Inputs) -> tuple[Array, Array]:
        """Logarithm of the target and its gradient; see `Law.log_predict`."""
        log_x = np.log(inputs[self.x])
        k, gamma = theta[:, -2, None], theta[:, -1, None]
        power = k - gamma * log_x
        if not self.offset:
            return power, np.stack([np.ones_like(power), np.broadcast_to(-log_x, power.shape)], axis=1)
        total, (share_e, share_k) = log_sum_exp(np.stack([np.broadcast_to(theta[:, :1], power.shape), power]))
        return total, np.stack([share_e, share_k, -share_k * log_x], axis=1)

    def starts(self, inputs: Inputs, target: Array, count: int, rng: np.random.Generator) -> Array:
        """Draw starts, shape (count, p): E is a share of the least value, gamma between 0.05 and 1."""
        middle = float(np.median(np.log(inputs[self.x])))
        floor = target.min() * (rng.uniform(0.05, 0.98, count) if self.offset else np.zeros(count))
        gamma = rng.uniform(0.05, 1.0, count)
        k = np.log(np.maximum(np.median(target) - floor, 1e-3 * target.min())) + gamma * middle
        return np.stack([np.log(floor), k, gamma] if self.offset else [k, gamma], axis=1)


_GAMMA = Parameter("gamma", 0.0, 3.0, "1")
