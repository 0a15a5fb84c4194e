"""The parts of each kind of study: figures, fits and tables added to its results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd

from analysis import style
from analysis.ablation import ablation_table
from analysis.ablation.equivalent import Curve
from analysis.figures.ablation import ablation_figure
from analysis.figures.continual import branch_labels, continual_figure
from analysis.figures.diagnostics import diagnostics_figure, predicted_figure
from analysis.figures.isoflop import isoflop_figure
from analysis.figures.law_curve import fit_figure
from analysis.figures.position import position_figure
from analysis.figures.seeds import seeds_figure
from analysis.figures.surface import loss_surface_figure
from analysis.figures.sweep import sweep_figure
from analysis.figures.token_scaling import token_scaling_figure
from analysis.figures.transfer import transfer_figure
from analysis.figures.tuned import tuned_figure
from analysis.fitting import Fit, fit_law
from analysis.frames import EXCLUDED, select_loss
from analysis.isoflop import compare_approaches, fit_isoflop
from analysis.laws import Chinchilla
from analysis.noise import seed_variance
from analysis.noise.crossed import seed_components
from analysis.overrides import base_models, override_of, override_values
from analysis.rate_drift import rate_drift, transferred_rates
from analysis.rates import BATCH, RATE, best_rates, rate_rule
from analysis.report.score_tables import headline_metrics
from analysis.report.study_kinds import BASELINE, is_ablation, is_duplicates, overrides, scored_metrics
from analysis.report.study_results import BOOTSTRAP, Results, file_name
from analysis.tasks import task_curves


def fit_study(frame: pd.DataFrame, metric: str, *, bootstrap: int = 0) -> Fit:
    """Fit L(N, D) to a study's cooled-down points, the largest size held out where there are others.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it.
    metric
        The loss, such as `heldout/prose/bits_per_byte`.
    bootstrap
        Replicates for intervals; 0 for none.
    """
    rows = select_loss(frame, metric)
    sizes = {float(size) for size in rows["params"]}
    return fit_law(Chinchilla(), rows, holdout=max(sizes) if len(sizes) > 1 else None, bootstrap=bootstrap)


def add_token_scaling(results: Results, frame: pd.DataFrame, bits: Sequence[str]) -> None:
    """Metrics against tokens: bits per byte, and the tasks with the verdicts on their curves."""
    scored = frame.loc[frame["value"].notna()].drop_duplicates(["model", "tokens"])
    if not scored["model"].duplicated().to_numpy().any():
        return
    tasks = [metric for metric in headline_metrics(frame) if metric not in bits and metric in scored_metrics(frame)]
    judged = results.table("task_curves", "Curves of the tasks", partial(_judge, frame, tasks)) if tasks else None
    words = "against training tokens, one line per model; filled marks are cooled down."
    if bits:
        make = partial(token_scaling_figure, frame, bits)
        results.draw("token_scaling", "Held-out loss against tokens", f"Bits per byte {words}", make)
    if tasks:
        make = partial(token_scaling_figure, frame, tasks, judged=judged)
        results.draw("token_scaling_tasks", "Tasks against tokens", f"Scores {words}", make)


def add_fits(results: Results, frame: pd.DataFrame, bits: Sequence[str]) -> None:
    """L(N, D) of each loss, the largest size held out: law, surface, residuals, predictions."""
    for metric in bits:
        if len(select_loss(frame, metric)) < 2:
            continue
        words, name = style.metric_label(metric), file_name("chinchilla", metric)
        fit = results.fit(name, words, partial(fit_study, frame, metric, bootstrap=BOOTSTRAP))
        if fit is None:
            if len(set(select_loss(frame, metric)["params"])) > 1:
                results.notes[-1] += " (the largest size is held out, to check the law by it)"
            continue
        results.draw(
            name, f"Fitted law: {words}", "Measured points and the fitted law.", partial(fit_figure, frame, fit)
        )
        for kind, title, caption, draw in (
            ("surface", "Loss surface", "Lines of equal fitted loss over size and tokens.", loss_surface_figure),
            ("diagnostics", "Residuals", "Residuals of the fitted law.", diagnostics_figure),
            (
                "predicted",
                "Predicted against measured",
                "Held-out runs are edged in orange.",
                predicted_figure,
            ),
        ):
            make = partial(draw, frame, fit)
            results.draw(file_name(kind, metric), f"{title}: {words}", caption, make)


def add_isoflop(results: Results, frame: pd.DataFrame, bits: Sequence[str]) -> None:
    """Loss at equal compute, and the three approaches side by side."""
    for metric in bits:
        rows, words = select_loss(frame, metric), style.metric_label(metric)
        rows = rows.assign(budget=override_values(rows, "flops").astype(float))
        rows.attrs = {"metric": metric, **rows.attrs}
        title = f"Loss at equal compute: {words}"
        try:
            allocation = fit_isoflop(rows)
        except ValueError as error:
            allocation = None
            results.notes.append(f"{title} is not drawn: {error}")
        if allocation is not None:
            make = partial(isoflop_figure, rows, allocation)
            caption = "Loss against size at each compute budget, the minima, and how they grow with compute."
            results.draw(file_name("isoflop", metric), title, caption, make)
        compare = partial(compare_approaches, rows, allocation=allocation)
        results.table(
            file_name("approaches", metric), f"Compute-optimal exponents by three approaches: {words}", compare
        )


def add_continual(results: Results, frame: pd.DataFrame, bits: Sequence[str]) -> None:
    """Show what branches learn and forget, compared to the branch that continues with the trunk's first domain."""
    models = base_models(frame)
    first = bits[0].split("/")[1] if bits else ""
    for model in sorted(set(models)):
        rows = frame.loc[models == model]
        names = sorted(set(branch_labels(rows)))
        baseline = next((name for name in names if name.endswith(first)), None) if first else None
        make = partial(continual_figure, rows, bits, baseline=baseline)
        caption = "Held-out loss of each domain against tokens"
        caption += "; below, the difference from the branch that continues unchanged." if baseline else "."
        alone = models.nunique() == 1
        name, title = "continual" if alone else f"continual-{model}", "What branches learn and forget"
        results.draw(name, title if alone else f"{title}: {model}", caption, make)


