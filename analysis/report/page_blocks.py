"""A study's results as one page: scores, figures, fits in plain words, tables, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from analysis import style
from analysis.columns import truths
from analysis.fitting import Fit
from analysis.report.data_page import data_blocks
from analysis.report.page import Section, build_page, figure_block, list_block, table_block, text_block
from analysis.report.score_tables import headline_metrics, summary_table
from analysis.report.study_results import DATA, NamedFit, Results

LEVEL = 0.95
"""Level of the intervals shown."""


def page_of(
    results: Results,
    frame: pd.DataFrame,
    *,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    question: str = "",
) -> str:
    """Write a study's report: one HTML page that needs no network and no other file.

    Parameters
    ----------
    results
        As `analysis.report.analyse_study` gives it.
    frame
        The frame they were made from.
    baselines
        Rows below the scores, as `analysis.report.score_tables.compression_rows` returns them.
    question
        The study's question, in one line.

    Returns
    -------
    str
        HTML.
    """
    metrics = headline_metrics(frame)
    scores = (
        [table_block(summary_table(frame, baselines, metrics), note=_score_note(frame, metrics, baselines))]
        if metrics
        else []
    )
    sections = [
        Section("What to mind", [list_block(results.warnings, flags=True)] if results.warnings else []),
        Section("Figures", [figure_block(one) for one in results.drawn if one.section != DATA]),
        Section("Scores", scores),
        Section("Fits", [block for one in results.fits for block in fit_blocks(one)]),
        Section("Tables", [table_block(_readable(one.table), one.title, one.note) for one in results.tables]),
        Section(DATA, [block for record in results.data for block in data_blocks(record, results.drawn)]),
        Section("What is missing", [block for block in (list_block(results.notes), _missing(frame)) if block]),
        Section("Where it comes from", [_origin(frame)]),
    ]
    return build_page(
        results.study, " ".join(part for part in (question, _lead(frame)) if part), sections, results.drawn
    )


def fit_blocks(named: NamedFit) -> list[str]:
    """Describe one fit: equation, parameters with intervals, flags in words, other minima, held-out runs."""
    fit = named.fit
    law = fit.settings.make_law()
    conventions = f"N: {fit.size_column}." if "params" in law.inputs else ""
    blocks = [
        f"<h3>{_escape(named.title)}</h3>",
        text_block(f"{law.equation}, on {fit.n} runs ({_objective(fit)}). {conventions}"),
    ]
    if fit.identifiable:
        blocks.append(table_block(_numbers(fit)))
        blocks.append(text_block(_minima(fit)))
    if fit.holdout:
        blocks.append(text_block(f"Held out: {fit.holdout.describe()}."))
    blocks.append(list_block(fit.flags, flags=True) or text_block("No warnings.", kind="good"))
    if fit.excluded:
        blocks.append(text_block(f"Left out: {'; '.join(fit.excluded)}.", kind="quiet"))
    return blocks


def _objective(fit: Fit) -> str:
    words = {
        "huber_log": f"sum of Huber losses of the log residuals, delta {fit.settings.delta:g}",
        "mse": "mean squared error",
        "mae": "mean absolute error",
    }
    return f"{words.get(fit.settings.objective, fit.settings.objective)}: {fit.objective:.4g}"


def _numbers(fit: Fit) -> pd.DataFrame:
    intervals = fit.interval(LEVEL) if fit.replicates else {}
    units = {parameter.name: parameter.unit for parameter in fit.settings.make_law().parameters}
    rows: list[dict[str, str]] = []
    for name, value in fit.params.items():
        low, high = intervals.get(name, (math.nan, math.nan))
        fixed = name in fit.settings.fixed
        known = "" if math.isnan(low) or fixed else f"{low:.4g} to {high:.4g}"
        rows.append({"number": name, "value": f"{value:.5g}" + " (fixed)" * fixed, f"{LEVEL:.0%} interval": known})
        rows[-1]["unit"] = units[name]
    return pd.DataFrame(rows)


def _minima(fit: Fit) -> str:
    share = f"{fit.minima[0].share:.0%} of the starts reached this minimum"
    others = len(fit.minima) - 1
    if fit.multimodal:
        return f"{share}; of {others} others at least one fits as well within 1%: the parameters are not unique."
    return f"{share}; {others} other minima fit worse." if others else f"{share}; no other was found."


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """Format counts as counts and shorten long numbers; columns without any value are left out."""
    shown = table.dropna(axis="columns", how="all")
    columns: dict[str, list[object]] = {}
    for name in shown.columns:
        values = shown[name].astype(object).tolist()
        columns[str(name).replace("_", " ")] = [_short(str(name), value) for value in values]
    return pd.DataFrame(columns)


def _short(name: str, value: object) -> object:
    counts = ("params", "tokens", "smallest", "largest", "compute", "flops")
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
    number = float(str(value))
    if math.isnan(number):
        return None
    if name.startswith(counts) and number >= 1000:
        return f"{number:.3g}" if name in ("compute", "flops") else style.count_label(number)
    return f"{number:.4g}"


def _score_note(frame: pd.DataFrame, metrics: list[str], baselines: Mapping[str, Mapping[str, float]] | None) -> str:
    left = len({name for name in frame["metric"] if isinstance(name, str)}) - len(metrics)
    more = f" {left} other metrics are in MLflow." if left else ""
    names = " and ".join(name for name, values in (baselines or {}).items() if values)
    below = f" {names}, for comparison, compress the same held-out text without having learnt any." if names else ""
    return (
        "Cooled-down points; ± one standard error over documents, mean over seeds; none where it is not known."
        f"{below}{more}"
    )


def _missing(frame: pd.DataFrame) -> str:
    lacking = frame.loc[frame["value"].isna()]
    if lacking.empty:
        return text_block("Every checkpoint was evaluated on every metric.")
    checkpoints = lacking["checkpoint"].nunique()
    return text_block(f"Not evaluated: {len(lacking)} results of {checkpoints} checkpoints.")


def _lead(frame: pd.DataFrame) -> str:
    stages, checkpoints = frame["stage"].nunique(), frame["checkpoint"].nunique()
    cooled = frame.loc[truths(frame, "annealed"), "checkpoint"].nunique()
    return f"{stages} stages, {checkpoints} checkpoints, {cooled} of them cooled down."


def _origin(frame: pd.DataFrame) -> str:
    rows = [
        {"what": words, "values": ", ".join(sorted({str(value) for value in frame[name].dropna()})) or "not known"}
        for name, words in (
            ("commit", "git commit"),
            ("data_fingerprint", "prepared data"),
            ("eval_id", "evaluations"),
            ("study", "MLflow experiment"),
        )
    ]
    return table_block(pd.DataFrame(rows))


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
