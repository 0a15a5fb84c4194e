"""Conditions on whole columns of a table, where Arrow gives exactly what a record by itself would."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workbench.config.filter_syntax import Comparison, Contains, Field, Flag, Has, Length, Literal, Matches, Member


class _Arrow:
    """`pyarrow.compute`, imported with the first condition that is asked of it.

    It makes its functions when it is imported, so that no checker of types knows them.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("pyarrow.compute"), name)


_ARROW = _Arrow()
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_FUNCTIONS = {
    "==": "equal", "!=": "not_equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal",
}  # fmt: skip
_EXACT = 2**53
"""Whole numbers below it are the same as 64-bit floating point numbers."""


class Unsupported(Exception):  # noqa: N818 - no error: the condition is then tested record by record
    """Arrow has no such condition, or its result could differ from that of the records."""


def column_of(table: pa.Table | pa.RecordBatch, path: tuple[str, ...]) -> pa.ChunkedArray:
    """Values of a field (N,), null where it or what it is part of is missing."""
    names = table.schema.names
    if names.count(path[0]) > 1:
        raise Unsupported
    nothing = pa.chunked_array([pa.nulls(table.num_rows)])
    if path[0] not in names:
        return nothing
    column = table.column(path[0])
    column = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    for key in path[1:]:
        if pa.types.is_null(column.type):
            return nothing
        if not pa.types.is_struct(column.type):
            raise Unsupported
        if column.type.get_field_index(key) < 0:
            return nothing
        column = _ARROW.struct_field(column, key)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column


def judge_columns(
    node: Comparison | Member | Contains | Matches | Has | Flag, table: pa.Table | pa.RecordBatch
) -> NDArray[np.bool_]:
    """Test one condition on every record.

    Returns
    -------
    NDArray
        bool (N,), false where a field is missing unless the condition asks for that.

    Raises
    ------
    Unsupported
        It must be tested record by record; also if a field has a type that the condition cannot have.
    """
    match node:
        case Has(field):
            result = column_of(table, field.path).is_valid()
        case Flag(field):
            result = _typed(column_of(table, field.path), pa.types.is_boolean)
        case Comparison(left, sign, right):
            result = _compare(table, left, sign, right)
        case Member(value, among):
            result = _member(_values(table, value), among)
        case Contains(field, str(part)):
            result = _ARROW.match_substring(_typed(column_of(table, field.path), _is_text), part)
        case _:
            raise Unsupported
    return result.fill_null(False).to_numpy(zero_copy_only=False).astype(np.bool_)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_whole(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) and kind != pa.uint64()


def _typed(column: pa.ChunkedArray, *kinds: Callable[[pa.DataType], bool]) -> pa.ChunkedArray:
    if not any(is_kind(column.type) for is_kind in kinds):
        raise Unsupported
    return column


def _values(table: pa.Table | pa.RecordBatch, value: Field | Length) -> pa.ChunkedArray:
    if isinstance(value, Field):
        return column_of(table, value.path)
    return _ARROW.utf8_length(_typed(column_of(table, value.field.path), _is_text))


def _compare(
    table: pa.Table | pa.RecordBatch, left: Field | Length | Literal, sign: str, right: Field | Length | Literal
) -> pa.ChunkedArray:
    if isinstance(left, Literal):
        left, right, sign = right, left, _FLIPPED.get(sign, sign)
    if isinstance(left, Literal) or not isinstance(right, Literal):
        raise Unsupported
    column = _values(table, left)
    if right.value is None:
        return column.is_null() if sign == "==" else column.is_valid()
    column, scalar = _comparable(column, right.value)
    return _ARROW.call_function(_FUNCTIONS[sign], [column, scalar])


def _comparable(column: pa.ChunkedArray, value: str | int | float | bool) -> tuple[pa.ChunkedArray, pa.Scalar]:
    """Column and value in one type that holds both exactly."""
    kind = column.type
    if isinstance(value, str) and _is_text(kind):
        return column, pa.scalar(value, kind)
    if isinstance(value, bool):
        return _typed(column, pa.types.is_boolean), pa.scalar(value)
    if isinstance(value, str) or (isinstance(value, int) and abs(value) > _EXACT):
        raise Unsupported
    if _is_whole(kind) and float(value).is_integer() and abs(value) <= _EXACT:
        return column.cast(pa.int64()), pa.scalar(int(value), pa.int64())
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return column.cast(pa.float64()), pa.scalar(float(value), pa.float64())
    raise Unsupported


def _member(column: pa.ChunkedArray, among: tuple[object, ...]) -> pa.ChunkedArray:
    if all(isinstance(value, str) for value in among):
        return _ARROW.is_in(_typed(column, _is_text), pa.array(among, column.type))
    if all(isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _EXACT for value in among):
        return _ARROW.is_in(_typed(column, _is_whole).cast(pa.int64()), pa.array(among, pa.int64()))
    raise Unsupported
