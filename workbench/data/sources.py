"""Readers: where documents come from, before any split or filter.

A source's texts arrive as items `(key, payload)`. The key is the SHA-256 of the content that the split
and the order go by; the payload is the text itself or, for the `python_*` kinds, the path of a file
that workers turn into texts. To add a kind: name it in `workbench.config.schema.SOURCE_KINDS`, yield
its items in `read_items`, and say in `workbench.data.fingerprint` what identifies it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.config.schema import DataConfig, SourceConfig
from workbench.data import header_texts, python_texts
from workbench.data.counts import Found
from workbench.data.hub import read_hub
from workbench.data.inputs import find_inputs, show
from workbench.data.readers import read_texts


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
        packages = self.configs[0].packages or ()
        listed = header_texts.list_headers(*packages) if self._reads_headers else python_texts.list_files(*packages)
        return (Item(key, path) for key, path in listed)

    @property
    def _reads_headers(self) -> bool:
        return self.configs[0].kind == "python_headers"

    def documents(self, item: Item, wanted: Iterable[str]) -> list[Found]:
        """Every document an item holds for the sources `wanted`, and those that were dropped as they were read.

        Raises
        ------
        ValueError
            A file of this environment is not what its installer recorded.
        """
        if not self.reads_files:
            return [Found(name, normalise(item.payload)) for name in self.names if name in wanted]
        kinds = {
            c.kind.removeprefix("python_"): n for n, c in zip(self.names, self.configs, strict=True) if n in wanted
        }
        found: list[Found] = []

        def drop(kind: str, cause: str) -> None:
            found.append(Found(kinds["headers" if self._reads_headers else kind], "", cause))

        path = Path(item.payload)
        if self._reads_headers:
            text = header_texts.read_header(path, item.key, drop) if kinds else ""
            return [Found(kinds["headers"], normalise(text))] if text else found
        prose, code = python_texts.read_texts(path, "prose" in kinds, "code" in kinds, item.key, drop)
        found += (Found(kinds["prose"], normalise(text)) for text in prose)
        return found + [Found(kinds["code"], normalise(text)) for text in code]


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
    if len({str(c.packages) for c in parsed.values()}) > 1:  # files that are parsed once for both
        parsed = {}
    groups = [Group((n,), (c,)) for n, c in data.sources.items() if n not in parsed]
    return ([Group(tuple(parsed), tuple(parsed.values()))] if parsed else []) + groups


def normalise(text: str) -> str:
    """Text with every line ending (CRLF or CR) as a newline, none at the ends; all else stays as it is."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")


def read_items(source: SourceConfig) -> Iterator[Item]:
    """Yield the documents of a source in their stored order.

    Raises
    ------
    ValueError
        A file is missing, empty or damaged, or a record has no text in `text_field`; file and place are named.
    """
    for text in read_hub(source) if source.kind == "huggingface" else _read_files(source):
        yield Item(hashlib.sha256(text.encode()).hexdigest(), text)


def _read_files(source: SourceConfig) -> Iterator[str]:
    paths = find_inputs(source).paths
    for path in paths:
        for text in read_texts(source.kind, path, source.text_field):
            if len(paths) == 1 and source.kind == "text" and not text.strip():
                raise ValueError(f"{show(path)} is empty")
            yield text