def add_positions(results: Results, frame: pd.DataFrame) -> None:
    """Loss by position of each model, before and after a longer context."""
    models = base_models(frame)
    alone = models.nunique() == 1
    for model in sorted(set(models)):
        name, title = "position" if alone else f"position-{model}", "Loss by position in the context"
        caption = "Held-out loss by the token's place in its context, for each way of making the context longer."
        make = partial(position_figure, frame.loc[models == model])
        results.draw(name, title if alone else f"{title}: {model}", caption, make)


def add_ablation(
    results: Results,
    frame: pd.DataFrame,
    bits: Sequence[str],
    curves: Mapping[str, Curve] | None,
    curves_from: str,
) -> None:
    """Every variant against the baseline, each at its best learning rate."""
    variant = partial(override_of, key="variant")
    rate = partial(override_of, key=RATE) if len(overrides(frame, RATE)) > 1 else None
    make = partial(ablation_table, frame, bits, baseline=BASELINE, variant=variant, rate=rate, curves=curves)
    slopes = {metric: curve for metric, curve in (curves or {}).items() if isinstance(curve, float)}
    words = ", ".join(f"{style.metric_label(metric)} {slope:.3f}" for metric, slope in slopes.items())
    source = f", from {curves_from}" if curves_from else ""
    note = f"Slopes against log tokens that turn differences into tokens{source}: {words}." if slopes else ""
    table = results.table("ablation", "Variants against the baseline", make, note)
    if table is not None:
        caption = "Differences from the baseline, paired by seed; filled marks exceed the seed noise."
        draw = partial(ablation_figure, table, frame, variant=variant, rate=rate)
        results.draw("ablation", "Variants against the baseline", caption, draw)


def add_sweep(results: Results, frame: pd.DataFrame, bits: Sequence[str]) -> None:
    """Loss against learning rate, one panel per batch, and the best rate of each size, for each budget separately."""
    batch = BATCH if len(overrides(frame, BATCH)) > 1 else None
    for metric in bits:
        for budget, rows in _budgets(frame).items():
            words, end = style.metric_label(metric), f"-{budget.replace('=', '-')}" if budget else ""
            words += f", {budget}" if budget else ""
            make = partial(sweep_figure, rows, metric, RATE, panels=batch)
            caption = "The best rate of each size is ringed, dashed where it is the smallest or largest tried."
            results.draw(file_name("sweep", metric) + end, f"Learning rates: {words}", caption, make)
            rates = partial(_best_rates, rows, metric, batch)
            results.table(file_name("best_rates", metric) + end, f"Best rates: {words}", rates)
            rules = partial(_rules, rows, metric, batch)
            results.table(file_name("rate_rule", metric) + end, f"Best rate against size: {words}", rules)


