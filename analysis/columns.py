"""What the cells of a frame mean where they can be misread: truth values, numbers and standard errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")
"""Texts that stand for truth values, in any case."""


def truth(value: object) -> bool | None:
    """Read a cell as true or false; None where it is missing (None, NaN).

    Parameters
    ----------
    value
        A truth value, the number 1 or 0, or a text: true, yes, 1, false, no or 0, in any case.

    Raises
    ------
    ValueError
        It is something else: Python takes any text for true, "False" among them.
    """
    if value is None or value is pd.NA or value != value:
        return None
    if isinstance(value, str) and value.strip().lower() in (*TRUE, *FALSE):
        return value.strip().lower() in TRUE
    if isinstance(value, (bool, np.bool_, int, float, np.number)) and value in (0, 1):
        return bool(value)
    shown = value.item() if isinstance(value, np.generic) else value
    raise ValueError(f"{shown!r} is neither true nor false: write true, false, yes, no, 1 or 0")


def truths(frame: pd.DataFrame, column: str) -> NDArray[np.bool_]:
    """Read a column of truth values, shape (rows,); what is missing counts as false, so that nothing unknown is used.

    Raises
    ------
    ValueError
        A cell is neither true nor false; the column, the row and the value are named.
    """
    values = frame[column]
    if values.dtype == np.bool_:
        return values.to_numpy(dtype=np.bool_)
    found: list[bool] = []
    for row, value in zip(frame.index, values, strict=True):
        try:
            found.append(truth(value) is True)
        except ValueError as error:
            raise ValueError(f"column {column}, row {row}: {error}") from None
    return np.array(found, dtype=np.bool_)


def numbers(frame: pd.DataFrame, column: str) -> Array:
    """Read a column of numbers, shape (rows,); NaN where there is none.

    Raises
    ------
    ValueError
        A value is not a number; a number written as text is not one, since text has another order.
    """
    if is_plain(frame, column):
        return frame[column].to_numpy(dtype=np.float64)
    missing = frame[column].isna()
    odd = next((v for v in frame[column][~missing] if not isinstance(v, (int, float, np.number, np.bool_))), None)
    if odd is not None:
        raise ValueError(f"{column} holds {odd!r}, which is not a number")
    return np.array([np.nan if gap else float(v) for gap, v in zip(missing, frame[column], strict=True)])


def require_numbers(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise `ValueError` where a column holds something else than numbers: as text, 16 comes before 2."""
    for column in columns:
        numbers(frame, column)


def is_plain(frame: pd.DataFrame, column: str) -> bool:
    """Whether the values are plain numbers of one kind, neither objects nor with pandas' own missing ones."""
    kind: object = frame.dtypes[column]
    return isinstance(kind, np.dtype) and kind.kind in "iufb"


def known_errors(stderr: ArrayLike) -> Array:
    """Keep the standard errors that can be judged with: NaN where there is none above 0.

    An error of exactly 0 is no certainty. For a score between 0 and 1 it contradicts the documents' scatter, so
    that whatever computed it did not see them; for a score of exactly 0 or 1 it says that n documents of n agree, which
    leaves room for about 1/n.

    Parameters
    ----------
    stderr
        Standard errors, of any shape; None is NaN.
    """
    errors = np.asarray(stderr, dtype=np.float64)
    return np.where(np.isfinite(errors) & (errors > 0), errors, np.nan)
