"""Tables of a study: its scores beside plain compressors, as text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis import style
from analysis.columns import known_errors, truths
from analysis.overrides import label_order

NOT_EVALUATED = "not evaluated"
BITS_PER_BYTE = "bits_per_byte"


def compression_rows(sizes: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, float]]:
    """Bits per byte that compressors need for the same held-out text: 8 x compressed / bytes.

    Parameters
    ----------
    sizes
        By source: `bytes`, `gzip_bytes` and `xz_bytes` of its concatenated held-out documents.

    Returns
    -------
    dict
        By compressor, the value of each `heldout/<source>/bits_per_byte`.

    Raises
    ------
    ValueError
        A source holds no bytes.
    """
    rows: dict[str, dict[str, float]] = {"gzip -9": {}, "xz -9": {}}
    for source, size in sizes.items():
        if size["bytes"] <= 0:
            raise ValueError(f"held-out source {source!r} holds {size['bytes']} bytes")
        for name, key in (("gzip -9", "gzip_bytes"), ("xz -9", "xz_bytes")):
            rows[name][f"heldout/{source}/{BITS_PER_BYTE}"] = 8 * size[key] / size["bytes"]
    return rows


def choose_metrics(frame: pd.DataFrame) -> list[str]:
    """Metrics for tables and figures: bits per byte first, then one per task; without perplexities and single positions."""
    names = {metric for metric in frame["metric"] if isinstance(metric, str)}
    metrics = sorted(metric for metric in names if not metric.startswith("position/"))
    bits = sorted((m for m in metrics if m.endswith(f"/{BITS_PER_BYTE}")), key=lambda m: ("prose" not in m, m))
    tasks = [m for m in metrics if m.rsplit("/", 1)[-1] == "acc"]
    others = [m for m in metrics if m.rsplit("/", 1)[-1] in ("acc_norm", "exact_match")]
    return [*bits, *tasks, *(m for m in others if f"{m.rsplit('/', 1)[0]}/acc" not in tasks)]


SUBTASKS = 4
"""Number of tasks sharing a first word, such as crows_pairs_english_age, from which they are parts of one suite."""


def headline_metrics(frame: pd.DataFrame) -> list[str]:
    """`choose_metrics` without the parts of large suites, such as MMLU's 57 subjects, to keep figures readable.

    Parts are tasks of one folder of names (`<suite>_<part>` or `<suite>-<part>`), four or more.
    """
    metrics = choose_metrics(frame)
    suites = Counter(_suite(metric) for metric in metrics)
    return [metric for metric in metrics if metric.startswith("heldout/") or suites[_suite(metric)] < SUBTASKS]


def _suite(metric: str) -> str:
    return re.split(r"[_\-]", metric.split("/")[0])[0]


def summary_table(
    frame: pd.DataFrame,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    metrics: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Build the table of a study's cooled-down points, with compressors below; cells are text.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it.
    baselines
        Values by metric, by name of the row, as `compression_rows` returns them.
    metrics
        Columns wanted; None takes `choose_metrics`.

    Returns
    -------
    DataFrame
        Columns model, size, tokens, seeds and one per metric; a cell reads "1.234 ±0.010" (one standard error;
        mean over the seeds), "1.234" where the standard error is not known, or "not evaluated".
    """
    names = list(metrics) if metrics is not None else choose_metrics(frame)
    cooled = frame.loc[truths(frame, "annealed") | _of_other_kinds(frame)]
    rows: list[dict[str, str]] = []
    keys = ["params_non_embedding", "model", "tokens"]
    groups: dict[tuple[float, str, float], pd.DataFrame] = {
        (float(size), str(model), float(tokens)): runs for (size, model, tokens), runs in cooled.groupby(keys)
    }
    ordered = sorted((size, label_order(model), model, tokens) for size, model, tokens in groups)
    for size, _, model, tokens in ordered:
        runs = groups[size, model, tokens]
        seeds = {(row["seed_init"], row["seed_data"]) for row in runs.to_dict("records")}
        if len(set(runs["stage"])) > len(seeds):
            raise ValueError(f"{model} at {tokens} tokens has several variants without distinguishing labels")
        row = {"model": model, "size": style.count_label(size), "tokens": style.count_label(tokens)}
        row["seeds"] = str(len(seeds))
        for metric in names:
            scored = runs.loc[runs["metric"] == metric]
            row[style.metric_label(metric)] = _cell(scored["value"].tolist(), scored["stderr"].tolist())
        rows.append(row)
    for name, values in (baselines or {}).items():
        row = {"model": name, "size": "", "tokens": "", "seeds": ""}
        for metric in names:
            row[style.metric_label(metric)] = f"{values[metric]:.3f}" if metric in values else ""
        rows.append(row)
    columns = ["model", "size", "tokens", "seeds", *(style.metric_label(metric) for metric in names)]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def _of_other_kinds(frame: pd.DataFrame) -> pd.Series:
    """Whether each row is of a stage that is no pretraining: what a point is about, with or without a decay of its rate."""
    if "kinds" not in frame:
        return pd.Series(False, index=frame.index)
    last = [kinds.split(">")[-1] if isinstance(kinds, str) else "pretrain" for kinds in frame["kinds"]]
    return pd.Series([kind != "pretrain" for kind in last], index=frame.index)


def format_table(table: pd.DataFrame) -> str:
    """Lay out a table of texts in aligned columns, one line per part of a heading."""
    heads = [str(column).split(", ") for column in table.columns]
    depth = max(len(head) for head in heads)
    lines = [[""] * (depth - len(head)) + head for head in heads]
    cells = [[str(cell) for cell in row] for row in table.to_numpy().tolist()]
    widths = [max(map(len, [*lines[i], *(row[i] for row in cells)])) for i in range(len(heads))]
    text = ["  ".join(lines[i][level].rjust(widths[i]) for i in range(len(heads))) for level in range(depth)]
    text.append("  ".join("-" * width for width in widths))
    text += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(text)


def _cell(values: Sequence[float], errors: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return NOT_EVALUATED
    bars = [error for error in known_errors(errors).tolist() if not math.isnan(error)]
    text = f"{sum(known) / len(known):.3f}"
    if bars:
        text += f" ±{sum(bars) / len(bars):.3f}"
    return text if len(known) == len(values) else f"{text} ({len(known)} of {len(values)} seeds)"
