"""Step 2 of a corpus, one task: the held-out documents, those with the smallest keys of every source.

A key is a hash of the text, so the choice depends neither on order nor on shards, caps, or how much text there is of
another source; and all documents of the same text are out of training with the one that was chosen.

    heldout/<source>.jsonl    {"id", "text"}, the text cut at `heldout_document_bytes`
    leaks/texts.jsonl         texts that training must lose: what is scored, and the whole lines that it touches
    leaks/hashes.npy          uint64 (documents, 2): keys of the documents that held-out texts were taken from
    leaks/near/<shard>.npy    with `heldout_near_duplicates`, int64 (rows,), ascending: documents that nearly repeat one of these,
                              themselves among them
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.config.schema import SourceConfig
from workbench.data import counts
from workbench.data.corpus import ready_tokens_step
from workbench.data.corpus.corpus_plan import HELDOUT_BANDS, Corpus
from workbench.data.corpus.document_files import Hashes, hashes_of, read_rows
from workbench.data.corpus.minhash import NO_WORDS, bands
from workbench.data.corpus.shards import Shard
from workbench.data.corpus.words import Words
from workbench.data.heldout import compressed_sizes, excerpt
from workbench.data.overlap import HeldoutRuns

_CANDIDATES = 1000
"""Documents of a source that are looked at first; as many more where these do not suffice, then twice as many."""


@dataclass
class _Choice:
    """What is held out of one source."""

    room: int
    """Bytes that are left."""
    texts: list[dict[str, str]] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)
    bands: list[NDArray[np.uint64]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    is_full: bool = False


def hold_out(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Choose and write held-out documents; the corpus's documents, counts and compressed sizes by source are returned.

    Raises
    ------
    ValueError
        A source has no document, or wants held-out text and has none that could be.
    """
    runs = HeldoutRuns(corpus.data.overlap_lines)
    choices = {name: _choose(corpus, name, config, runs) for name, config in sorted(corpus.data.sources.items())}
    (scratch / "heldout").mkdir(parents=True)
    (scratch / "leaks").mkdir()
    for name, choice in choices.items():
        _write_lines(scratch / "heldout" / f"{name}.jsonl", choice.texts)
    leaks = [text for c in choices.values() for e, t in zip(c.texts, c.touched, strict=True) for text in (e["text"], t)]
    _write_lines(scratch / "leaks" / "texts.jsonl", leaks)
    np.save(scratch / "leaks" / "hashes.npy", hashes_of([key for choice in choices.values() for key in choice.keys]))
    _write_near(corpus, [bands for choice in choices.values() for bands in choice.bands], scratch / "leaks" / "near")
    return {
        "documents": sum(corpus.folder.read_record(f"read/{shard.name}").facts["kept"] for shard in corpus.shards),
        "sources": {name: _describe(choice) for name, choice in choices.items()},
        "sizes": {n: compressed_sizes([t["text"] for t in c.texts]) for n, c in choices.items() if c.texts},
    }


def _write_near(corpus: Corpus, heldout: list[NDArray[np.uint64]], folder: Path) -> None:
    """Write the rows of every shard that share a band with a held-out document, where that is asked for."""
    near = corpus.settings.heldout_near_duplicates
    if near is None:
        return
    folder.mkdir()
    wanted = np.concatenate([np.empty((0, near.bands), np.uint64), *heldout])
    for shard in corpus.shards:
        stored = np.load(corpus.place("read", shard.name, HELDOUT_BANDS), mmap_mode="r")
        alike = np.zeros(len(stored), bool)
        for band in range(near.bands):
            alike |= np.isin(stored[:, band], wanted[:, band]) & (stored[:, band] != NO_WORDS)
        np.save(folder / f"{shard.name}.npy", np.flatnonzero(alike))


def _describe(choice: _Choice) -> dict[str, Any]:
    return {
        "heldout_documents": len(choice.texts),
        "heldout_bytes": sum(len(each["text"].encode()) for each in choice.texts),
        "heldout_passed_over": dict(sorted(choice.passed_over.items())),
    }


