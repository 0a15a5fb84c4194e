"""The optimal size of each isoFLOP budget, or why there is none."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.frames import EXCLUDED
from analysis.isoflop.allocation import with_flops
from analysis.isoflop.loss_by_size import expected_bias, lowest, size_means
from analysis.rule_of_flops import flops_rule
from analysis.style import count_label

Array = NDArray[np.float64]

METHODS = ("parabola", "akima")
FEWEST_SIZES = {"parabola": 3, "akima": 4}
"""Distinct sizes a budget needs."""
SAME_BUDGET = 0.1
"""Relative gap in FLOPs beyond which two points belong to different budgets."""
ONE_BUDGET = 0.25
"""Relative range of FLOPs beyond which points are not one budget."""


def assign_budgets(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Assign each row its budget's number, from the smallest: by the column `budget`, or gaps above 10% in FLOPs.

    Parameters
    ----------
    frame
        With the column flops, and budget (any values) where the study names them.

    Raises
    ------
    ValueError
        A row names no budget although others do.
    """
    if "budget" in frame.columns:
        if bool(np.any(frame["budget"].isna().to_numpy())):
            raise ValueError("budget is missing (NaN) in some rows: name the budget of each row, or drop the column")
        centres = {name: float(np.median(rows["flops"].to_numpy())) for name, rows in frame.groupby("budget")}
        order = sorted(centres, key=lambda name: centres[name])
        return np.array([order.index(name) for name in frame["budget"]], dtype=np.int64)
    logs = np.log(frame["flops"].to_numpy(dtype=np.float64))
    order = np.argsort(logs, kind="stable")
    numbers = np.empty(len(logs), dtype=np.int64)
    numbers[order] = np.concatenate([[0], np.cumsum(np.diff(logs[order]) > math.log1p(SAME_BUDGET))])
    return numbers


def isoflop_minima(
    frame: pd.DataFrame, method: str = "parabola", *, exponents: tuple[float, float] | None = None
) -> pd.DataFrame:
    """Compute-optimal size of each budget: the lowest point of loss against log size.

    An optimum is refused unless measurements bracket it: the lowest measured loss is that of the smallest or
    largest size, the curve's lowest point lies beyond them, or the parabola opens downward.

    Parameters
    ----------
    frame
        Columns params, tokens, loss, and flops (6 N D where absent); budget where the study names its budgets.
        Several rows of one size and budget are seeds.
    method
        `parabola`: least squares, loss against log N. `akima`: a spline through the means of each size, which
        distant points do not bend.
    exponents
        alpha and beta of E + A/N^alpha + B/D^beta, on which `bias` is computed; None leaves it NaN.

    Returns
    -------
    DataFrame
        One row per budget: flops (geometric mean), flops_range (largest over smallest - 1), points, sizes (distinct),
        smallest, largest (N), params, tokens, loss at the optimum (NaN where refused), tokens_per_param, bias
        (what the method alone moves N* by on a noise-free surface with these exponents on this grid, as
        log N_found / N_true), and refused: the reason for no optimum, empty where there is one.
        `attrs["excluded"]` lists what was left out.

    Raises
    ------
    ValueError
        The method is unknown, or the frame unfit (`analysis.frames.check_frame`).

    References
    ----------
    Hoffmann et al. 2022, section 3.2 (approach 2); Porian et al. 2024 (Akima, refused edges);
    Czech et al. 2026, "Problems with Chinchilla Approach 2: Systematic Biases in IsoFLOP Parabola Fits"
    (arXiv 2603.22339).
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: choose one of {', '.join(METHODS)}")
    rows, excluded = with_flops(frame)
    numbers = assign_budgets(rows)
    found = [_optimum(rows.loc[numbers == number], method, exponents) for number in range(int(numbers.max()) + 1)]
    table = pd.DataFrame(found)
    table.attrs[EXCLUDED] = excluded
    return table


def _optimum(points: pd.DataFrame, method: str, exponents: tuple[float, float] | None) -> dict[str, object]:
    """Row of one budget."""
    log_n, log_d, log_c = (np.log(points[name].to_numpy(dtype=np.float64)) for name in ("params", "tokens", "flops"))
    loss = points["loss"].to_numpy(dtype=np.float64)[:, None]
    knots, means = size_means(log_n, loss)
    facts: dict[str, object] = {"flops": math.exp(log_c.mean()), "flops_range": math.expm1(np.ptp(log_c))}
    facts |= {"points": len(points), "sizes": len(knots)}
    facts |= {"smallest": math.exp(knots[0]), "largest": math.exp(knots[-1])}
    refused, place, value = _unusable(log_c, knots, method), math.nan, math.nan
    if not refused:
        place, value = (float(part[0]) for part in lowest(log_n, loss, method))
        refused = _edge(knots, means[:, 0], place)
    if refused:
        nothing = dict.fromkeys(("params", "tokens", "loss", "tokens_per_param", "bias"), math.nan)
        return facts | nothing | {"refused": refused}
    params, tokens = math.exp(place), math.exp(float(tokens_at(log_n, log_d, np.array([place]))[0]))
    bias = math.nan
    if exponents is not None:
        # Along C = k N^n D the tokens' term is B (k / C)^beta N^(n beta); n is 1 for 6 N D alone.
        _, power = flops_rule(np.exp(log_n), np.exp(log_d), np.exp(log_c))
        bias = expected_bias(log_n, place, exponents[0], power * exponents[1], method)
    facts |= {"params": params, "tokens": tokens, "loss": value, "tokens_per_param": tokens / params, "bias": bias}
    return facts | {"refused": ""}


def tokens_at(log_n: Array, log_d: Array, places: Array) -> Array:
    """Log tokens of a budget at log sizes: between its points on a line, which 6 N D = C makes exact."""
    knots, means = size_means(log_n, log_d[:, None])
    return np.where(np.isnan(places), np.nan, np.interp(places, knots, means[:, 0]))


def _unusable(log_c: Array, knots: Array, method: str) -> str:
    if np.ptp(log_c) > math.log1p(ONE_BUDGET):
        return f"its points' FLOPs differ by {math.expm1(np.ptp(log_c)):.0%}: not one budget"
    if len(knots) < FEWEST_SIZES[method]:
        return f"fewer than {FEWEST_SIZES[method]} sizes, which {method} needs"
    return ""


def _edge(knots: Array, means: Array, place: float) -> str:
    least = int(np.argmin(means))
    if least in (0, len(knots) - 1):
        which, size = ("smallest" if least == 0 else "largest"), count_label(math.exp(knots[least]))
        return f"the {which} size, {size}, has the lowest loss: the optimum may lie beyond it"
    if math.isnan(place):
        return "the curve has no minimum within the sizes measured"
    return ""
