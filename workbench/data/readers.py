"""Texts and records of one file: JSON Lines, JSON, parquet, Arrow, plain text. Every error is one line with file and place."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.data.arrow_files import read_arrow
from workbench.data.inputs import PACKED_SUFFIXES, show
from workbench.data.unpack import one_line, read_text_lines

MISSING: Any = object()
"""What `look_up` gives where a record has no such field."""
_RECORDS = (".jsonl", ".ndjson")
_ROWS_A_BATCH = 1000
_KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}


def read_texts(kind: str, path: Path, text_field: str) -> Iterator[str]:
    """Yield the texts of a file in their stored order.

    Parameters
    ----------
    kind
        `jsonl`, `parquet`, `arrow` or `text`: one text.
    path
        The file. One whose name ends in `.json` may also be one JSON document: a list of records, or a record.
    text_field
        Field or column with the text. `meta.text` is the field `text` inside `meta`, unless one has that very name.

    Raises
    ------
    ValueError
        The file is damaged or empty, or a record has no text there.
    """
    if kind == "text":
        if path.name.lower().endswith(tuple(f"{end}{packed}" for end in _RECORDS for packed in ("", *PACKED_SUFFIXES))):
            raise ValueError(f"{show(path)} holds records, not one text: set the source's kind to 'jsonl'")
        return _read_text(path)
    if kind == "parquet":
        return (text_of(record, text_field, where) for where, record in _read_parquet(path, text_field))
    if kind == "arrow":
        return (text_of(record, text_field, where) for where, record in _read_arrow(path, text_field))
    return (text_of(record, text_field, where) for where, record in read_records(kind, path))


def read_records(kind: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the records of a file in their stored order, each with its place, which begins the message of an error.

    Parameters
    ----------
    kind
        `jsonl`, `parquet` or `arrow`.
    path
        As `read_texts` takes it.

    Raises
    ------
    ValueError
        The file is damaged or empty.
    """
    if kind == "parquet":
        return _read_parquet(path, None)
    if kind == "arrow":
        return _read_arrow(path, None)
    whole = path.name.lower().endswith((".json", *(f".json{packed}" for packed in PACKED_SUFFIXES)))
    return _read_json(path) if whole else _read_lines(path, enumerate(read_text_lines(path), 1))


def text_of(record: Any, text_field: str, where: str) -> str:
    """Text of a record; `where` begins the message of an error.

    Raises
    ------
    ValueError
        The field is missing, null, of another type, or cannot be written as UTF-8.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where}: {kind_of(record)}, not an object with the field {text_field!r}")
    value = look_up(record, text_field)
    if value is MISSING:
        raise ValueError(
            f"{where}: no field {text_field!r} (there: {names_in(record) or 'nothing'}); set the source's text_field"
        )
    if value is None:
        raise ValueError(f"{where}: field {text_field!r} is null: leave such records out of the file")
    if not isinstance(value, str):
        raise ValueError(f"{where}: field {text_field!r} is {kind_of(value)}, not text; set the source's text_field")
    check_utf8(value, text_field, where)
    return value


def check_utf8(text: str, text_field: str, where: str) -> None:
    """Refuse a text that cannot be written as UTF-8.

    Raises
    ------
    ValueError
        It cannot; the message names the place and the character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: field {text_field!r} holds the lone surrogate \\u{ord(text[error.start]):04x} at character "
            f"{error.start + 1}, half of a character that UTF-8 cannot hold: mend or leave out the record"
        ) from error


def look_up(record: dict[str, Any], name: str) -> Any:
    """Value of a field; `meta.text` is the field `text` inside `meta`, unless one has that very name."""
    if name in record:
        return record[name]
    for place in (i for i, character in enumerate(name) if character == "."):
        inner = record.get(name[:place], MISSING)
        if inner is None:
            return None
        if isinstance(inner, dict) and (found := look_up(inner, name[place + 1 :])) is not MISSING:
            return found
    return MISSING


