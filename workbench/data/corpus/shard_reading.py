"""The documents of a shard, in batches: files of lines in large blocks, every error with file and place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from workbench.config.schema import SourceConfig
from workbench.data.arrow_files import read_arrow
from workbench.data.corpus.field_filters import FieldFilter, compile_filter
from workbench.data.corpus.languages import language_of
from workbench.data.corpus.remote_parts import find_row_groups, open_remote
from workbench.data.corpus.shards import Part, Shard, list_planned_files
from workbench.data.hub import read_hub_records
from workbench.data.inputs import show
from workbench.data.readers import (
    MISSING,
    fields_of,
    look_up,
    open_parquet,
    parse_line,
    read_records,
    read_row_batches,
    read_texts,
    records_of,
    text_of,
)
from workbench.data.remote_inputs import remote_kind
from workbench.data.sources import Group, Item, normalise
from workbench.data.unpack import decode_line, refuse_packed, without_mark

_BLOCK_BYTES = 8_000_000
_BATCH_CHARACTERS = 4_000_000
_BATCH_DOCUMENTS = 10_000
_NO_FIELDS: Mapping[str, Any] = {}


class Read(NamedTuple):
    """A document as it was read."""

    text: str
    """The text, as `normalise` leaves it; empty where a file was dropped before it was read."""
    cause: str | None = None
    """Why it is dropped, by its file or by the source's `where` (see `workbench.data.counts`); None: it is not."""
    record: Mapping[str, Any] = _NO_FIELDS
    """Its record, where the source has records and fields were asked for; `look_up` finds a field in it."""
    language: str | None = None
    """What the source's `language` field says (see `workbench.data.corpus.languages`); None: the source has none."""


def read_shard(shard: Shard, source: SourceConfig, fields: Sequence[str] = ()) -> Iterator[list[Read]]:
    """Yield the documents of a shard in batches of some megabytes, in their stored order, also those to drop.

    Parameters
    ----------
    shard
        What to read.
    source
        The shard's source.
    fields
        Fields that are wanted beside the text; `meta.language` is the field `language` inside `meta`.

    Raises
    ------
    ValueError
        An input is missing, damaged, not fetched, or not what it was when it was planned, other packages are installed, a record
        has no text, or a field has a type that the source's `where` is not for; the message names file and place.
    """
    batch: list[Read] = []
    size = 0
    wanted = _Wanted.of(source, fields)
    for part in shard.parts:
        for read in _read_part(part, source, wanted):
            batch.append(read)
            size += len(read.text)
            if size >= _BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


@dataclass(frozen=True)
class _Wanted:
    """What is wanted of the records of a source."""

    text_field: str
    keep: FieldFilter | None
    """The source's `where`."""
    language: str | None
    """The source's `language`."""
    fields: tuple[str, ...]
    """Fields that are wanted beside the text."""

    @classmethod
    def of(cls, source: SourceConfig, fields: Sequence[str]) -> _Wanted:
        keep = None if source.where is None else compile_filter(source.where)
        return cls(source.text_field, keep, source.language, tuple(fields))

    def columns(self, there: Mapping[str, Any]) -> list[str]:
        """Columns to read of those in a table; one that is not there is a field that is missing."""
        columns = [self.text_field, *self.fields]
        if self.keep is not None:
            columns += sorted(self.keep.columns & set(there))
        if self.language is not None and look_up(dict(there), self.language) is not MISSING:
            columns.append(self.language)
        return columns

    def text_of(self, record: Any, where: Callable[[], str]) -> str:
        """Give the text of a record, "" where it has none and the source's `where` drops it; `where` names it in an error."""
        if self.keep is not None and isinstance(record, dict) and look_up(record, self.text_field) in (None, MISSING):
            with suppress(ValueError):  # its text is the first to be named
                if self.keep.cause(record):
                    return ""
        return text_of(record, self.text_field, where())

    def judge(self, text: str, record: Mapping[str, Any], where: Callable[[], str]) -> Read:
        """Give a document; `where` names its record in an error."""
        try:
            cause = None if self.keep is None else self.keep.cause(record)
        except ValueError:
            assert self.keep is not None
            self.keep.cause(record, where())
            raise
        try:
            language = None if self.language is None else language_of(record, self.language)
        except ValueError as error:
            raise ValueError(f"{where()}: {error}") from None
        return Read(normalise(text), cause, record if self.fields else _NO_FIELDS, language)

    def documents(self, records: Iterable[tuple[str, Any]]) -> Iterator[Read]:
        """Yield the document of each record that comes with its name."""
        for name, record in records:
            yield self.judge(self.text_of(record, lambda at=name: at), record, lambda at=name: at)


