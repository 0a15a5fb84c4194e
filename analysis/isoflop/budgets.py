"""Approach 2: exponents from the minima of a few isoFLOP budgets, with the noise and the method's own bias."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fitting import fit_law
from analysis.frames import EXCLUDED
from analysis.isoflop.allocation import (
    Allocation,
    Growth,
    Noise,
    fit_growth,
    known_quantiles,
    pool_noise,
    repeat_noise,
    several_data_sets,
    trunk_numbers,
    with_flops,
)
from analysis.isoflop.loss_by_size import isoflop_curve, lowest
from analysis.isoflop.optimal_sizes import FEWEST_SIZES, assign_budgets, isoflop_minima, tokens_at
from analysis.laws import Chinchilla

Array = NDArray[np.float64]

BIASED = 0.1
"""Relative shift of an optimum by the method alone above which a flag warns."""
BIASED_EXPONENT = 0.01
"""Shift of the exponent by the method alone above which a flag warns."""
UNEVEN = 0.03
"""Range of FLOPs within a budget above which a flag warns: a loss ~ C^-0.05 moves by 0.15% over it."""
INSECURE = 0.1
"""Share of draws without an optimum above which a budget's optimum is flagged as uncertain."""


def fit_isoflop(
    frame: pd.DataFrame,
    method: str = "parabola",
    *,
    exponents: tuple[float, float] | None = None,
    noise: float | None = None,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Allocation:
    """Exponents of N*(C) and D*(C) from isoFLOP minima.

    Lines through log N* and log D* against log C. Their intervals come from redrawn noise: each draw moves every
    loss by an error of the noise's size, finds the minima again and draws the lines again. Where the column
    `trajectory` says which points are off one trunk, part of the error is shared by those, as large as their
    residuals show: budgets that share their trunks are not independent.

    Parameters
    ----------
    frame
        As in `isoflop_minima`.
    method
        `parabola` or `akima`.
    exponents
        alpha and beta of the surface on which the method's own bias is computed; None fits them (approach 3).
    noise
        Standard deviation of log loss between seeds; None takes it from repeated seeds in the frame, else from
        the residuals of the parabolas, which include their misfit.
    bootstrap
        Draws of the noise.
    level
        Level of the intervals.
    seed
        Seed of the draws.

    Returns
    -------
    Allocation
        `optima` is the frame of `isoflop_minima` with params_low and params_high, and `refused_share` (of the
        draws). Flags name what was left out, refused and uncertain optima, and the expected bias.

    Raises
    ------
    ValueError
        Fewer than two budgets have an optimum (the reasons are named), or as `isoflop_minima`.

    References
    ----------
    Hoffmann et al. 2022, section 3.2; Porian et al. 2024 (noise added anew);
    Czech et al. 2026 (arXiv 2603.22339; the bias).
    """
    rows, excluded = with_flops(frame)
    surface = exponents or _surface(rows)
    optima = isoflop_minima(rows, method, exponents=surface)
    found = np.array([reason == "" for reason in optima["refused"]])
    mixed = [f"{words}: the curves go through all of them" for words in several_data_sets(rows)]
    flags = [*mixed, *_refusals(optima), *_uneven(optima)]
    if found.sum() < 2:
        raise ValueError(f"budgets with an optimum: {found.sum()}, but exponents need two; {'; '.join(flags)}")
    numbers = assign_budgets(rows)
    known = _noise(rows, numbers, optima)
    if noise is not None:
        known = Noise(noise, 0, "the given noise", 0.0 if known is None else known.shared)
    draws = None if known is None else _draw(rows, numbers, method, known, bootstrap, seed)
    spacing = float(np.median(np.log(optima["largest"] / optima["smallest"]) / (optima["sizes"] - 1).clip(lower=1)))
    values = {name: optima[name].to_numpy(dtype=np.float64)[found] for name in ("flops", "params", "tokens", "bias")}

    def line(name: str, shift: Array | float = 0.0) -> tuple[Growth, str, tuple[str, ...]]:
        drawn = None if draws is None else draws[name][found]
        return fit_growth(values["flops"], values[name] * np.exp(-shift), drawn, level=level, spacing=spacing)

    (params, source, more), (tokens, _, _) = line("params"), line("tokens")
    flags += more
    if known is not None and draws is not None:
        source += f"; noise {known.sd:.2g} in log loss from {known.source}"
        optima = _with_draws(optima, draws["params"], level)
        flags += _insecure(optima)
    unmoved = line("params", values["bias"])[0] if np.isfinite(values["bias"]).all() else params
    flags += _bias_flags(optima, surface, params.exponent - unmoved.exponent)
    optima.attrs[EXCLUDED] = excluded
    return Allocation(f"isoflop {method}", params, tokens, optima, level, source, (*excluded, *flags))


def _surface(rows: pd.DataFrame) -> tuple[float, float] | None:
    """Exponents of approach 3; None where the points do not determine them."""
    params = fit_law(Chinchilla(), rows).params
    return (params["alpha"], params["beta"]) if params else None


def _refusals(optima: pd.DataFrame) -> list[str]:
    """Name the refused budgets, grouped by reason."""
    refused: dict[str, list[str]] = {}
    for row in optima.to_dict("records"):
        if row["refused"]:
            refused.setdefault(str(row["refused"]), []).append(f"{row['flops']:.3g}")
    return [
        f"{'budget' if len(budgets) == 1 else f'{len(budgets)} budgets'} {', '.join(budgets)} FLOPs refused: {reason}"
        for reason, budgets in refused.items()
    ]


def _uneven(optima: pd.DataFrame) -> list[str]:
    return [
        f"{_budget(row)}: its points' FLOPs differ by {row['flops_range']:.0%}, which moves their losses too"
        for row in optima.to_dict("records")
        if not row["refused"] and row["flops_range"] > UNEVEN
    ]


def _budget(row: dict[str, object]) -> str:
    return f"budget {float(str(row['flops'])):.3g} FLOPs"


def _noise(rows: pd.DataFrame, numbers: NDArray[np.int64], optima: pd.DataFrame) -> Noise | None:
    """Repeated seeds where there are enough, else the residuals of the usable budgets' parabolas."""
    repeats = repeat_noise(rows, ("params", "tokens"))
    if repeats is not None:
        return repeats
    trunks, dof = trunk_numbers(rows), 0
    residuals: list[Array] = []
    behind: list[NDArray[np.int64]] = []
    for number, reason in enumerate(optima["refused"]):
        points = rows.loc[numbers == number]
        if reason == "" and len(points) > 3:
            sizes, loss = (points[name].to_numpy(dtype=np.float64) for name in ("params", "loss"))
            residuals.append(np.log(loss) - np.log(isoflop_curve(points)(sizes)))
            behind.append(trunks[numbers == number])
            dof += len(points) - 3
    if dof < 1:
        return None
    return pool_noise(np.concatenate(residuals), np.concatenate(behind), dof, "the parabolas' residuals")


def _draw(
    rows: pd.DataFrame, numbers: NDArray[np.int64], method: str, noise: Noise, count: int, seed: int
) -> dict[str, Array]:
    """Sizes and tokens of the minima under redrawn noise, shape (budgets, B) each."""
    rng = np.random.default_rng(seed)
    log_n, log_d, log_loss = (np.log(rows[name].to_numpy(dtype=np.float64)) for name in ("params", "tokens", "loss"))
    loss = np.exp(log_loss[:, None] + noise.draw(trunk_numbers(rows), count, rng))
    drawn: dict[str, list[Array]] = {"params": [], "tokens": []}
    for number in range(int(numbers.max()) + 1):
        own = numbers == number
        usable = len(np.unique(log_n[own])) >= FEWEST_SIZES[method]
        places = lowest(log_n[own], loss[own], method)[0] if usable else np.full(count, np.nan)
        drawn["params"].append(np.exp(places))
        drawn["tokens"].append(np.exp(tokens_at(log_n[own], log_d[own], places)))
    return {name: np.stack(parts) for name, parts in drawn.items()}


def _with_draws(optima: pd.DataFrame, sizes: Array, level: float) -> pd.DataFrame:
    """Add each optimum's interval and the share of draws without one."""
    reasons = optima["refused"].tolist()
    unknown = math.nan, math.nan
    ends = np.array(
        [unknown if why else known_quantiles(row, level) for why, row in zip(reasons, sizes, strict=True)]
    ).T
    return optima.assign(params_low=ends[0], params_high=ends[1], refused_share=np.isnan(sizes).mean(axis=1))


def _insecure(optima: pd.DataFrame) -> list[str]:
    return [
        f"{_budget(row)}: in {row['refused_share']:.0%} of the noise draws it has no optimum within its sizes"
        for row in optima.to_dict("records")
        if not row["refused"] and row["refused_share"] > INSECURE
    ]


def _bias_flags(optima: pd.DataFrame, surface: tuple[float, float] | None, moved: float) -> list[str]:
    """Flag the bias expected of the method alone, and its cause."""
    if surface is None:
        return ["the points do not determine a surface: the bias of the method itself is unknown"]
    known = optima.loc[np.isfinite(optima["bias"].to_numpy(dtype=np.float64))]
    off = [row for row in known.to_dict("records") if abs(math.expm1(row["bias"])) > BIASED]
    flags: list[str] = []
    if off:
        where = ", ".join(f"{math.expm1(row['bias']):+.0%} at {row['flops']:.3g}" for row in off)
        flags.append(f"the method alone is expected to move N* by {where} FLOPs ({_why(off, surface)})")
    if abs(moved) > BIASED_EXPONENT:
        flags.append(
            f"the method alone is expected to move the exponent of N* by {moved:+.3f}: the grids are placed "
            "differently around their optima"
        )
    return flags


def _why(rows: list[dict[str, float]], surface: tuple[float, float]) -> str:
    below = max(row["params"] / row["smallest"] for row in rows)
    above = max(row["largest"] / row["params"] for row in rows)
    return f"sizes as far as 1/{below:.0f} and {above:.0f} of it; alpha {surface[0]:.2f}, beta {surface[1]:.2f}"
