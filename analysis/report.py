"""What a study ends with: a table beside plain compressors, and its figures on disk."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# (pandas is typed in part)
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis import style
from analysis.figures import fit_figure, save_figure, token_scaling_figure
from analysis.fit import Fit, fit_law
from analysis.frames import select_loss
from analysis.laws import Chinchilla

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
    """Metrics for tables and figures: bits per byte first, then one of each task; perplexities are left out."""
    metrics = sorted({metric for metric in frame["metric"] if isinstance(metric, str)})
    bits = sorted((m for m in metrics if m.endswith(f"/{BITS_PER_BYTE}")), key=lambda m: ("prose" not in m, m))
    tasks = [m for m in metrics if m.rsplit("/", 1)[-1] == "acc"]
    others = [m for m in metrics if m.rsplit("/", 1)[-1] in ("acc_norm", "exact_match")]
    return [*bits, *tasks, *(m for m in others if f"{m.rsplit('/', 1)[0]}/acc" not in tasks)]


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
        By name of a row, values by metric, as `compression_rows` gives them.
    metrics
        Columns wanted; None takes `choose_metrics`.

    Returns
    -------
    DataFrame
        Columns model, size, tokens, seeds and one a metric; a cell reads "1.234 ±0.010" (one standard error;
        mean over the seeds), or "not evaluated".
    """
    names = list(metrics) if metrics is not None else choose_metrics(frame)
    cooled = frame.loc[frame["annealed"]]
    rows: list[dict[str, str]] = []
    keys = ["params_non_embedding", "model", "tokens"]
    for (size, model, tokens), runs in cooled.groupby(keys):
        seeds = {(row["seed_init"], row["seed_data"]) for row in runs.to_dict("records")}
        if runs["stage"].nunique() > len(seeds):
            raise ValueError(f"{model} at {tokens} tokens has several variants, which no label tells apart")
        row = {"model": str(model), "size": style.count_label(float(size)), "tokens": style.count_label(float(tokens))}
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


def format_table(table: pd.DataFrame) -> str:
    """Lay a table of texts out in aligned columns, a line for each part of a heading."""
    heads = [str(column).split(", ") for column in table.columns]
    depth = max(len(head) for head in heads)
    lines = [[""] * (depth - len(head)) + head for head in heads]
    cells = [[str(cell) for cell in row] for row in table.to_numpy().tolist()]
    widths = [max(map(len, [*lines[i], *(row[i] for row in cells)])) for i in range(len(heads))]
    text = ["  ".join(lines[i][level].rjust(widths[i]) for i in range(len(heads))) for level in range(depth)]
    text.append("  ".join("-" * width for width in widths))
    text += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(text)


def draw_study(frame: pd.DataFrame, directory: Path, fit_directory: Path | None = None) -> list[Path]:
    """Draw every figure of a study and write it: SVG, PNG and CSV each, and the fits as JSON.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it.
    directory
        Where the figures go, `outputs/figures/<study>`.
    fit_directory
        Where the fits go, `outputs/fits/<study>`; None draws no fits.

    Returns
    -------
    list of Path
        All files written; empty where nothing has been evaluated.
    """
    scored = set(frame.loc[frame["value"].notna(), "metric"])
    metrics = [metric for metric in choose_metrics(frame) if metric in scored]
    bits = [metric for metric in metrics if metric.endswith(f"/{BITS_PER_BYTE}")]
    tasks = [metric for metric in metrics if metric not in bits]
    written: list[Path] = []
    for group, name in ((bits, "token_scaling"), (tasks, "token_scaling_tasks")):
        if group:
            written += save_figure(*token_scaling_figure(frame, group), directory, name)
    for metric in bits:
        if fit_directory is None:
            break
        if len(select_loss(frame, metric)) < 2:
            continue
        fit = fit_study(frame, metric)
        name = file_name(fit.law, metric)
        written += save_figure(*fit_figure(frame, fit), directory, name)
        written.append(fit.save(fit_directory / f"{name}.json"))
    return written


def fit_study(frame: pd.DataFrame, metric: str) -> Fit:
    """Fit L(N, D) to a study's cooled-down points, the largest size held out where there are others."""
    rows = select_loss(frame, metric)
    sizes = {float(size) for size in rows["params"]}
    return fit_law(Chinchilla(), rows, holdout=max(sizes) if len(sizes) > 1 else None)


def file_name(prefix: str, metric: str) -> str:
    """File name of one metric's figure: `chinchilla-heldout-prose-bits_per_byte`."""
    return "-".join([prefix, *metric.split("/")])


def _cell(values: Sequence[float], errors: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return NOT_EVALUATED
    bars = [error for error in errors if not math.isnan(error)]
    text = f"{sum(known) / len(known):.3f}"
    if bars:
        text += f" ±{sum(bars) / len(bars):.3f}"
    return text if len(known) == len(values) else f"{text} ({len(known)} of {len(values)} seeds)"
