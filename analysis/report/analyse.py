"""A study's report: its figures, fits and tables, on disk and as one page.

They are those of the kind that the study says it is for (`analysis: isoflop` in its file: token_scaling, isoflop,
repetition, continual, ablation, sweep, transfer, tuning, seeds, extend or duplicates). Without that, or where the frame lacks
what the kind needs, they are chosen by what the frame holds:

====================  ================================================================================================
figure                drawn where
====================  ================================================================================================
token_scaling         a model was scored at two token counts or more; no variants, rates, branches or repeated data
chinchilla            L(N, D) is fitted: four sizes, the largest held out to check the law, and three token counts,
                      fresh data, one variant of each size; with it surface, diagnostics and predicted
isoflop               points name budgets in FLOPs (`flops=`), two or more, of one variant of each size
repetition            a cooled-down run saw its data more than once
continual             branches that share a trunk are trained on different mixtures or data
ablation              points name variants (`variant=`), `base` among them
sweep                 points name three learning rates or more, and neither variants nor parametrisations
tuning                stages of other kinds come after pretraining
transfer              points name three learning rates or more, and two parametrisations or more
position              models were scored by position, before and after a longer context
duplicates            points name two searches for near duplicates or more (`data.corpus.near_duplicates=`)
seeds                 seeds of initialisation and data order are crossed, and no variants
====================  ================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.ablation.equivalent import Curve
from analysis.failed import FAILED_POINTS, describe_failed, read_tag, short_note
from analysis.figures.points import study_name
from analysis.frames import require_columns
from analysis.load import FRAME_COLUMNS
from analysis.report import parts, study_kinds
from analysis.report.decay_of_repeats import add_repetition
from analysis.report.deduplication_part import add_duplicates
from analysis.report.page_blocks import page_of
from analysis.report.parts import fit_study
from analysis.report.score_tables import (
    BITS_PER_BYTE,
    NOT_EVALUATED,
    choose_metrics,
    compression_rows,
    format_table,
    headline_metrics,
    summary_table,
)
from analysis.report.study_results import Results

__all__ = [
    "BITS_PER_BYTE",
    "NOT_EVALUATED",
    "analyse_study",
    "choose_metrics",
    "compression_rows",
    "draw_study",
    "fit_study",
    "format_table",
    "headline_metrics",
    "page_of",
    "summary_table",
]


def analyse_study(frame: pd.DataFrame, *, curves: Mapping[str, Curve] | None = None, curves_from: str = "") -> Results:
    """Make every figure, fit and table that a study's frame allows; the module's docstring says which.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study.
    curves
        For an ablation: by metric, the baseline's value against tokens or its slope against log tokens, as
        `analysis.ablation.ablation_table` takes them.
    curves_from
        Study and size they were taken from, for the table's note.

    Returns
    -------
    Results
        `notes` lists what could not be made, and why.

    Raises
    ------
    ValueError
        The frame lacks a column, or mixes studies.
    """
    require_columns(frame, FRAME_COLUMNS)
    results = Results(study_name(frame))
    failed = read_tag(frame.attrs.get(FAILED_POINTS))
    if failed[0]:
        results.notes.append(f"No result: {describe_failed(*failed)}")
    if frame["value"].dropna().empty:
        results.notes.append("nothing has been evaluated, so there is nothing to draw")
        return results
    if note := study_kinds.lacking(frame):
        results.notes.append(note)
    bits = [name for name in study_kinds.scored_metrics(frame) if name.endswith(f"/{BITS_PER_BYTE}")]
    swept = study_kinds.is_sweep(frame)
    if study_kinds.is_ablation(frame):
        parts.add_ablation(results, frame, bits, curves, curves_from)
    if swept:
        parts.add_sweep(results, frame, bits)
    transferred = study_kinds.is_transfer(frame)
    if transferred:
        parts.add_transfer(results, frame, bits)
    tuned = study_kinds.is_tuned(frame)
    if tuned:
        parts.add_tuned(results, frame, bits)
    branched = study_kinds.is_continual(frame)
    if branched:
        parts.add_continual(results, frame, bits)
    if study_kinds.is_repetition(frame):
        add_repetition(results, frame, bits)
    extended = study_kinds.is_extended(frame)
    if extended:
        parts.add_positions(results, frame)
    deduplicated = study_kinds.is_duplicates(frame)
    if deduplicated:
        add_duplicates(results, frame, bits)
    pooled = study_kinds.pooled_variants(frame)
    if pooled and (study_kinds.is_isoflop(frame) or not study_kinds.is_special(frame)):
        results.notes.append(
            f"No law of size and tokens is fitted: {pooled}, but a law describes one variant of each size"
        )
    if study_kinds.is_isoflop(frame) and not pooled:
        parts.add_isoflop(results, frame, bits)
    others = swept or transferred or tuned or branched or extended or deduplicated
    if not (study_kinds.is_ablation(frame) or others or study_kinds.is_repetition(frame)):
        parts.add_token_scaling(results, frame, bits)
    if study_kinds.is_plain(frame):
        parts.add_fits(results, frame, bits)
    elif study_kinds.repeats_data(frame) and not study_kinds.is_special(frame):
        results.notes.append("No law of size and tokens is fitted: a cooled-down run saw its data more than once")
    parts.add_noise(results, frame, bits)
    results.name_absent(short_note(*failed))
    return results


def draw_study(frame: pd.DataFrame, directory: Path, fit_directory: Path | None = None) -> list[Path]:
    """Draw every figure of a study and write all with its fits and tables.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it.
    directory
        Where the figures go, `outputs/figures/<study>`.
    fit_directory
        Where the fits go, `outputs/fits/<study>`; None writes none.

    Returns
    -------
    list of Path
        All files written; empty where nothing has been evaluated.
    """
    return analyse_study(frame).save(directory, fit_directory)
