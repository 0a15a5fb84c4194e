"""Filters by the fields of a record: expressions of `workbench.config.filter_syntax`, on mappings or on Arrow tables.

Missing and null are the same, as formats of columns cannot tell them apart: a condition on a missing field is false, also
one with `!=`, but for `field == null`, which is true. Every condition is evaluated, whatever the others give, so that an
error depends neither on their order nor on how the records are stored.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workbench.config.filter_syntax import (
    Comparison,
    Contains,
    Field,
    Flag,
    Has,
    Joined,
    Length,
    Literal,
    Matches,
    Member,
    Node,
    Not,
    Value,
    kind_of,
    parse_filter,
)
from workbench.data import counts
from workbench.data.corpus.filter_columns import Unsupported, column_of, judge_columns

Record = Mapping[str, Any]
Test = Callable[[Record], bool]
FILTERED, MISSING = counts.FIELD_FILTER, counts.MISSING_FIELD
"""Causes of removal: the expression is false, or it is false and a field it compares is missing."""
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class FieldFilter:
    """A compiled expression; called with a record it says whether the record stays.

    Raises
    ------
    ValueError
        The expression does not follow the syntax; one line that names the place.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.node = parse_filter(text)
        self._test = _compile(self.node)
        used = list(_fields(self.node))
        optional = {field for field, needed in used if not needed}
        self.fields: tuple[str, ...] = tuple(sorted({field.name for field, _ in used}))
        """Fields that it reads, with the dots."""
        self.columns: frozenset[str] = frozenset(field.path[0] for field, _ in used)
        """Columns of a table that hold these fields."""
        self._needed = sorted({field.path for field, _ in used if field not in optional})

    def __call__(self, record: Record, where: str = "record") -> bool:
        """Whether the record stays.

        Parameters
        ----------
        record
            Fields by name; objects are mappings.
        where
            What names the record in messages, such as a file and a line.

        Raises
        ------
        ValueError
            A field has a type that the condition cannot have; names field and record.
        """
        try:
            return self._test(record)
        except _WrongTypeError as error:
            raise ValueError(f"{where}: {error} (filter {self.text!r})") from None

    def cause(self, record: Record, where: str = "record") -> str | None:
        """Why the record goes: `FILTERED`, `MISSING`, or None if it stays.

        Fields that the expression asks for by `has(..)` or compares with null may be missing and are not counted as it.
        """
        if self(record, where):
            return None
        return MISSING if any(_get(record, path) is None for path in self._needed) else FILTERED

    def keeps(self, table: pa.Table | pa.RecordBatch, where: str = "table", first: int = 0) -> NDArray[np.bool_]:
        """Whether each record of a table stays, by whole columns where Arrow has what is asked.

        Parameters
        ----------
        table
            N records, with `columns` at least as far as they exist.
        where
            What names the table in messages; records are named by their rows in it.
        first
            Number of the first row there.

        Returns
        -------
        NDArray
            bool (N,), what `self(record)` says of each record.
        """
        if isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        try:
            return _test_table(self.node, table)
        except (Unsupported, _WrongTypeError):  # the record to name is found one by one
            rows = _records(table, self.columns)
            kept = [self(record, f"{where}, row {row}") for row, record in enumerate(rows, first)]
            return np.array(kept, np.bool_)

    def causes(self, table: pa.Table | pa.RecordBatch, where: str = "table", first: int = 0) -> list[str | None]:
        """Give the `cause` of each record of a table; parameters and errors are those of `keeps`."""
        kept = self.keeps(table, where, first)
        missing = np.zeros(len(kept), np.bool_)
        for path in self._needed:
            try:
                missing |= column_of(table, path).is_null().to_numpy(zero_copy_only=False)
            except Unsupported:
                rows = _records(table, [path[0]])
                missing |= np.array([_get(record, path) is None for record in rows], np.bool_)
        return [None if stays else MISSING if lacks else FILTERED for stays, lacks in zip(kept, missing, strict=True)]


def compile_filter(text: str) -> FieldFilter:
    """Read an expression such as `meta.set != "GitHub" and max_stars_count >= 2`; see `FieldFilter`."""
    return FieldFilter(text)


def columns_read(text: str) -> frozenset[str]:
    """Columns that an expression reads, to select them when a file is opened."""
    return FieldFilter(text).columns


class _WrongTypeError(Exception):
    """A field has a type that the condition cannot have."""


def _fields(node: Node) -> Iterable[tuple[Field, bool]]:
    """Fields of an expression, and whether it takes them for granted."""
    match node:
        case Joined(_, conditions):
            for condition in conditions:
                yield from _fields(condition)
        case Not(condition):
            yield from _fields(condition)
        case Comparison(left, _, right):
            needed = Literal(None) not in (left, right)
            yield from ((_field(value), needed) for value in (left, right) if not isinstance(value, Literal))
        case Member(value, _):
            yield _field(value), True
        case _:
            yield node.field, not isinstance(node, Has)


