"""Readers: where documents come from, before any split or filter.

A source's texts arrive as items `(key, payload)`. The key is the SHA-256 of the content that the split
and the order go by; the payload is the text itself or, for the `python_*` kinds, the path of a file
that workers turn into texts. To add a kind: name it in `workbench.config.schema.SOURCE_KINDS`, yield
its items in `read_items`, and say in `workbench.data.fingerprint` what identifies it.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from workbench.config.schema import DataConfig, SourceConfig
from workbench.data import header_texts, python_texts

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".tex", ".py", ".html")


@dataclass(frozen=True)
class Item:
    """One document, or one file that documents are made of."""

    key: str
    """SHA-256 of the content, hexadecimal."""
    payload: str
    """The text, or the path of the file."""


@dataclass(frozen=True)
class Group:
    """Sources that are read together: prose and code of Python's files are parsed once for both."""

    names: tuple[str, ...]
    """Names of the sources."""
    configs: tuple[SourceConfig, ...]
    """Their configs."""

    @property
    def reads_files(self) -> bool:
        """Whether payloads are paths of this environment's own files."""
        return self.configs[0].kind.startswith("python_")

    def items(self) -> Iterator[Item]:
        """Yield the group's items, in an order that does not depend on any cap."""
        if not self.reads_files:
            return read_items(self.configs[0])
        listed = header_texts.list_headers() if self._reads_headers else python_texts.list_files()
        return (Item(key, path) for key, path in listed)

    @property
    def _reads_headers(self) -> bool:
        return self.configs[0].kind == "python_headers"

    def documents(self, item: Item, wanted: Iterable[str]) -> list[tuple[str, str]]:
        """(source, text) of every document an item holds for the sources `wanted`."""
        if not self.reads_files:
            return [(name, normalise(item.payload)) for name in self.names if name in wanted]
        if self._reads_headers:
            text = header_texts.read_header(Path(item.payload))
            return [(name, normalise(text)) for name in self.names if text and name in wanted]
        kinds = {c.kind: n for n, c in zip(self.names, self.configs, strict=True) if n in wanted}
        prose, code = python_texts.read_texts(Path(item.payload), "python_prose" in kinds, "python_code" in kinds)
        found = [(kinds["python_prose"], text) for text in prose] if "python_prose" in kinds else []
        return [(n, normalise(t)) for n, t in [*found, *((kinds["python_code"], text) for text in code)]]


def group_sources(data: DataConfig) -> list[Group]:
    """Group sources by how they are read.

    Raises
    ------
    ValueError
        Two sources are of the same `python_*` kind: they would be the same texts.
    """
    python = {n: c for n, c in data.sources.items() if c.kind.startswith("python_")}
    kinds = [c.kind for c in python.values()]
    repeated = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if repeated:
        raise ValueError(f"data.sources {', '.join(python)} are of the same kind {repeated!r}: keep one")
    parsed = {n: c for n, c in python.items() if c.kind != "python_headers"}
    groups = [Group((n,), (c,)) for n, c in data.sources.items() if n not in parsed]
    return ([Group(tuple(parsed), tuple(parsed.values()))] if parsed else []) + groups


def normalise(text: str) -> str:
    """Text with every line ending as a newline, none at the ends."""
    return "\n".join(text.splitlines()).strip("\n")


def list_paths(source: SourceConfig) -> list[Path]:
    """Files that a source's `path` (file, folder or glob) stands for, sorted.

    Raises
    ------
    ValueError
        There are none.
    """
    suffixes = {"jsonl": (".jsonl", ".jsonl.zst"), "parquet": (".parquet",), "text": TEXT_SUFFIXES}[source.kind]
    path = Path(source.path).expanduser()
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.is_file() and p.name.endswith(suffixes)]
    else:
        found = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]  # noqa: PTH207 (absolute globs)
    if not found:
        raise ValueError(f"data source path={source.path!r}: no {' or '.join(suffixes)} file there")
    return sorted(found)


def read_items(source: SourceConfig) -> Iterator[Item]:
    """Yield the documents of a source in their stored order.

    Raises
    ------
    ValueError
        A file is missing or damaged, or a record lacks `text_field`.
    """
    if source.kind == "huggingface":
        texts = _read_huggingface(source)
    else:
        reader = {"jsonl": _read_jsonl, "parquet": _read_parquet, "text": _read_text}[source.kind]
        texts = (text for path in list_paths(source) for text in reader(path, source.text_field))
    for text in texts:
        yield Item(hashlib.sha256(text.encode()).hexdigest(), text)


def _text_of(record: Any, text_field: str, where: str) -> str:
    value = record.get(text_field) if isinstance(record, dict) else None
    if not isinstance(value, str):
        fields = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{where}: no text in field {text_field!r} (there: {fields}); set the source's text_field")
    return value


def _read_jsonl(path: Path, text_field: str) -> Iterator[str]:
    number = 0
    try:
        with path.open("rb") as raw, io.TextIOWrapper(_decompress(path, raw), encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _text_of(json.loads(line), text_field, f"{path}, line {number}")
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}, line {number}: {error}") from error
    except Exception as error:
        if type(error).__module__.startswith("zstandard"):
            raise ValueError(f"{path}, after line {number}: {error}") from error
        raise


def _decompress(path: Path, raw: BinaryIO) -> Any:
    if not path.name.endswith(".zst"):
        return raw
    import zstandard

    return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)


def _read_parquet(path: Path, text_field: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: {error}") from error
    with file:
        if text_field not in file.schema_arrow.names:
            _text_of(dict.fromkeys(file.schema_arrow.names), text_field, str(path))
        for batch in file.iter_batches(batch_size=1000, columns=[text_field]):
            for value in batch.column(0).to_pylist():
                yield _text_of({text_field: value}, text_field, str(path))


def _read_text(path: Path, text_field: str) -> Iterator[str]:
    try:
        yield path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error


def _read_huggingface(source: SourceConfig) -> Iterator[str]:
    import datasets

    rows = datasets.load_dataset(
        source.path, source.subset, split=source.split, revision=source.revision, streaming=True
    )
    for number, record in enumerate(rows):
        yield _text_of(record, source.text_field, f"{source.path}, record {number}")
