"""Warnings about a fit that a reader must know before using it, in words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.fitting.intervals import FEWEST_GROUPS, SINGULAR, covariance, inside_box, too_few_groups
from analysis.fitting.minima import RIVAL, Search, has_converged
from analysis.fitting.misfit import misfit_flags
from analysis.fitting.objectives import Problem
from analysis.fitting.settings import DATA_SET, Data
from analysis.laws.base import Array, Law

RARE = 0.05
"""Share of starts below which a minimum was hardly found."""
RUNAWAY = 0.05
"""Share of a coordinate's box, at either end, within which it counts as diverging."""
LOOSE_LOG, LOOSE = 1.0, 0.5
"""Standard errors beyond which a number is loose: a factor e of a logarithm's, half of any other's value."""
TOGETHER = 0.95
"""Correlation at which two loose numbers are one combination."""
FLAT = 1e-3
"""Relative difference of predictions within one minimum above which it is flagged."""
UNEVEN = 0.01
"""p-value of Glejser's test below which the noise is called uneven."""
FEW_GROUPS = 10
"""Trajectories below which a bootstrap over them is rough."""
COUNTED = {"params": "size", "tokens": "token count"}
"""Name of one distinct value of a column; the plural takes an s."""
RISE, RISE_SCATTERS = 0.02, 8.0
"""Rise of the loss along a trajectory that is flagged: as a share of its lowest, and in robust standard deviations
of the residuals, since the lowest of several noisy runs is partly low by luck: t at 1% over some 150 pairs of runs,
times the root of 2, with the 16 degrees of freedom that a median over 48 rows is worth."""
AT_BOUND_OFTEN = 0.1
"""Share of bootstrap replicates at a bound above which it is flagged."""


def unidentifiable(law: Law, data: Data, fixed: dict[str, float], held_out: int) -> str:
    """Why the rows cannot determine the law's parameters; empty where the counts suffice."""
    free = [name for name in law.param_names if name not in fixed]
    counts = {name: len(set(data.columns[name])) for name in law.needs}
    wanted = {name: sum(p not in fixed for p in params) for name, params in law.needs.items()}
    if data.n > len(free) and all(counts[name] >= wanted[name] for name in counts):
        return ""
    there, needed = (", ".join(_counted(count, name) for name, count in found.items()) for found in (counts, wanted))
    without = f" with {held_out} held out" if held_out else ""
    return (
        f"not identifiable: {there} in {data.n} rows remain{without}; "
        f"{', '.join(free)} need {needed} and {len(free) + 1} rows"
    )


def _counted(count: int, name: str) -> str:
    """Give a number of distinct values of a column in words."""
    if name not in COUNTED:
        return f"{count} distinct {name}"
    return f"{count} {COUNTED[name]}" + ("" if count == 1 else "s")


def flags_of(problem: Problem, search: Search, data: Data, lower: Array, upper: Array) -> tuple[str, ...]:
    """Judge a fit's minimum; each flag says what it means for the parameters."""
    theta, law = search.theta[0], problem.law
    free, inside = lower < upper, inside_box(theta, lower, upper)
    spread = covariance(problem, theta, inside, data.groups)
    flags = [*_at_bounds(law, theta, free), *_loose(law, theta, spread, inside, problem)]
    if search.multimodal:
        flags.append(_rivals(search))
    if search.flatness > FLAT:
        flags.append(
            f"flat minimum: parameters that fit as well within 0.1% predict up to {search.flatness:.1%} differently"
        )
    if search.minima[0].share < RARE and search.unconverged <= 0.5:
        flags.append(
            f"only {search.minima[0].share:.1%} of the {search.starts} starts found this minimum: try more starts"
        )
    if not has_converged(np.array([search.value]), np.array([search.gradient_norm]))[0]:
        flags.append(
            f"not converged: a gradient of {search.gradient_norm:.2g} remains, and the parameters may still move"
        )
    if search.unconverged > 0.5:
        flags.append(f"not converged: {search.unconverged:.0%} of the starts were still moving along a flat valley")
    if search.ran_off > 0.5:
        flags.append(f"diverging: from {search.ran_off:.0%} of the starts a term vanished")
    numbers = int(free.sum())
    if problem.n <= 2 * numbers:
        flags.append(f"{problem.n} rows for {numbers} parameters: n is barely above the number of parameters")
    misfit = misfit_flags(problem, theta, data, inside)
    return (
        *flags,
        *_several_data_sets(law, data),
        *_rises(problem, theta, data),
        *_uneven(problem, theta, numbers),
        *misfit,
    )


