"""All three approaches on the same points, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fitting import Fit, fit_law
from analysis.isoflop.allocation import Allocation, Growth, with_flops
from analysis.isoflop.budgets import fit_isoflop
from analysis.isoflop.envelope import fit_envelope
from analysis.laws import Chinchilla
from analysis.rule_of_flops import flops_rule

Array = NDArray[np.float64]

COLUMNS = (
    "approach",
    "exponent_params",
    "exponent_params_low",
    "exponent_params_high",
    "exponent_tokens",
    "exponent_tokens_low",
    "exponent_tokens_high",
    "compute",
    "params",
    "tokens",
    "optima",
    "level",
    "interval_from",
    "flags",
)


def compare_approaches(
    frame: pd.DataFrame,
    *,
    compute: float | None = None,
    fit: Fit | None = None,
    allocation: Allocation | None = None,
    noise: float | None = None,
    bootstrap: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Exponents of N*(C) and D*(C), and the optimum at one budget, by approaches 1, 2 (both ways) and 3.

    Parameters
    ----------
    frame
        Columns params, tokens, loss, flops (6 N D where absent) and trajectory where known, of cooled-down points.
    compute
        Budget in FLOPs at which optima are compared; None takes ten times the largest in the frame.
    fit
        Approach 3's fit of a law with alpha and beta; None fits Chinchilla's to the frame. Where neither works,
        approach 3's row gives the reason.
    allocation
        Approach 2's result for this frame, if already computed, for the row of its method; None computes it.
    noise
        Standard deviation of log loss between seeds; None as in `fit_isoflop` and `fit_envelope`.
    bootstrap
        Draws of the noise, and replicates of approach 3.
    level
        Level of the intervals.
    seed
        Seed of both.

    Returns
    -------
    DataFrame
        One row per approach: `envelope`, `isoflop parabola`, `isoflop akima`, `law`. Columns exponent_params and
        exponent_tokens with `_low` and `_high`, compute, params and tokens (the optimum there, extrapolated), optima
        (the number the line goes through; the points for the law), level, interval_from, and flags (joined by "; ").
        An approach that the points do not allow has NaN, and its flags give the reason.

    Raises
    ------
    ValueError
        The frame is unfit for any approach.

    References
    ----------
    Hoffmann et al. 2022, section 3 and table 2.
    """
    rows, _ = with_flops(frame)
    at = 10 * float(np.max(rows["flops"].to_numpy())) if compute is None else compute
    law = fit if fit is not None else fit_law(Chinchilla(), rows, bootstrap=bootstrap, seed=seed)
    surface = (law.params["alpha"], law.params["beta"]) if {"alpha", "beta"} <= set(law.params) else None

    def second(method: str) -> Allocation:
        if allocation is not None and allocation.approach == f"isoflop {method}":
            return allocation
        return fit_isoflop(rows, method, exponents=surface, noise=noise, bootstrap=bootstrap, level=level, seed=seed)

    approaches: dict[str, Callable[[], Allocation]] = {
        "envelope": lambda: fit_envelope(rows, noise=noise, bootstrap=bootstrap, level=level, seed=seed),
        "isoflop parabola": lambda: second("parabola"),
        "isoflop akima": lambda: second("akima"),
        "law": lambda: allocate_by_law(law, rows, level=level),
    }
    table = pd.DataFrame([_row(name, make, at) for name, make in approaches.items()], columns=pd.Index(COLUMNS))
    table.loc[table["approach"] == "law", "optima"] = law.n
    return table


def allocate_by_law(fit: Fit, rows: pd.DataFrame, *, level: float = 0.95) -> Allocation:
    """Exponents of a law E + A/N^alpha + B/D^beta along the frame's own FLOPs.

    With C = k N^n D fitted to the rows (n = 1 and k = 6 for 6 N D), N* ~ C^a with a = beta / (alpha + n beta) and
    D* ~ C^b with b = 1 - n a; Hoffmann et al.'s for n = 1.

    Parameters
    ----------
    fit
        A fit with alpha and beta; its replicates give the intervals.
    rows
        The points, with params, tokens and flops.
    level
        Level of the intervals.

    Raises
    ------
    ValueError
        The fit has no alpha and beta.

    References
    ----------
    Hoffmann et al. 2022, eq. 4.
    """
    _refuse_without_exponents(fit)
    params, tokens, flops = (rows[name].to_numpy(dtype=np.float64) for name in ("params", "tokens", "flops"))
    factor, power = flops_rule(params, tokens, flops)
    rule = {"k": factor, "n": power, "d": 1.0}
    middle = math.exp(float(np.log(flops).mean()))
    best = fit.optimal(middle, flops=rule).to_dict("records")[0]
    unknown = float(best["without_optimum"])
    flags = (f"{unknown:.1%} of the replicates have an exponent of 0 and no optimum",) if unknown > 0 else ()
    a = _exponent(fit.params["alpha"], fit.params["beta"], power)
    low, high = _interval(fit, power, level)
    best_params = Growth(a, low, high, float(best["params"]), middle)
    best_tokens = Growth(1 - power * a, 1 - power * high, 1 - power * low, float(best["tokens"]), middle)
    optima = pd.DataFrame({"flops": [middle], "params": [best["params"]], "tokens": [best["tokens"]], "refused": [""]})
    source = f"{len(fit.replicates)} bootstrap replicates of the fit" if fit.replicates else "nothing"
    return Allocation("law", best_params, best_tokens, optima, level, source, (*fit.excluded, *fit.flags, *flags))


def _refuse_without_exponents(fit: Fit) -> None:
    if {"alpha", "beta"} <= set(fit.params):
        return
    if "alpha" in fit.params:
        raise ValueError(
            "the law has one exponent for both terms, so how N* and D* share a budget is assumed, not measured: "
            "fit Chinchilla() without tied"
        )
    raise ValueError("; ".join([f"the law {fit.law!r} has no alpha and beta", *fit.flags]))


def _exponent(alpha: float, beta: float, power: float) -> float:
    """Exponent of N*; NaN where both terms are flat."""
    return beta / (alpha + power * beta) if max(alpha, beta) > 0 else math.nan


def _interval(fit: Fit, power: float, level: float) -> tuple[float, float]:
    """Return expanded percentiles over the replicates, as the fit's own intervals are."""
    if not fit.replicates:
        return math.nan, math.nan
    law = fit.settings.make_law()
    drawn = [law.to_params(np.array(row)) for row in fit.replicates]
    low, high = fit.quantiles(np.array([_exponent(one["alpha"], one["beta"], power) for one in drawn]), level)
    return float(low), float(high)


def _row(name: str, make: Callable[[], Allocation], compute: float) -> dict[str, object]:
    try:
        found = make()
    except ValueError as reason:
        # An approach that the points do not allow becomes a row with the reason, and does not end the comparison.
        return {"approach": name, "compute": compute, "optima": 0, "flags": str(reason)}
    row: dict[str, object] = {"approach": name, "compute": compute, "level": found.level}
    for column, growth in (("params", found.params), ("tokens", found.tokens)):
        row |= {f"exponent_{column}": growth.exponent, f"exponent_{column}_low": growth.low}
        row |= {f"exponent_{column}_high": growth.high, column: growth.predict(compute)}
    optima = sum(reason == "" for reason in found.optima["refused"])
    return row | {"optima": optima, "interval_from": found.interval_from, "flags": "; ".join(found.flags)}