def names_in(record: dict[str, Any], most: int = 30) -> str:
    """Names of a record's fields, those of inner records with dots."""

    def walk(inner: dict[str, Any], before: str) -> Iterator[str]:
        for name, value in inner.items():
            yield from walk(value, f"{before}{name}.") if isinstance(value, dict) else [f"{before}{name}"]

    names = list(itertools.islice(walk(record, ""), most + 1))
    return show(", ".join(names[:most])) + (", ..." if len(names) > most else "")


def kind_of(value: Any) -> str:
    """Name a value's kind in words, for messages."""
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def _read_lines(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[str, Any]]:
    empty = True
    for number, line in lines:
        if not line.isspace():
            empty = False
            # Files put one behind the other keep their byte order marks.
            yield f"{show(path)}, line {number}", parse_line(path, number, line.removeprefix("\ufeff"))
    if empty:
        raise ValueError(f"{show(path)} is empty: it has no record")


def parse_line(path: Path, number: int, line: str) -> Any:
    """Parse a line of JSON, whose number counts from 1.

    Raises
    ------
    ValueError
        It is not JSON.
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # long numbers and deep nesting are no JSONDecodeError
        if isinstance(error, json.JSONDecodeError) and not line.endswith("\n"):
            raise ValueError(
                f"{show(path)} is truncated after line {number - 1}: line {number} has no end and is not JSON "
                f"({error.msg} at character {error.colno})"
            ) from error
        raise ValueError(f"{show(path)}, line {number} is not JSON: {one_line(error)}") from error


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the records of a `.json` file: JSON Lines under that name, a list of records, or one record."""
    lines = enumerate(read_text_lines(path), 1)
    first = next(((number, line) for number, line in lines if not line.isspace()), None)
    if first is None:
        raise ValueError(f"{show(path)} is empty: it has no record")
    if not first[1].lstrip().startswith("[") and _is_json(first[1]):
        yield from _read_lines(path, itertools.chain([first], lines))
        return
    document = _parse_document(path, first[0] - 1, first[1] + "".join(line for _, line in lines))
    records = document if isinstance(document, list) else [document]
    if not records:
        raise ValueError(f"{show(path)} is empty: it has no record")
    for number, record in enumerate(records, 1):
        yield f"{show(path)}, record {number}", record


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_document(path: Path, before: int, text: str) -> Any:
    """Parse a file whose first `before` lines are blank."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            lines = before + text.count("\n")
            raise ValueError(f"{show(path)} is truncated after line {lines}: {error.msg}") from error
        line, column = before + error.lineno, error.colno
        raise ValueError(f"{show(path)}, line {line} is not JSON: {error.msg} at character {column}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{show(path)}, line {before + 1} begins what is not JSON: {one_line(error)}") from error


def _read_parquet(path: Path, column: str | None) -> Iterator[tuple[str, Any]]:
    """Yield the rows, with one column or with all."""
    for first, records in read_row_groups(path, None if column is None else [column]):
        for number, record in enumerate(records, first):
            yield f"{show(path)}, row {number}", record


def _read_arrow(path: Path, column: str | None) -> Iterator[tuple[str, Any]]:
    for first, records in read_arrow(path, None if column is None else [column]):
        for number, record in enumerate(records, first):
            yield f"{show(path)}, row {number}", record


def read_row_groups(
    path: Path, columns: list[str] | None, begin: int = 0, end: int | None = None
) -> Iterator[tuple[int, Iterable[dict[str, Any]]]]:
    """Yield the rows of some row groups, by the number of the first (from 1) and the records of a thousand.

    Parameters and errors are those of `read_row_batches`.
    """
    for before, batch in read_row_batches(path, columns, begin, end):
        yield before + 1, records_of(path, before, batch)


def read_row_batches(
    path: Path, columns: list[str] | None, begin: int = 0, end: int | None = None
) -> Iterator[tuple[int, Any]]:
    """Yield the rows of some row groups, by the number of rows before them and an Arrow table's batch of a thousand.

    Parameters
    ----------
    path
        A parquet file.
    columns
        Columns to read, the first with the text; None reads all.
    begin, end
        Row groups; None is to the last.

    Raises
    ------
    ValueError
        The file is damaged or empty, or lacks a column.
    """
    import pyarrow

    rows = before = 0
    try:
        with open_parquet(path) as file:
            fields = fields_of(file.schema_arrow)
            _refuse_two_columns(path, file.schema_arrow.names, columns)
            for column in columns or []:
                if look_up(fields, column) is MISSING:
                    text_of(fields, column, show(path))
            stop = file.num_row_groups if end is None else end
            rows = before = sum(file.metadata.row_group(i).num_rows for i in range(begin))
            for batch in file.iter_batches(_ROWS_A_BATCH, row_groups=list(range(begin, stop)), columns=columns):
                yield rows, batch
                rows += batch.num_rows
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{show(path)} cannot be read after row {rows}: {one_line(error)}") from error
    if rows == before and begin == 0 and end is None:
        raise ValueError(f"{show(path)} is empty: it has no row")


def _refuse_two_columns(path: Path, names: list[str], columns: list[str] | None) -> None:
    """Refuse a file in which a column that is read stands twice."""
    wanted = names if columns is None else {name for column in columns for name in (column, column.partition(".")[0])}
    twice = next((name for name in wanted if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"{show(path)} has {names.count(twice)} columns {twice!r}: which one is meant? Leave the others out"
        )


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Open a parquet file, whose pages are checked as they are read.

    Raises
    ------
    ValueError
        It is empty, cut short, or no parquet file.
    """
    import pyarrow
    import pyarrow.parquet

    with path.open("rb") as stream:
        _check_parquet(path, stream)
        try:
            file = pyarrow.parquet.ParquetFile(stream, page_checksum_verification=True)
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"{show(path)} cannot be read after row 0: {one_line(error)}") from error
        with file:
            yield file


