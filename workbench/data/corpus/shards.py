"""The plan of a corpus: which part of which file belongs to which shard, a function of the inputs and the shards' size.

Shards are numbered over all sources, which come in the order of their names; a source's files come in the order in
which they are found. Rows of documents are ordered by (shard, row), and `max_bytes` is a prefix of this order. Of equal documents the
first one stays, sources without `max_bytes` before the others.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.config.schema import DataConfig, SourceConfig
from workbench.data import header_texts, python_texts
from workbench.data.corpus.token_files import TokenFile, describe_source_files
from workbench.data.hub_listing import kept_hub_files
from workbench.data.inputs import PACKED_SUFFIXES, find_inputs, show
from workbench.data.object_store import without_query
from workbench.data.readers import open_parquet
from workbench.data.remote_inputs import list_remote, remote_kind

_WHOLE_SUFFIXES = (*PACKED_SUFFIXES, ".json")
"""Endings of files of records that cannot be cut at any line."""
_HUB_BYTES = 0
"""Input of a data set of the hub: not known before it is read."""


@dataclass(frozen=True)
class Part:
    """A part of one input."""

    path: str
    """Absolute path of a file, its name in a data set of the hub, or its URL; empty for the lists of files and data sets
    that a kind has by itself."""
    begin: int
    """First byte (`jsonl`), row group (`parquet`), token (`tokens`), or position in the list of files (`python_*`). Of a
    parquet file that is not here, whose row groups are not known, a byte, too: the part has the groups that begin in it."""
    end: int
    """Behind the last one."""
    bytes: int
    """Input in it, as it lies on disk."""
    file_bytes: int
    """Size that the whole file had when it was planned."""
    files: str = ""
    """Of a `python_*` kind, `digest_own_files` as it was when it was planned: positions mean nothing in another list."""
    content: str = ""
    """Of a file that is not here, the hash or version that it was listed with (`workbench.data.remote_files.RemoteFile`)."""


@dataclass(frozen=True)
class Shard:
    """A unit of work."""

    number: int
    """Position among all shards."""
    source: str
    """Name of the source."""
    parts: tuple[Part, ...]
    """What is read, in order."""

    @property
    def bytes(self) -> int:
        """Input in it, as it lies on disk."""
        return sum(part.bytes for part in self.parts)

    @property
    def name(self) -> str:
        """Six digits, or more."""
        return f"{self.number:06d}"


def plan_shards(data: DataConfig, *, ask_hub: bool = True) -> list[Shard]:
    """Cut a corpus into shards.

    Parameters
    ----------
    data
        What to cut.
    ask_hub
        Whether to ask the hub for the files of a data set; otherwise one whose list was not kept is one shard of no size.

    Raises
    ------
    ValueError
        An input is missing, or a parquet file is none.
    """
    assert data.corpus is not None
    shards: list[Shard] = []
    for name in sorted(data.sources):
        _refuse_file_twice(name, data.sources[name], data.corpus.exact_duplicates)
        most = data.corpus.shard_bytes
        groups = _group(_parts(data.sources[name], most, ask_hub), most)
        shards += [Shard(len(shards) + i, name, tuple(parts)) for i, parts in enumerate(groups)]
    return shards


def _refuse_file_twice(name: str, source: SourceConfig, drops_duplicates: bool) -> None:
    """Refuse a source that reads one file by two names, where its text would count twice."""
    if (
        source.kind.startswith("python_")
        or source.kind == "huggingface"
        or source.is_remote
        or (drops_duplicates and source.kind != "tokens")
    ):
        return
    seen: dict[tuple[int, int], Path] = {}
    for path in find_inputs(source).paths:
        stat = path.stat()
        first = seen.setdefault((stat.st_dev, stat.st_ino), path)
        if first is not path:
            raise ValueError(
                f"source {name!r}: {show(path)} is the same file as {show(first)}, by a link, and would count twice: leave one out"
                + ("" if source.kind == "tokens" else ", or set data.corpus.exact_duplicates=true")
            )


def _group(parts: Iterable[Part], most: int) -> Iterator[list[Part]]:
    """Put neighbours together while they have at most `most` bytes."""
    group: list[Part] = []
    size = 0
    for part in parts:
        if group and size + part.bytes > most:
            yield group
            group, size = [], 0
        group.append(part)
        size += part.bytes
    if group:
        yield group


def _parts(source: SourceConfig, most: int, ask_hub: bool) -> Iterator[Part]:
    if source.is_remote and (ask_hub or source.files is None or kept_hub_files(source)):
        yield from _of_remote_files(source, most)
    elif source.kind == "huggingface":
        yield Part("", 0, 0, _HUB_BYTES, _HUB_BYTES)
    elif source.kind.startswith("python_"):
        yield from _of_own_files(source, most)
    elif source.kind == "tokens":
        for facts in describe_source_files(source):
            yield from _of_token_file(facts, most)
    else:
        for path in find_inputs(source).paths:
            yield from _of_file(source.kind, path.absolute(), most)


def _of_own_files(source: SourceConfig, most: int) -> Iterator[Part]:
    """Cut the list of this environment's files."""
    begin = size = 0
    files = list_own_files(source)
    digest = digest_own_files(files)
    for i, (_, path) in enumerate(files):
        bytes_here = Path(path).stat().st_size
        if size and size + bytes_here > most:
            yield Part("", begin, i, size, 0, digest)
            begin, size = i, 0
        size += bytes_here
    yield Part("", begin, len(files), size, 0, digest)


