"""Languages of the documents that a corpus keeps: counted by a field of theirs, or detected in some chosen by hash.

A detector is wrong about short texts, near languages and code; nothing is dropped by it, it says what a corpus is made of.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from workbench.config.schema import DataConfig
from workbench.data.readers import MISSING, kind_of, look_up

DETECTOR = "py3langid"
"""The library that detects languages, whose model is part of it."""
NOT_STATED = "not stated"
"""In the place of a language: the document has no such field."""
_EXTRA = "lm-scaling-workbench[languages]"
_DETECTED_CHARACTERS = 2_000
"""Of a document, the beginning that is looked at."""
_MOST_CHARACTERS = 60
"""Longest name of a language; tags of BCP 47 have 35 at most."""
_MOST_LANGUAGES = 10_000
"""Most languages of one shard; ISO 639-3 has about 8,000."""


def language_of(record: Any, field: str) -> str:
    """Language that a field of a record names, `NOT_STATED` where it is missing or null.

    Raises
    ------
    ValueError
        It is no text, or too long for a name.
    """
    value = look_up(record, field)
    if value is None or value is MISSING:
        return NOT_STATED
    if not isinstance(value, str):
        raise ValueError(f"field {field!r} is {kind_of(value)}, and a language is text: set the source's language")
    if not value.isprintable():  # nor can it be written as UTF-8, where it holds half a character
        raise ValueError(
            f"field {field!r} is {value[:20]!r}, which is no name of a language: set the source's language"
        )
    if len(value) > _MOST_CHARACTERS:
        raise ValueError(
            f"field {field!r} has {len(value):,} characters ({value[:20]!r} ..), which is no name of a language: set the "
            "source's language"
        )
    return value


def detector_version() -> str:
    """Name and version of the library that detects languages.

    Raises
    ------
    ValueError
        It is not installed.
    """
    try:
        return f"{DETECTOR} {version(DETECTOR)}"
    except PackageNotFoundError:
        raise ValueError(
            f"data.corpus.language_sample needs the library {DETECTOR}: `pip install '{_EXTRA}'`, or leave it out"
        ) from None


def refuse_missing_detector(data: DataConfig) -> None:
    """Say before anything is read that languages are to be detected, and cannot be.

    Raises
    ------
    ValueError
        The library is not installed.
    """
    if data.corpus is None or data.corpus.language_sample is None:
        return
    if any(source.kind != "tokens" and source.language is None for source in data.sources.values()):
        detector_version()


@lru_cache(maxsize=1)
def _identifier() -> Any:
    """Load the detector, whose model takes half a second."""
    return import_module(DETECTOR)


def detect(text: str) -> str:
    """Code of the language that the beginning of a text is most probably in; `zxx` is none."""
    return str(_identifier().classify(text[:_DETECTED_CHARACTERS])[0])


class StatedLanguages:
    """The languages of a shard's documents as it is read, a number for each."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._rows: list[int] = []

    def add(self, languages: Iterable[str]) -> None:
        """Note those of some documents.

        Raises
        ------
        ValueError
            There are more than there can be.
        """
        for name in languages:
            self._rows.append(self._numbers.setdefault(name, len(self._numbers)))
        if len(self._numbers) > _MOST_LANGUAGES:
            raise ValueError(
                f"the source's language has more than {_MOST_LANGUAGES:,} different values in one shard, such as "
                f"{next(reversed(self._numbers))!r}: it names no language; set another field, or leave it out"
            )

    def write(self, folder: Path) -> None:
        """Write `languages.npy`, int32 (documents,), and `languages.json`, the names by number."""
        np.save(folder / "languages.npy", np.array(self._rows, np.int32))
        (folder / "languages.json").write_text(json.dumps(list(self._numbers)), encoding="utf-8")


class Languages(Protocol):
    """What is counted of the documents of a shard that are kept."""

    def take(self, row: int, text: str) -> None:
        """Take the document of a row."""

    def facts(self) -> dict[str, Any]:
        """As JSON: what `add_up` takes."""
        ...


class CountedLanguages:
    """Documents by the language that their field names."""

    def __init__(self, folder: Path) -> None:
        """Read what `StatedLanguages` wrote."""
        self._rows = np.load(folder / "languages.npy", mmap_mode="r")
        self._names: list[str] = json.loads((folder / "languages.json").read_text(encoding="utf-8"))
        self._kept: list[int] = []

    def take(self, row: int, text: str) -> None:
        """Take the document of a row."""
        self._kept.append(row)

    def facts(self) -> dict[str, Any]:
        """Give the `counts` by language."""
        numbers = np.bincount(self._rows[self._kept], minlength=len(self._names)).tolist()
        return {"counts": {name: count for name, count in zip(self._names, numbers, strict=True) if count}}


class DetectedLanguages:
    """The documents with the smallest hashes, whose languages are detected: a sample that no order and no shard changes."""

    def __init__(self, hashes: Path, most: int) -> None:
        """Choose at most so many by the second number of their hashes; held-out documents are chosen by the first."""
        self._hashes = np.load(hashes, mmap_mode="r")[:, 1]
        self._most = most
        self._kept: list[tuple[int, str]] = []
        """(hash below 0, text), largest hash first."""

    def take(self, row: int, text: str) -> None:
        """Take the document of a row."""
        entry = -int(self._hashes[row]), text[:_DETECTED_CHARACTERS]
        if len(self._kept) < self._most:
            heapq.heappush(self._kept, entry)
        elif entry > self._kept[0]:
            heapq.heapreplace(self._kept, entry)

    def facts(self) -> dict[str, Any]:
        """Give the `sample`, hashes with languages, and the `detector`."""
        sample = sorted((-hash_, detect(text)) for hash_, text in self._kept)
        return {"sample": sample, "detector": detector_version()}


def add_up(shards: Iterable[Mapping[str, Any]], most: int | None) -> dict[str, Any]:
    """Put together what shards of a source counted.

    Parameters
    ----------
    shards
        `facts` of each.
    most
        Documents of the sample.

    Returns
    -------
    dict
        `counts` by language; of a sample also its `detector`.
    """
    counts: Counter[str] = Counter()
    sample: list[tuple[int, str]] = []
    detectors: set[str] = set()
    for facts in shards:
        counts.update(facts.get("counts", {}))
        detectors |= {facts["detector"]} if "detector" in facts else set()
        sample = heapq.nsmallest(most or 0, [*sample, *map(tuple, facts.get("sample", []))])
    counts.update(language for _, language in sample)
    found: dict[str, Any] = {"counts": dict(sorted(counts.items()))}
    return found | ({"detector": " and ".join(sorted(detectors))} if detectors else {})