def _field(value: Field | Length) -> Field:
    return value.field if isinstance(value, Length) else value


def _records(table: pa.Table | pa.RecordBatch, columns: Iterable[str]) -> list[dict[str, Any]]:
    there = sorted(set(columns) & set(table.schema.names))
    return table.select(there).to_pylist() if there else [{}] * table.num_rows


def _test_table(node: Node, table: pa.Table) -> NDArray[np.bool_]:
    if isinstance(node, Joined):
        join = np.logical_and if node.word == "and" else np.logical_or
        return functools.reduce(join, [_test_table(condition, table) for condition in node.conditions])
    if isinstance(node, Not):
        return ~_test_table(node.condition, table)
    try:
        return judge_columns(node, table)
    except Unsupported:
        test = _compile(node)
        return np.array([test(record) for record in _records(table, {f.path[0] for f, _ in _fields(node)})], np.bool_)


def _get(record: Any, path: tuple[str, ...]) -> Any:
    """Value of a field; None if it is missing."""
    value = record
    for depth, key in enumerate(path):
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise _WrongTypeError(f"field {'.'.join(path[:depth])} is {_shown(value)}, so it has no {key!r}")
        value = value.get(key)
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return f"{kind_of(value)} {text if len(text) <= 40 else text[:37] + '...'}"


def _compile(node: Node) -> Test:
    match node:
        case Joined(word, conditions):
            tests = [_compile(condition) for condition in conditions]
            join = all if word == "and" else any
            return lambda record: join([test(record) for test in tests])  # a list: every one is evaluated
        case Not(condition):
            test = _compile(condition)
            return lambda record: not test(record)
        case Has(field):
            return lambda record: _get(record, field.path) is not None
        case Comparison(left, sign, right):
            return _compile_comparison(left, sign, right)
        case Member(value, among):
            return _compile_typed(value, kind_of(among[0]), lambda item: any(item == one for one in among))
        case Flag(field):
            return _compile_typed(field, "boolean", bool)
        case Matches(field, pattern):
            search = re.compile(pattern).search
            return _compile_typed(field, "text", lambda text: search(text) is not None)
        case Contains():
            return _compile_contains(node)


def _compile_value(value: Value) -> Callable[[Record], Any]:
    match value:
        case Literal(constant):
            return lambda _: constant
        case Field(path):
            return lambda record: _get(record, path)
        case Length(field):
            return lambda record: _length(_get(record, field.path), field)


def _length(value: Any, field: Field) -> int | None:
    if value is None or isinstance(value, str | list | tuple):
        return None if value is None else len(value)
    raise _WrongTypeError(f"len({field.name}) needs a text or a list, and {field.name} is {_shown(value)}")


def _compile_typed(value: Field | Length, kind: str, test: Callable[[Any], bool]) -> Test:
    """Test of a value that must be of one type, if it is there."""
    read, name = _compile_value(value), _field(value).name

    def typed(record: Record) -> bool:
        found = read(record)
        if found is None:
            return False
        if kind_of(found) != kind:
            raise _WrongTypeError(f"field {name} is {_shown(found)}, and the condition is for a {kind}")
        return test(found)

    return typed


def _compile_comparison(left: Value, sign: str, right: Value) -> Test:
    if Literal(None) in (left, right):
        read = _compile_value(right if left == Literal(None) else left)
        return lambda record: (read(record) is None) == (sign == "==")
    compare, first, second = _COMPARE[sign], _compile_value(left), _compile_value(right)
    allowed = ("number", "text", "boolean") if sign in ("==", "!=") else ("number", "text")

    def compared(record: Record) -> bool:
        a, b = first(record), second(record)
        for value, one in ((left, a), (right, b)):
            if one is not None and not isinstance(value, Literal) and kind_of(one) not in allowed:
                raise _WrongTypeError(f"field {_field(value).name} is {_shown(one)}, which {sign} does not compare")
        if a is None or b is None:
            return False
        if kind_of(a) != kind_of(b):
            value, one, other = (right, b, a) if isinstance(left, Literal) else (left, a, b)
            assert not isinstance(value, Literal)
            raise _WrongTypeError(
                f"field {_field(value).name} is {_shown(one)} and cannot be compared with {_shown(other)}"
            )
        return compare(a, b)

    return compared


def _compile_contains(node: Contains) -> Test:
    def contains(record: Record) -> bool:
        value = _get(record, node.field.path)
        if value is None:
            return False
        if isinstance(value, list | tuple):
            return any(item == node.part and kind_of(item) == kind_of(node.part) for item in value)
        if not isinstance(value, str) or not isinstance(node.part, str):
            what = "a text or a list" if isinstance(node.part, str) else "a list"
            raise _WrongTypeError(f"field {node.field.name} is {_shown(value)}, and the condition needs {what}")
        return node.part in value

    return contains
