"""Files as public bug reports describe them, and the source that reads one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import zstandard

from workbench.config.schema import DataConfig, SourceConfig

Make = Callable[[Path], Path | str | tuple[Path | str, str]]
"""Writes files into a folder and gives the source's path, or that and its `text_field`."""


TEXTS = ["first document\nwith two lines", "second: naïve 東京 🙂", "third one"]


SKIPPABLE = bytes.fromhex("502a4d1805000000") + b"hello"


def jsonl(*texts: str, end: bytes = b"\n") -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + end for text in texts)


def utf8_jsonl(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def zst(data: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def file(name: str, content: bytes) -> Make:
    """One file that is the source's path."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def folder(**files: bytes) -> Make:
    """A folder that is the source's path; `__` in a name is a dot."""

    def make(place: Path) -> Path:
        for name, content in files.items():
            path = place / name.replace("__", ".").replace("_in_", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        return place

    return make


def table(columns: dict[str, object], field: str = "text", cut: int | None = None, **options: object) -> Make:
    """A parquet file, or its first bytes."""

    def make(place: Path) -> tuple[Path, str]:
        path = place / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
        path.write_bytes(path.read_bytes()[:cut])
        return path, field

    return make


def in_field(field: str, make: Make) -> Make:
    return lambda place: (make(place), field)  # type: ignore[return-value]


def at(pattern: str, make: Make) -> Make:
    """Files of `make`, reached by a path relative to their folder."""

    def made(place: Path) -> str:
        make(place)
        return f"{place}/{pattern}"

    return made


def damaged_page(place: Path) -> Path:
    path = place / "a.parquet"
    texts = [f"{i:03} a text that is not like the others" for i in range(100)]
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts}), path, compression="zstd", use_dictionary=False, write_page_checksum=True
    )
    raw = bytearray(path.read_bytes())
    raw[40:300] = bytes(260)
    path.write_bytes(raw)
    return path


def flipped_bit(place: Path) -> Path:
    """A page that can be read as it is: its checksum alone tells."""
    path = place / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"text": TEXTS}), path, compression="none", use_dictionary=False, write_page_checksum=True
    )
    path.write_bytes(path.read_bytes().replace(b"second:", b"sfcond:"))
    return path


def bad_utf8_column(place: Path) -> Path:
    offsets, values = pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pyarrow.py_buffer(b"ok\xff\xfe")
    column = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, offsets, values])
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), place / "a.parquet")
    return place / "a.parquet"


def linked_folder(place: Path) -> Path:
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "a.jsonl").write_bytes(jsonl(*TEXTS))
    (place / "data").mkdir()
    (place / "data" / "link").symlink_to(place / "elsewhere")
    (place / "elsewhere" / "back").symlink_to(place / "data")
    return place / "data"


ZST = zst(jsonl(*TEXTS))


STRUCT = pyarrow.array([{"text": t, "url": "u"} for t in TEXTS])


def source_of(kind: str, make: Make, place: Path) -> SourceConfig:
    place.mkdir()
    made = make(place)
    path, field = made if isinstance(made, tuple) else (made, "text")
    return SourceConfig(kind, path=str(path), text_field=field, heldout_bytes=0)


def one_source(source: SourceConfig) -> DataConfig:
    return DataConfig("odd", {"odd": source}, heldout_percent=1e-4, min_document_bytes=1)