def add_tuned(results: Results, frame: pd.DataFrame, bits: Sequence[str]) -> None:
    """Show what tuning gains and loses, against the tokens of the pretraining before it."""
    caption = "Dashed: the base at the tokens at which the tuning began. Bars are one standard error."
    results.draw("tuned", "Tuned models and their bases", caption, partial(tuned_figure, frame, bits))


def add_transfer(results: Results, frame: pd.DataFrame, bits: Sequence[str]) -> None:
    """Loss against learning rate under each parametrisation, the best rate of each size, and how far it drifts."""
    for metric in bits:
        words = style.metric_label(metric)
        caption = "The best rate of each size is ringed; on the right it is drawn against size."
        make = partial(transfer_figure, frame, metric)
        results.draw(file_name("transfer", metric), f"Transfer of learning rates: {words}", caption, make)
        best = results.table(
            file_name("best_rates", metric), f"Best rates: {words}", partial(transferred_rates, frame, metric)
        )
        if best is not None:
            title = f"Drift of the best rate from the smallest to the largest model: {words}"
            results.table(file_name("rate_drift", metric), title, partial(rate_drift, best))


def _budgets(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of each swept budget by its name; one unnamed group where none was swept."""
    for key in ("tokens", "flops"):
        if len(overrides(frame, key)) > 1:
            values = override_values(frame, key)
            return {f"{key}={value}": frame.loc[values == value] for value in sorted(overrides(frame, key), key=float)}
    return {"": frame}


def _best_rates(frame: pd.DataFrame, metric: str, batch: str | None) -> pd.DataFrame:
    best = best_rates(frame, metric, batch=batch)
    return best if batch else best.drop(columns="batch_sequences")


def add_noise(results: Results, frame: pd.DataFrame, bits: Sequence[str]) -> None:
    """Spread over seeds by size, where there are several; split by kind of seed where both are crossed."""
    seeds = {(row["seed_init"], row["seed_data"]) for row in frame.to_dict("records")}
    if len(seeds) < 2 or is_ablation(frame) or is_duplicates(frame):
        return
    crossed = len(seeds) > max(len({init for init, _ in seeds}), len({data for _, data in seeds}))
    for metric in bits:
        words = style.metric_label(metric)
        make = partial(seed_variance, frame, metric, "params")
        results.table(file_name("seed_noise", metric), f"Seed noise by size: {words}", make)
        if crossed:
            caption = "Each run against its data order's seed, one line per initialisation."
            draw = partial(seeds_figure, frame, metric)
            results.draw(file_name("seeds", metric), f"Effect of seeds: {words}", caption, draw)
            split = partial(_components, frame, metric)
            results.table(file_name("seed_split", metric), f"Seed noise by kind of seed: {words}", split)


def _judge(frame: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    table = task_curves(frame, list(tasks))
    keep = ["model", "metric", "curve", "points", "tokens_last", "value_last", "stderr_last", "chance", "marks"]
    shown = table.loc[:, [*keep, *(name for name in table.columns if name not in keep)]]
    shown.attrs = table.attrs
    return shown


def _rules(frame: pd.DataFrame, metric: str, batch: str | None) -> pd.DataFrame:
    rows: list[dict[str, str]] = []
    without: list[str] = []
    for size, best in best_rates(frame, metric, batch=batch).groupby("batch_sequences"):
        try:
            rule = {"rule": rate_rule(best).describe()}
        except ValueError as error:
            without.append(f"batch {size}: {error}" if batch else str(error))
            continue
        rows.append({"batch_sequences": str(size)} | rule if batch else rule)
    if not rows:
        raise ValueError("; ".join(without))
    table = pd.DataFrame(rows)
    table.attrs[EXCLUDED] = tuple(without)
    return table


def _components(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    parts: list[dict[str, object]] = []
    for model, rows in frame.groupby("model"):
        for component in seed_components(rows, metric):
            parts.append({"model": str(model), **dataclasses.asdict(component), "sd": component.sd})
    return pd.DataFrame(parts)
