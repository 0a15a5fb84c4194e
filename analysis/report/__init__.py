"""A study's report: its figures, fits and tables, chosen by what its frame holds, on disk and as one page."""

from analysis.report.analyse import (
    BITS_PER_BYTE,
    NOT_EVALUATED,
    analyse_study,
    choose_metrics,
    compression_rows,
    draw_study,
    fit_study,
    format_table,
    headline_metrics,
    page_of,
    summary_table,
)

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