def bootstrap_flags(law: Law, replicates: Array, lower: Array, upper: Array, data: Data) -> tuple[str, ...]:
    """Flag what the replicates show: fixed parameters, some that run to their bounds, too few groups."""
    flags: list[str] = []
    held = [name for name, low, high in zip(law.param_names, lower, upper, strict=True) if low == high]
    if held:
        flags.append(
            f"intervals take {_and(held)} as known exactly, and are too narrow if a fit gave them: "
            "then fit all parameters together"
        )
    numbers = int((lower < upper).sum())
    if too_few_groups(data.n, data.num_groups, numbers):
        flags.append(
            f"{data.num_groups} independent groups of rows cannot give intervals of {numbers} parameters: at least "
            f"{max(FEWEST_GROUPS, numbers + 1) + 1} trunks, of other sizes or seeds, are needed"
        )
    elif data.num_groups < min(FEW_GROUPS, data.n):
        flags.append(f"the bootstrap draws from {data.num_groups} independent groups: its intervals are rough")
    at_edge = ((replicates <= lower + 1e-9) | (replicates >= upper - 1e-9)) & (lower < upper)
    for name, share in zip(law.param_names, at_edge.mean(axis=0), strict=True):
        if share > AT_BOUND_OFTEN:
            flags.append(f"{name} runs to a bound in {share:.0%} of the bootstrap replicates: its interval ends there")
    return tuple(flags)


def _several_data_sets(law: Law, data: Data) -> list[str]:
    """Flag rows that differ in what a law of N and D ignores: their data, or how often they were repeated."""
    if not set(COUNTED) & set(law.inputs):
        return []
    flags: list[str] = []
    sets = set(data.columns.get(DATA_SET, ()))
    if len(sets) > 1:
        flags.append(f"the rows are from {len(sets)} data sets (data_fingerprint), which the law treats as one")
    if "unique_tokens" in data.columns and "unique_tokens" not in law.inputs:
        points = list(zip(*(data.columns[name] for name in law.inputs), strict=True))
        told = dict(zip(points, data.columns["unique_tokens"], strict=True))
        differ = {p for p, unique in zip(points, data.columns["unique_tokens"], strict=True) if told[p] != unique}
        count = sum(point in differ for point in points)
        if count:
            flags.append(
                f"{count} rows agree in {_and(list(law.inputs))} and differ in unique_tokens: the law treats repeated "
                "tokens as fresh ones"
            )
    return flags


def _rises(problem: Problem, theta: Array, data: Data) -> list[str]:
    """Flag trajectories along which more tokens make the loss worse, which no law of tokens can describe."""
    if "tokens" not in problem.inputs:
        return []
    predicted = problem.law.log_predict(theta[None], problem.inputs)[0][0]
    scatter = 1.4826 * float(np.median(np.abs(predicted - np.log(problem.target))))
    rises = [rise for rows in _lines(problem, data) if (rise := _rise(problem, rows)) is not None]
    worse = [rise for rise in rises if rise > max(RISE, np.expm1(RISE_SCATTERS * scatter))]
    if not worse:
        return []
    return [
        f"in {len(worse)} of {len(rises)} trajectories the loss rises again with tokens, by {max(worse):.0%} at most: "
        "this law only falls, so its parameters are a compromise; leave out what lies past each lowest loss "
        "(analysis.frames.upto_lowest), and check how much they depend on the cut"
    ]


def _lines(problem: Problem, data: Data) -> list[NDArray[np.int64]]:
    """Rows of each trajectory; where none has two, of each size and number of distinct tokens."""
    apart = np.array(data.groups, dtype=np.float64)
    if data.num_groups == data.n:
        names = [name for name in ("params", "unique_tokens", DATA_SET) if name in data.columns]
        keys = [data.array(name) for name in names] or [np.zeros(data.n)]
    else:
        keys = [apart, *(data.array(name) for name in ("params",) if name in data.columns)]
    numbers = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)[1].ravel()
    return [np.flatnonzero(numbers == number) for number in range(int(numbers.max()) + 1)]


def _rise(problem: Problem, rows: NDArray[np.int64]) -> float | None:
    """Largest rise above the lowest loss at more tokens, seeds averaged; None for less than two token counts."""
    counts, places = np.unique(problem.inputs["tokens"][rows], return_inverse=True)
    if len(counts) < 2:
        return None
    losses = np.bincount(places, problem.target[rows]) / np.bincount(places)
    past = losses[int(losses.argmin()) :]
    return float(past.max() / past[0]) - 1


def _at_bounds(law: Law, theta: Array, free: NDArray[np.bool_]) -> list[str]:
    flags: list[str] = []
    for parameter, value, low, high, is_free in zip(law.parameters, theta, *law.bounds, free, strict=True):
        if not is_free:
            continue
        size = high - low
        number = f"{parameter.to_value(float(value)):.3g}"
        if value <= low + 1e-7 * size or value >= high - 1e-7 * size:
            end = "lower" if value <= low + 1e-7 * size else "upper"
            flags.append(f"{parameter.name} ended at its {end} bound, {number}: the data do not determine it")
        elif parameter.log and not low + RUNAWAY * size < value < high - RUNAWAY * size:
            where = "0" if value < low + RUNAWAY * size else "infinity"
            flags.append(f"{parameter.name} is diverging towards {where} ({number}): the data do not determine it")
    return flags


