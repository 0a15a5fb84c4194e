"""Which training rows MLflow gets: its store and pages slow down with every row, and a curve needs no more.

All rows stay in the stage's `metrics.jsonl`, and `analysis.load.load_history` reads them there.
"""

from __future__ import annotations

from collections.abc import Collection

ALL_UPTO = 1_000
"""So many of a stage's first rows are all sent, so that shorter trainings are in MLflow whole."""
SIGNIFICANT_BITS = 6
"""Later rows are sent where their number has so many significant binary digits: 32 rows each time it doubles."""


def is_sent(number: int, tokens: int, checkpoints: Collection[int]) -> bool:
    """Whether MLflow gets a row: an early one, one of those spaced as a logarithm, or a checkpoint's.

    It depends on nothing that changes while a stage trains, so that a stage that is published on the way, at its end or
    after an interruption has the same rows: 1,000 of the first 1,000, 1,137 of 20,000, 1,319 of a million, and one for
    each checkpoint.

    Parameters
    ----------
    number
        The row's place among the rows of its stage, from 1: one row is written a step.
    tokens
        Tokens since the start of the chain, as the row has them.
    checkpoints
        Tokens of the checkpoints that the study asks for, the stage's last among them.
    """
    spacing = 1 << max(0, number.bit_length() - SIGNIFICANT_BITS)
    return number <= ALL_UPTO or number % spacing == 0 or tokens in checkpoints