def _write_lines(path: Path, values: list[Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def _choose(corpus: Corpus, name: str, source: SourceConfig, runs: HeldoutRuns) -> _Choice:
    """Choose documents of a source in the order of their keys until no other has room."""
    shards = corpus.shards_of(name)
    if source.kind != "tokens":
        _refuse_empty(corpus, name, shards)
    choice = _Choice(source.heldout_bytes)
    choice.is_full = not source.heldout_bytes
    for key, text in ready_tokens_step.read_given(source) if source.heldout_path is not None else ():
        if not choice.is_full:
            _take(choice, runs, key, text, corpus)
    begin, end = 0, _CANDIDATES if source.heldout_path is None else 0
    while not choice.is_full and begin < end:
        smallest = _smallest(corpus, shards, end)
        for key, text in _read(corpus, shards, smallest[begin:]):
            _take(choice, runs, key, text, corpus)
            if choice.is_full:
                break
        begin, end = end, 2 * end if len(smallest) == end else 0
    if source.heldout_bytes and not choice.texts:
        raise ValueError(
            f"source {name!r} has no document that could be held out"
            f"{counts.name_counts(choice.passed_over, ': those looked at are ')}: "
            f"{_advise(corpus, choice)}raise data.sources.{name}.heldout_bytes={source.heldout_bytes}, or go without "
            f"(data.sources.{name}.heldout_bytes=0 evaluation=none)"
        )
    return choice


def _advise(corpus: Corpus, choice: _Choice) -> str:
    few = choice.passed_over[counts.FEW_WORDS]
    return f"lower data.corpus.overlap_min_words={corpus.settings.overlap_min_words}, " if few else ""


def _refuse_empty(corpus: Corpus, name: str, shards: list[Shard]) -> None:
    records = [corpus.folder.read_record(f"read/{shard.name}").facts for shard in shards]
    if not any(facts["kept"] for facts in records):
        dropped = sum((Counter(facts["dropped"]) for facts in records), Counter[str]())
        raise ValueError(
            f"source {name!r} has no training text of data.min_document_bytes={corpus.data.min_document_bytes} bytes "
            f"or more{counts.name_counts(dropped, '; dropped are ')}"
        )


def _smallest(corpus: Corpus, shards: list[Shard], count: int) -> list[tuple[int, int]]:
    """(index of the shard, row) of the `count` smallest hashes of a source, each hash once, in order."""
    best = np.empty((0, 2), np.uint64)
    places = np.empty((0, 2), np.int64)
    for i, shard in enumerate(shards):
        file = ready_tokens_step.KEYS if corpus.source(shard).kind == "tokens" else "hashes.npy"
        hashes: Hashes = np.load(corpus.place("read", shard.name, file))
        rows = np.arange(len(hashes))
        if len(hashes) > 4 * count:
            different = np.unique(hashes[:, 0])  # sorted
            rows = np.flatnonzero(hashes[:, 0] <= different[min(count, len(different)) - 1])
        best = np.concatenate([best, hashes[rows]])
        places = np.concatenate([places, np.stack([np.full(len(rows), i), rows], 1)])
        order = np.lexsort((places[:, 1], places[:, 0], best[:, 1], best[:, 0]))
        best, places = best[order], places[order]
        fresh = np.ones(len(best), bool)
        fresh[1:] = (best[1:] != best[:-1]).any(1)
        best, places = best[fresh][:count], places[fresh][:count]
    return [(int(i), int(row)) for i, row in places]


def _read(corpus: Corpus, shards: list[Shard], places: list[tuple[int, int]]) -> Iterator[tuple[bytes, str]]:
    """Yield keys and texts of rows in the order asked for, a few at a time."""
    for begin in range(0, len(places), 200):
        wanted = places[begin : begin + 200]
        found: dict[tuple[int, int], tuple[bytes, str]] = {}
        for i in sorted({i for i, _ in wanted}):
            rows = [row for j, row in wanted if j == i]
            if corpus.source(shards[i]).kind == "tokens":
                read = ready_tokens_step.read_rows(corpus, shards[i], rows)
            else:
                read = read_rows(corpus.place("read", shards[i].name), rows)
            found |= {(i, row): document for row, document in read.items()}
        yield from (found[place] for place in wanted)


def _take(choice: _Choice, runs: HeldoutRuns, key: bytes, text: str, corpus: Corpus) -> None:
    """Hold a document out, or count why not; the first that has no room ends the choice."""
    name = key.hex()
    chosen, touched = excerpt(text, corpus.data.heldout_document_bytes, int(name[16:32], 16))
    size = len(chosen.encode())
    if size < corpus.data.min_document_bytes:
        choice.passed_over[counts.TOO_SHORT] += 1
    elif len(Words.of([chosen]).hashes) < corpus.settings.overlap_min_words:  # it could not be found in training text
        choice.passed_over[counts.FEW_WORDS] += 1
    elif size > choice.room:
        choice.passed_over[counts.NO_ROOM] += 1
        choice.is_full = True
    elif runs.shares_any(touched):
        choice.passed_over[counts.SHARED_LINES] += 1
    else:
        choice.room -= size
        choice.texts.append({"id": f"{name[:12]}-{len(choice.texts)}", "text": chosen})
        choice.keys.append(key)
        choice.touched.append(touched)
        if corpus.settings.heldout_near_duplicates is not None:
            choice.bands.append(bands(Words.of([text]), corpus.settings.heldout_near_duplicates))
        runs.add(chosen)
        runs.add(touched)
        choice.is_full = choice.room < corpus.data.min_document_bytes