def _loose(law: Law, theta: Array, spread: Array, free: NDArray[np.bool_], problem: Problem) -> list[str]:
    """Pairs of parameters of which only a combination is determined."""
    names = [name for name, is_free in zip(law.param_names, free, strict=True) if is_free]
    if np.isnan(spread).any():
        return [f"unidentifiable: {_and(_singular(problem, theta, names, free))} cannot be told apart by these rows"]
    spot = np.ix_(free, free)
    error = np.sqrt(np.diag(spread[spot]))
    if len(names) < 2 or not (error > 0).all():
        return []
    correlation = np.abs(spread[spot] / error[:, None] / error[None, :] - np.eye(len(error)))
    flags: list[str] = []
    told: set[int] = set()
    parameters = [p for p, is_free in zip(law.parameters, free, strict=True) if is_free]
    for i, parameter in enumerate(parameters):
        limit = LOOSE_LOG if parameter.log else LOOSE * abs(theta[free][i])
        partner = int(correlation[i].argmax())
        if error[i] <= limit or correlation[i, partner] < TOGETHER or {i, partner} & told:
            continue
        told |= {i, partner}
        value = parameter.to_value(float(theta[free][i]))
        about = f"{error[i]:.2g}"
        if parameter.log:
            about = f"a factor of {np.exp(error[i]):.2g}" if error[i] < np.log(1e3) else "more than a factor of 1,000"
        flags.append(
            f"{names[i]} and {names[partner]} can hardly be told apart (correlation {correlation[i, partner]:.3f}; "
            f"{names[i]} = {value:.3g} with a standard error of {about}): use their combination, not each alone"
        )
    return flags


def _singular(problem: Problem, theta: Array, names: list[str], free: NDArray[np.bool_]) -> list[str]:
    """Names of the parameters in the combination that the rows leave undetermined."""
    jacobian = problem.jacobian(theta)[free]
    size = np.linalg.norm(jacobian, axis=1)
    if (size < 1e-12 * size.max()).any():
        return [name for name, length in zip(names, size, strict=True) if length < 1e-12 * size.max()]
    unit = jacobian / size[:, None]
    values, vectors = np.linalg.eigh(unit @ unit.T)
    loose = np.abs(vectors[:, values < max(10 * SINGULAR, 2 * values[0])]).max(axis=1)
    return [name for name, part in zip(names, loose, strict=True) if part > 0.3 * loose.max()]


def _rivals(search: Search) -> str:
    best = search.minima[0]
    rivals = [other for other in search.minima[1:] if other.objective <= best.objective * (1 + RIVAL)]
    other = rivals[0]
    numbers = ", ".join(f"{name} = {value:.3g}" for name, value in other.params.items())
    worse = f"{other.objective / best.objective - 1:.2%}" if best.objective > 0 else "0%"
    count = "two minima" if len(rivals) == 1 else f"{len(rivals) + 1} minima"
    return (
        f"{count}: other parameters ({numbers}) fit only {worse} worse and predict up to {other.difference:.1%} "
        f"differently; more data are needed to tell them apart"
    )


def _uneven(problem: Problem, theta: Array, numbers: int) -> list[str]:
    """Glejser's test: absolute residuals regressed on the log inputs, n R^2 against chi-square.

    Of 80 rows whose noise falls tenfold over the token counts it finds all of four draws at p < 0.001, where squared
    residuals (Breusch and Pagan's test) miss one at 0.01.

    References
    ----------
    Glejser 1969, "A New Test for Heteroskedasticity"; Machado and Santos Silva 2000, "Glejser's Test Revisited".
    """
    residuals = problem.residuals(theta[None])[0]
    logs = [np.log(values) for values in problem.inputs.values() if np.ptp(np.log(values)) > 0]
    if problem.n - numbers < 2 * (len(logs) + 1) or not logs or np.abs(residuals).max() < 1e-12:
        return []
    design = np.column_stack([np.ones(problem.n), *logs])
    sizes = np.abs(residuals)
    left = sizes - design @ np.linalg.lstsq(design, sizes, rcond=None)[0]
    total = float(((sizes - sizes.mean()) ** 2).sum())
    rank = int(np.linalg.matrix_rank(design)) - 1
    if total <= 0 or rank < 1:
        return []
    statistic = problem.n * (1 - float((left**2).sum()) / total)
    p_value = float(stats.chi2.sf(statistic, rank))
    if p_value >= UNEVEN:
        return []
    slopes = [float(np.corrcoef(sizes, log)[0, 1]) for log in logs]
    names = [name for name, values in problem.inputs.items() if np.ptp(np.log(values)) > 0]
    where = max(range(len(names)), key=lambda i: abs(slopes[i]))
    direction = "grow" if slopes[where] > 0 else "shrink"
    return [
        f"heteroscedastic residuals (Glejser's test, p = {p_value:.1g}): they {direction} with "
        f"{names[where]}; intervals of the curvature and the profile are too narrow or too wide, those of the "
        f"bootstrap hold"
    ]


def _and(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
