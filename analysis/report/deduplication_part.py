"""The part of a report that compares trainings with and without near duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from analysis import style
from analysis.deduplication import deduplication_table
from analysis.figures.deduplication_curve import duplicates_figure
from analysis.report.study_results import Results, file_name

_CORPUS = ["documents", "removed", "stored_tokens"]


def add_duplicates(results: Results, frame: pd.DataFrame, bits: Sequence[str]) -> None:
    """Loss against the threshold of the search, and differences from the corpus with its near duplicates."""
    for metric in bits:
        words = style.metric_label(metric)
        caption = "At the left near duplicates are kept; bars are the standard error over seeds."
        draw = partial(duplicates_figure, frame, metric)
        results.draw(file_name("duplicates", metric), f"Near duplicates taken out: {words}", caption, draw)
        note = "Differences from `kept`, paired by seed, with 95% intervals; what was removed is in the part on data."
        make = partial(_table, frame, metric)
        results.table(file_name("deduplication", metric), f"Near duplicates: {words}", make, note)


def _table(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    return deduplication_table(frame, metric).drop(columns=_CORPUS)
