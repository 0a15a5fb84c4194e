"""Fits: speed compared with SciPy called in a loop, and how often intervals cover the truth.

    python benchmarks/fits.py speed ../shared/data/chinchilla_epoch.csv
    python benchmarks/fits.py coverage --draws 400 > docs/fits_coverage.json
    python benchmarks/fits.py trunks --draws 400
    python benchmarks/fits.py figure docs/fits_coverage.json docs/fits_coverage.png

Times are of the processor, so that other work on the machine counts little.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import optimize, special
from threadpoolctl import threadpool_limits

from analysis import style
from analysis.fitting import fit_law
from analysis.laws import Chinchilla
from analysis.laws.base import log_sum_exp

TRUTH = {"E": 1.8, "A": 400.0, "alpha": 0.34, "B": 1500.0, "beta": 0.36}
GRIDS = {30: (6, 5), 120: (12, 10)}
TRUNKS = {"3 sizes": (3, 1), "6 sizes": (6, 1), "7 sizes": (7, 1), "10 sizes": (10, 1), "4 sizes, 3 seeds": (4, 3)}
BETWEEN, WITHIN = 0.005, 0.002
NOISE = 0.005
LEVEL = 0.95


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "coverage", "trunks", "figure"))
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--bootstrap", type=int, default=1000)
    options = parser.parse_args()
    if options.what == "speed":
        print(json.dumps(measure_speed(read_points(options.paths[0]), options.bootstrap), indent=1))
    elif options.what == "coverage":
        print(json.dumps([row for cell in cells() for row in measure_coverage(*cell, options.draws)], indent=1))
    elif options.what == "trunks":
        print(json.dumps([row for name in TRUNKS for row in measure_trunks(name, options.draws)], indent=1))
    else:
        draw_coverage(json.loads(options.paths[0].read_text()), options.paths[1])


def read_points(path: Path) -> pd.DataFrame:
    """240 points of Hoffmann et al. 2022, figure 4."""
    table = pd.read_csv(path).sort_values("loss").iloc[:-5]
    params, flops = table["Model Size"], table["Training FLOP"]
    return pd.DataFrame({"params": params, "tokens": flops / (6 * params), "loss": table["loss"]})


def measure_speed(frame: pd.DataFrame, bootstrap: int) -> dict[str, float]:
    """Seconds of one fit with its bootstrap, and of the same minimisations by SciPy one after the other."""
    began, clock = time.process_time(), time.perf_counter()
    fit = fit_law(Chinchilla(), frame, bootstrap=bootstrap)
    ours, wall = time.process_time() - began, time.perf_counter() - clock
    problem, (lower, upper) = fit.data.problem(fit.settings), fit.settings.box()
    rng = np.random.default_rng(0)
    starts = problem.law.starts(problem.inputs, problem.target, 20, rng)
    few = 50
    best = np.repeat(problem.law.to_theta(fit.params)[None], few, axis=0)
    counts = rng.multinomial(fit.n, np.full(fit.n, 1 / fit.n), size=few).astype(float)
    with threadpool_limits(1):
        loop_starts = scipy_loop(problem, starts, lower, upper, None)
        loop_bootstrap = scipy_loop(problem, best, lower, upper, counts)
        trf_starts = least_squares_loop(problem, starts, lower, upper, None)
        trf_bootstrap = least_squares_loop(problem, best, lower, upper, counts)
    loop = loop_starts[0] / 20 * 200 + loop_bootstrap[0] / few * bootstrap
    trf = trf_starts[0] / 20 * 200 + trf_bootstrap[0] / few * bootstrap
    return {
        "bootstrap": bootstrap,
        "processor_seconds": ours,
        "wall_seconds": wall,
        "scipy_loop_processor_seconds": loop,
        "ratio": loop / ours,
        "least_squares_processor_seconds": trf,
        "least_squares_ratio": trf / ours,
        "objective": fit.objective,
        "scipy_best_objective": loop_starts[1] * problem.delta**2,
        "least_squares_best_objective": trf_starts[1] * problem.delta**2,
        "share_of_our_starts_at_the_best": fit.minima[0].share,
        "share_of_scipy_starts_at_the_best": loop_starts[2],
        "share_of_least_squares_starts_at_the_best": trf_starts[2],
        **measure_log_sum_exp(),
    }


def scipy_loop(problem, starts, lower, upper, counts):
    """Processor seconds, least value, and the share of starts within 0.01% of it."""
    began, values = time.process_time(), []
    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-9}
    for index, start in enumerate(starts):
        weights = None if counts is None else counts[index : index + 1]

        def objective(theta, weights=weights):
            value, slope = problem.evaluate(theta[None], weights)
            return float(value[0]), slope[0]

        box = list(zip(lower, upper, strict=True))
        values.append(optimize.minimize(objective, start, jac=True, method="L-BFGS-B", bounds=box, options=options).fun)
    least = np.array(values)
    return time.process_time() - began, float(least.min()), float((least < least.min() * (1 + 1e-4)).mean())


def least_squares_loop(problem, starts, lower, upper, counts):
    """As `scipy_loop`, by SciPy's trust-region least squares with its Huber loss: the library's own method for this."""
    began, values = time.process_time(), []
    for index, start in enumerate(starts):
        rows = np.arange(problem.n) if counts is None else np.repeat(np.arange(problem.n), counts[index].astype(int))
        inputs, measured = {name: column[rows] for name, column in problem.inputs.items()}, np.log(problem.target[rows])

        def residuals(theta, inputs=inputs, measured=measured):
            return (problem.law.log_predict(theta[None], inputs)[0][0] - measured) / problem.delta

        def jacobian(theta, inputs=inputs):
            return problem.law.log_predict(theta[None], inputs)[1][0].T / problem.delta

        options = {"loss": "huber", "x_scale": "jac", "xtol": 1e-12, "ftol": 1e-12, "gtol": 1e-12, "max_nfev": 5000}
        inside = np.clip(start, lower + 1e-9, upper - 1e-9)
        values.append(optimize.least_squares(residuals, inside, jac=jacobian, bounds=(lower, upper), **options).cost)
    least = np.array(values)
    return time.process_time() - began, float(least.min()), float((least < least.min() * (1 + 1e-4)).mean())


def measure_log_sum_exp() -> dict[str, float]:
    """Processor seconds of SciPy's logsumexp with the terms' shares over ours, three terms of 200 starts and 240 rows."""
    terms = np.random.default_rng(0).normal(size=(3, 200, 240))

    def library(terms):
        total = special.logsumexp(terms, axis=0)
        return total, np.exp(terms - total)

    seconds = []
    for function in (log_sum_exp, library):
        times = []
        for _ in range(30):
            began = time.process_time()
            for _ in range(5):
                function(terms)
            times.append(time.process_time() - began)
        seconds.append(min(times))
    for ours, theirs in zip(log_sum_exp(terms), library(terms), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=1e-15)
    return {"log_sum_exp_ratio": seconds[1] / seconds[0]}


def cells() -> list[tuple[str, int]]:
    """Objectives and numbers of points."""
    return [(objective, points) for objective in ("huber_log", "mse") for points in GRIDS]


def draw_runs(objective: str, points: int, seed: int) -> pd.DataFrame:
    """Runs on the law: normal noise of 0.5% on the logarithm (huber_log), or 0.0125 on the loss (mse)."""
    rng = np.random.default_rng([seed, points])
    sizes, budgets = GRIDS[points]
    grid = np.meshgrid(np.geomspace(5e7, 1e10, sizes), np.geomspace(1e9, 2e11, budgets))
    params, tokens = (values.ravel() for values in grid)
    loss = Chinchilla().predict(TRUTH, {"params": params, "tokens": tokens})
    noise = rng.normal(size=points)
    loss = loss * np.exp(NOISE * noise) if objective == "huber_log" else loss + 2.5 * NOISE * noise
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})


def measure_coverage(objective: str, points: int, draws: int) -> list[dict[str, object]]:
    """Share of draws whose 95% interval holds the truth, by kind of interval and parameter."""
    hits: dict[str, dict[str, int]] = {}
    flagged: dict[str, int] = {}
    began = time.process_time()
    for seed in range(draws):
        fit = fit_law(
            Chinchilla(), draw_runs(objective, points, seed), objective=objective, starts=20, bootstrap=200, seed=seed
        )
        for flag in fit.flags:
            flagged[flag[:30]] = flagged.get(flag[:30], 0) + 1
        plain = np.array([list(Chinchilla().to_params(np.array(row)).values()) for row in fit.replicates])
        low, high = np.quantile(plain, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        found = {
            "bootstrap": fit.interval(LEVEL),
            "profile": fit.interval(LEVEL, method="profile"),
            "plain percentiles": dict(zip(TRUTH, zip(low, high, strict=True), strict=True)),
        }
        for kind, intervals in found.items():
            counts = hits.setdefault(kind, dict.fromkeys(TRUTH, 0))
            for name, (least, most) in intervals.items():
                counts[name] += bool(least <= TRUTH[name] <= most)
    cell = {"objective": objective, "points": points, "draws": draws, "flags": flagged}
    spent = {"processor_seconds_a_draw": round((time.process_time() - began) / draws, 3)}
    return [
        {**cell, **spent, "interval": kind, **{name: count / draws for name, count in counts.items()}}
        for kind, counts in hits.items()
    ]


def draw_trunks(name: str, seed: int) -> pd.DataFrame:
    """Five cooldowns off each trunk: log-normal luck of the trunk (0.5%) and of each cooldown (0.2%)."""
    sizes, seeds = TRUNKS[name]
    rng = np.random.default_rng([seed, sizes, seeds])
    grid = np.meshgrid(np.geomspace(5e7, 1e10, sizes), np.arange(seeds), np.geomspace(1e9, 2e11, 5), indexing="ij")
    params, run, tokens = (values.ravel() for values in grid)
    loss = Chinchilla().predict(TRUTH, {"params": params, "tokens": tokens})
    luck = np.repeat(BETWEEN * rng.normal(size=sizes * seeds), 5) + WITHIN * rng.normal(size=len(loss))
    trunk = [f"{size:g}-{number}" for size, number in zip(params, run, strict=True)]
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss * np.exp(luck), "trajectory": trunk})


def measure_trunks(name: str, draws: int) -> list[dict[str, object]]:
    """Share of draws whose 95% interval holds the truth where rows share trunks; None where none is given."""
    rows: list[dict[str, object]] = []
    for objective in ("huber_log", "mse"):
        fits = [
            fit_law(Chinchilla(), draw_trunks(name, seed), objective=objective, starts=15, bootstrap=200, seed=seed)
            for seed in range(draws)
        ]
        for kind in ("bootstrap", "profile"):
            found = [fit.interval(LEVEL, method=kind) for fit in fits]
            shares = {number: covered([ends[number] for ends in found], truth) for number, truth in TRUTH.items()}
            rows.append({"objective": objective, "trunks": name, "draws": draws, "interval": kind, **shares})
    return rows


def covered(ends: list[tuple[float, float]], truth: float) -> float | None:
    """Share of intervals that hold the truth; None where one is not given."""
    bounds = np.array(ends)
    return None if np.isnan(bounds).any() else float(((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean())


def draw_coverage(rows: list[dict], path: Path) -> None:
    """Coverage by parameter, a panel an objective and number of points."""
    looks = {"bootstrap": ("#0072b2", "o"), "profile": ("#009e73", "s"), "plain percentiles": ("#6b6b6b", "x")}
    with style.house_style():
        figure = Figure(figsize=(9.6, 5.6), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
        for axes, (objective, points) in zip(panels, cells(), strict=True):
            axes.axhspan(91, 98, color="#e8eef4", zorder=0)
            axes.axhline(95, color=style.GREY, linewidth=0.8)
            for row in (row for row in rows if (row["objective"], row["points"]) == (objective, points)):
                color, marker = looks[row["interval"]]
                shift = 0.18 * (list(looks).index(row["interval"]) - 1)
                share = np.array([row[name] for name in TRUTH])
                error = 100 * np.sqrt(share * (1 - share) / row["draws"])
                places = np.arange(len(TRUTH)) + shift
                axes.errorbar(places, 100 * share, yerr=error, color=color, marker=marker, linestyle="none",
                              label=row["interval"])  # fmt: skip
            axes.set_title(f"{objective}, {points} points")
            axes.set_xticks(range(len(TRUTH)), list(TRUTH))
            axes.set_ylim(82, 100.5)
        panels[0].set_ylabel("Draws covered, %")
        panels[2].set_ylabel("Draws covered, %")
        panels[0].legend(loc="lower left")
        draws = rows[0]["draws"]
        figure.suptitle(
            f"How often a 95% interval holds the truth: {draws} draws, 200 replicates each; bars: one standard error; "
            "band: 91 to 98%",
            x=0.01,
            ha="left",
            fontsize=9,
        )
        figure.savefig(path)


if __name__ == "__main__":
    main()