def _read_part(part: Part, source: SourceConfig, wanted: _Wanted) -> Iterator[Read]:
    if source.kind.startswith("python_"):
        return _read_own_files(part, source)
    if source.kind == "huggingface" and source.files is None:
        return wanted.documents(read_hub_records(source))
    if source.is_remote:
        kind, path = remote_kind(source, part.path), open_remote(part, source)
        part = find_row_groups(path, part) if kind == "parquet" else part
    else:
        kind, path = source.kind, Path(part.path)
        _refuse_changed(path, part)
    if kind == "text":
        return (Read(normalise(text)) for text in read_texts("text", path, source.text_field))
    if kind == "parquet":
        return _read_rows(path, part, wanted)
    if kind == "arrow":
        return _read_arrow_rows(path, wanted)
    if path.name.lower().endswith((".gz", ".zst", ".json")):
        return wanted.documents(read_records("jsonl", path))
    return _read_lines(path, part, wanted)


def _refuse_changed(path: Path, part: Part) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ValueError(f"{show(path)} cannot be read: {error.strerror}") from error
    if size != part.file_bytes:
        raise ValueError(
            f"{show(path)} has {size} bytes and had {part.file_bytes} when it was planned: leave inputs as they are "
            "while they are read, or prepare again"
        )


def _read_own_files(part: Part, source: SourceConfig) -> Iterator[Read]:
    group = Group((source.kind,), (source,))
    for key, path in list_planned_files(source, part):
        for found in group.documents(Item(key, path), (source.kind,)):
            yield Read(found.text, found.cause)


def _read_rows(path: Path, part: Part, wanted: _Wanted) -> Iterator[Read]:
    """Yield the documents of some row groups; the source's `where` is evaluated by columns as far as it can be."""
    with open_parquet(path) as file:
        there = fields_of(file.schema_arrow)
    rest = replace(wanted, keep=None)
    names = {column if column in there else column.partition(".")[0] for column in rest.columns(there)}
    for before, batch in read_row_batches(path, wanted.columns(there), part.begin, part.end):
        causes = _causes_of_rows(path, before, batch, wanted.keep)
        records = records_of(path, before, batch.select([name for name in batch.schema.names if name in names]))
        for number, (record, cause) in enumerate(zip(records, causes, strict=True), before + 1):
            text = look_up(record, rest.text_field)
            if text is None and cause is not None:
                text = ""
            elif not isinstance(text, str):
                text = text_of(record, rest.text_field, f"{show(path)}, row {number}")
            if rest.language is None:
                yield Read(normalise(text), cause, record if rest.fields else _NO_FIELDS)
            else:
                judged = rest.judge(text, record, lambda at=number: f"{show(path)}, row {at}")
                yield judged if cause is None else judged._replace(cause=cause)


def _read_arrow_rows(path: Path, wanted: _Wanted) -> Iterator[Read]:
    """Yield the documents of an Arrow file; a column that is not there is a field that is missing."""
    columns = [wanted.text_field, *wanted.fields]
    columns += [] if wanted.keep is None else sorted(wanted.keep.columns)
    columns += [] if wanted.language is None else [wanted.language]
    for first, records in read_arrow(path, columns):
        yield from wanted.documents(
            (f"{show(path)}, row {number}", record) for number, record in enumerate(records, first)
        )


def _causes_of_rows(path: Path, before: int, batch: Any, keep: FieldFilter | None) -> Sequence[str | None]:
    if keep is None:
        return [None] * batch.num_rows
    import pyarrow

    columns = batch.select([name for name in batch.schema.names if name in keep.columns])
    try:
        columns.validate(full=True)  # conditions on columns do not see whether a text is UTF-8
    except pyarrow.ArrowInvalid:
        list(records_of(path, before, columns))
        raise
    return keep.causes(columns, show(path), before + 1)