def list_own_files(source: SourceConfig) -> list[tuple[str, str]]:
    """(SHA-256, path) of the files that a source of a `python_*` kind reads, in its order."""
    packages = source.packages or ()
    return (
        header_texts.list_headers(*packages) if source.kind == "python_headers" else python_texts.list_files(*packages)
    )


def digest_own_files(files: list[tuple[str, str]]) -> str:
    """16 hexadecimal digits of the contents and endings in a list of `list_own_files`, wherever the files lie."""
    names = (f"{key} {Path(path).suffix}\n" for key, path in files)
    return hashlib.sha256("".join(names).encode()).hexdigest()[:16]


def list_planned_files(source: SourceConfig, part: Part) -> list[tuple[str, str]]:
    """(SHA-256, path) of the files of a part of a source of a `python_*` kind.

    Raises
    ------
    ValueError
        Other packages or another Python are installed here than where it was planned.
    """
    files = list_own_files(source)
    if digest_own_files(files) != part.files:
        raise ValueError(
            f"the packages that a source of kind {source.kind!r} reads on host {socket.gethostname()} are not those that it was "
            "planned with: start the command where they are installed as they were"
        )
    return files[part.begin : part.end]


def _of_remote_files(source: SourceConfig, most: int) -> Iterator[Part]:
    """Cut files that are not here by bytes, where their format can be read from a place on."""
    for name, size, content in list_remote(source):
        kind = remote_kind(source, name)
        cut = kind == "parquet" or (kind == "jsonl" and not without_query(name).lower().endswith(_WHOLE_SUFFIXES))
        step = most if cut else max(size, 1)
        for begin in range(0, max(size, 1), step):
            end = min(begin + step, size)
            yield Part(name, begin, end, end - begin, size, content=content)


def _of_file(kind: str, path: Path, most: int) -> Iterator[Part]:
    size = path.stat().st_size
    if kind == "parquet":
        yield from _of_row_groups(path, size, most)
    elif kind == "jsonl" and not path.name.lower().endswith(_WHOLE_SUFFIXES):
        for begin in range(0, max(size, 1), most):
            end = min(begin + most, size)
            yield Part(str(path), begin, end, end - begin, size)
    else:
        yield Part(str(path), 0, size, size, size)


def _of_token_file(facts: TokenFile, most: int) -> Iterator[Part]:
    """Cut a token file into parts, each of which has the documents that begin in it."""
    path, width = facts.path.absolute(), np.dtype(facts.dtype).itemsize
    size, step = path.stat().st_size, max(most // width, 1)
    for begin in range(0, facts.tokens, step):
        end = min(begin + step, facts.tokens)
        yield Part(str(path), begin, end, (end - begin) * width, size)


def _of_row_groups(path: Path, size: int, most: int) -> Iterator[Part]:
    """Cut a parquet file between row groups, whose share of its bytes is taken as that of their packed columns."""
    with open_parquet(path) as file:
        sizes = [_packed_bytes(file.metadata.row_group(i)) for i in range(file.num_row_groups)]
        rows = file.metadata.num_rows
    if not rows:
        raise ValueError(f"{show(path)} is empty: it has no row")
    begin = here = 0
    for i, packed in enumerate(sizes):
        if here and here + packed > most:
            yield Part(str(path), begin, i, here, size)
            begin, here = i, 0
        here += packed
    yield Part(str(path), begin, len(sizes), here, size)


def _packed_bytes(group: Any) -> int:
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))