def _check_parquet(path: Path, stream: Any) -> None:
    """Say what is wrong with a file that does not begin and end as parquet files do."""
    head = stream.read(4)
    stream.seek(-min(4, path.stat().st_size), 2)
    tail = stream.read()
    stream.seek(0)
    if not head:
        raise ValueError(f"{show(path)} is empty")
    if head != b"PAR1":
        raise ValueError(f"{show(path)} is no parquet file: it begins with {head!r}")
    if tail != b"PAR1" or path.stat().st_size < 12:
        raise ValueError(
            f"{show(path)} is truncated: it begins as a parquet file and has no end, so no row can be read"
        )


def fields_of(schema: Any) -> dict[str, Any]:
    """Names in a schema, those inside structs in dictionaries, as a record would hold them."""
    import pyarrow

    return {f.name: fields_of(f.type) if pyarrow.types.is_struct(f.type) else "" for f in schema}


def records_of(path: Path, before: int, batch: Any) -> Iterable[dict[str, Any]]:
    """Give the records of a batch that has `before` rows before it.

    Raises
    ------
    ValueError
        A text is not UTF-8.
    """
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        return _records_until_damage(path, before, batch)


def _records_until_damage(path: Path, before: int, batch: Any) -> Iterator[dict[str, Any]]:
    for i in range(batch.num_rows):
        try:
            yield batch.slice(i, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            raise ValueError(f"{show(path)}, row {before + i + 1} is not UTF-8: {one_line(error)}") from error


def _read_text(path: Path) -> Iterator[str]:
    # An empty text is a document like others: it is dropped and counted. An empty packed file is a damaged one.
    empty = path.stat().st_size == 0 and path.suffix.lower() not in PACKED_SUFFIXES
    text = "" if empty else "".join(read_text_lines(path))
    yield text.replace("\r\n", "\n").replace("\r", "\n")