def _read_lines(path: Path, part: Part, wanted: _Wanted) -> Iterator[Read]:
    """Yield the documents of the lines that begin in a part of a file; the first part refuses a file without any."""
    empty = True
    with path.open("rb", buffering=0) as file:
        begin, end = (_find_line(file, place, part.file_bytes) for place in (part.begin, part.end))
        for offset, block in _read_blocks(file, begin, end):
            if offset == 0:
                refuse_packed(path, block[:16])
                block = without_mark(path, block)
            for read in _parse_block(path, offset, block, wanted):
                empty = False
                yield read
        if empty and part.begin == 0 and _is_blank(file, end, part.file_bytes):
            raise ValueError(f"{show(path)} is empty" + (": it has no record" if part.file_bytes else ""))


def _is_blank(file: BinaryIO, begin: int, size: int) -> bool:
    """Whether all lines from the beginning of one on are blank; read until one is not."""
    blocks = (block.decode(errors="replace") for _, block in _read_blocks(file, begin, size))
    return all(not block or block.isspace() for block in blocks)


def _find_line(file: BinaryIO, place: int, size: int) -> int:
    """Give the first beginning of a line at `place` or behind it."""
    if place == 0 or place >= size:
        return place
    file.seek(place - 1)
    before = place - 1
    while chunk := file.read(1 << 16):
        found = chunk.find(b"\n")
        if found >= 0:
            return before + found + 1
        before += len(chunk)
    return size


def _read_blocks(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield offsets and bytes of blocks of whole lines between two beginnings of lines."""
    file.seek(begin)
    rest: list[bytes] = []
    offset, left = begin, end - begin
    while left:
        chunk = file.read(min(_BLOCK_BYTES, left))
        if not chunk:
            raise ValueError(
                f"{show(str(file.name))} ends at byte {end - left} and had more when it was planned: leave inputs as they are while "
                "they are read, or prepare again"
            )
        left -= len(chunk)
        cut = chunk.rfind(b"\n") + 1 if left else len(chunk)
        if not cut:
            rest.append(chunk)
            continue
        block = b"".join([*rest, chunk[:cut]])
        yield offset, block
        offset += len(block)
        rest = [chunk[cut:]]


def _parse_block(path: Path, offset: int, block: bytes, wanted: _Wanted) -> Iterator[Read]:
    """Yield the documents of a block of lines; the line of an error is counted only where there is one."""

    def number(index: int) -> int:
        return _count_lines(path, offset) + index + 1

    is_plain = wanted.keep is None and wanted.language is None
    try:
        lines = block.decode().split("\n")
    except UnicodeDecodeError as error:
        index = block.count(b"\n", 0, error.start)
        raw = block.split(b"\n")[index]
        ended = b"\n" if index < block.count(b"\n") else b""
        decode_line(path, number(index), raw + ended)
        raise AssertionError("a block that is not UTF-8 has a line that is not") from error
    for index, line in enumerate(lines):
        if not line or line.isspace():
            continue
        try:
            record = json.loads(line)
            text = look_up(record, wanted.text_field)
            text.encode()
        except (ValueError, RecursionError, AttributeError, TypeError):
            # Damaged records, those without a text, and byte order marks where files were put one behind the other.
            ended = "\n" if index + 1 < len(lines) else ""
            record = parse_line(path, number(index), line.removeprefix("\ufeff") + ended)
            text = wanted.text_of(record, lambda at=index: f"{show(path)}, line {number(at)}")
        if is_plain:
            yield Read(normalise(text), None, record if wanted.fields else _NO_FIELDS)
        else:
            yield wanted.judge(text, record, lambda at=index: f"{show(path)}, line {number(at)}")


def _count_lines(path: Path, end: int) -> int:
    """Count the lines before a place in a file."""
    count = 0
    with path.open("rb", buffering=0) as file:
        while end and (chunk := file.read(min(_BLOCK_BYTES, end))):
            count += chunk.count(b"\n")
            end -= len(chunk)
    return count
