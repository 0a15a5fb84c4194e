"""The documents of a shard, in batches: files of lines in large blocks, every error with file and place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from workbench.config.schema import SourceConfig
from workbench.data.corpus.field_filters import FieldFilter, compile_filter
from workbench.data.corpus.shards import Part, Shard, list_planned_files
from workbench.data.hub import read_hub_records
from workbench.data.inputs import show
from workbench.data.readers import look_up, open_parquet, parse_line, read_records, read_row_groups, read_texts, text_of
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
        An input is missing, damaged, or of another size than when it was planned, other packages are installed, a record
        has no text, or a field has a type that the source's `where` is not for; the message names file and place.
    """
    batch: list[Read] = []
    size = 0
    keep = None if source.where is None else compile_filter(source.where)
    for part in shard.parts:
        for read in _read_part(part, source, keep, fields):
            batch.append(read)
            size += len(read.text)
            if size >= _BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _read_part(part: Part, source: SourceConfig, keep: FieldFilter | None, fields: Sequence[str]) -> Iterator[Read]:
    if source.kind.startswith("python_"):
        return _read_own_files(part, source)
    if source.kind == "huggingface":
        return (_judge(text, record, keep, where, bool(fields)) for text, record, where in read_hub_records(source))
    path = Path(part.path)
    _refuse_changed(path, part)
    if source.kind == "text":
        return (Read(normalise(text)) for text in read_texts("text", path, source.text_field))
    if source.kind == "parquet":
        return _read_rows(path, part, source.text_field, keep, fields)
    if path.name.lower().endswith((".gz", ".zst", ".json")):
        return (
            _judge(text_of(record, source.text_field, where), record, keep, where, bool(fields))
            for where, record in read_records("jsonl", path)
        )
    return _read_lines(path, part, source.text_field, keep, bool(fields))


def _judge(text: str, record: Mapping[str, Any], keep: FieldFilter | None, where: str, with_record: bool) -> Read:
    cause = None if keep is None else keep.cause(record, where)
    return Read(normalise(text), cause, record if with_record else _NO_FIELDS)


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


def _read_rows(
    path: Path, part: Part, text_field: str, keep: FieldFilter | None, fields: Sequence[str]
) -> Iterator[Read]:
    columns = [text_field, *fields]
    if keep is not None:  # a column that is not there is a field that is missing
        with open_parquet(path) as file:
            columns += sorted(keep.columns & set(file.schema_arrow.names))
    for first, records in read_row_groups(path, columns, part.begin, part.end):
        for number, record in enumerate(records, first):
            text, where = look_up(record, text_field), f"{show(path)}, row {number}"
            if not isinstance(text, str):
                text = text_of(record, text_field, where)
            yield _judge(text, record, keep, where, bool(fields))


def _read_lines(path: Path, part: Part, text_field: str, keep: FieldFilter | None, with_record: bool) -> Iterator[Read]:
    """Yield the documents of the lines that begin in a part of a file; the first part refuses a file without any."""
    empty = True
    with path.open("rb", buffering=0) as file:
        begin, end = (_find_line(file, place, part.file_bytes) for place in (part.begin, part.end))
        for offset, block in _read_blocks(file, begin, end):
            if offset == 0:
                refuse_packed(path, block[:16])
                block = without_mark(path, block)
            for text, record, cause in _parse_block(path, offset, block, text_field, keep):
                empty = False
                yield Read(text, cause, record if with_record else _NO_FIELDS)
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
    while left and (chunk := file.read(min(_BLOCK_BYTES, left))):
        left -= len(chunk)
        cut = chunk.rfind(b"\n") + 1 if left else len(chunk)
        if not cut:
            rest.append(chunk)
            continue
        block = b"".join([*rest, chunk[:cut]])
        yield offset, block
        offset += len(block)
        rest = [chunk[cut:]]


def _parse_block(
    path: Path, offset: int, block: bytes, text_field: str, keep: FieldFilter | None
) -> Iterator[tuple[str, Any, str | None]]:
    """Yield texts, records and causes of a block of lines; the line of an error is counted only where there is one."""
    try:
        lines = block.decode().split("\n")
    except UnicodeDecodeError as error:
        index = block.count(b"\n", 0, error.start)
        raw = block.split(b"\n")[index]
        ended = b"\n" if index < block.count(b"\n") else b""
        decode_line(path, _count_lines(path, offset) + index + 1, raw + ended)
        raise AssertionError("a block that is not UTF-8 has a line that is not") from error
    for index, line in enumerate(lines):
        if not line or line.isspace():
            continue
        try:
            record = json.loads(line)
            text = look_up(record, text_field)
            text.encode()
        except (ValueError, RecursionError, AttributeError, TypeError):
            # Damaged records, those without a text, and byte order marks where files were put one behind the other.
            number = _count_lines(path, offset) + index + 1
            ended = "\n" if index + 1 < len(lines) else ""
            record = parse_line(path, number, line.removeprefix("\ufeff") + ended)
            text = text_of(record, text_field, f"{show(path)}, line {number}")
        yield normalise(text), record, None if keep is None else _filter(keep, record, path, offset, index)


def _filter(keep: FieldFilter, record: Mapping[str, Any], path: Path, offset: int, index: int) -> str | None:
    try:
        return keep.cause(record)
    except ValueError:
        keep.cause(record, f"{show(path)}, line {_count_lines(path, offset) + index + 1}")
        raise


def _count_lines(path: Path, end: int) -> int:
    """Count the lines before a place in a file."""
    count = 0
    with path.open("rb", buffering=0) as file:
        while end and (chunk := file.read(min(_BLOCK_BYTES, end))):
            count += chunk.count(b"\n")
            end -= len(chunk)
    return count
