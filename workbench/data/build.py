"""Builds a token store in an empty directory: read, split, filter, train the tokenizer, encode, measure.

One pass over the inputs: worker processes parse and filter chunks of files in a fixed order; the
first accepted texts train the tokenizer; from then on accepted texts go back to the workers in
batches, come out as token ids, and are appended in order. Nothing depends on timing or on the
number of workers.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from workbench.config.schema import DataConfig, TokenizerConfig
from workbench.data import counts
from workbench.data import tokenizer as tokenizers
from workbench.data.carried_tokens import write_named
from workbench.data.heldout import Heldout, collect_heldout, compressed_sizes
from workbench.data.inputs import count_skipped
from workbench.data.intake import Intake
from workbench.data.overlap import OverlapMeter
from workbench.data.sources import Group, Item, group_sources
from workbench.data.special_tokens import choose, own_template
from workbench.data.workers import Pool, Reading, Work

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how much of it is done, and how much there is (None: unknown)."""

_FILES_A_CHUNK = 32
_TEXT_A_CHUNK = 500_000


class _Writer:
    """Sends texts to be encoded in batches and appends what comes back, in order."""

    def __init__(self, pool: Pool, directory: Path, names: Iterable[str]) -> None:
        self._pool, self._directory = pool, directory
        self._files: dict[str, BinaryIO] = {name: token_file(directory, name).open("wb") for name in names}
        self._batches: dict[str, list[str]] = {name: [] for name in names}
        self._sizes = dict.fromkeys(names, 0)
        self._ahead: deque[tuple[str, Future[Any]]] = deque()
        self._encoding: tuple[Any, ...] | None = None
        self.hits: set[str] = set()

    def set_tokenizer(self, directory: Path, facts: tokenizers.TokenizerFacts, dtype: str) -> None:
        """From now on batches can be encoded."""
        self._encoding = (directory, facts, dtype)

    def add(self, source: str, text: str) -> None:
        """Queue a document."""
        self._batches[source].append(text)
        self._sizes[source] += len(text)
        if self._encoding and self._sizes[source] >= _TEXT_A_CHUNK:
            self._send(source)

    def _send(self, source: str) -> None:
        assert self._encoding is not None
        texts, self._batches[source], self._sizes[source] = self._batches[source], [], 0
        while texts:  # what waited for the tokenizer is many batches
            size = list(itertools.accumulate(map(len, texts)))
            count = next((i for i, s in enumerate(size, 1) if s >= _TEXT_A_CHUNK), len(texts))
            self._ahead.append((source, self._pool.submit("encode", texts[:count], *self._encoding)))
            texts = texts[count:]
            while len(self._ahead) > 4 * self._pool.workers:
                self._receive()

    def _receive(self) -> None:
        source, future = self._ahead.popleft()
        tokens, hits = future.result()
        self._files[source].write(tokens)
        self.hits |= hits

    def finish(self) -> None:
        """Encode and write all that is queued."""
        for source, texts in self._batches.items():
            if texts:
                self._send(source)
        while self._ahead:
            self._receive()

    def close(self) -> None:
        """Flush files to the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()


def token_file(directory: Path, source: str) -> Path:
    """Path of a source's token ids."""
    return directory / f"tokens_{source}.bin"


def heldout_file(directory: Path, source: str) -> Path:
    """Path of a source's held-out documents."""
    return directory / "heldout" / f"{source}.jsonl"


def build(data: DataConfig, tokenizer: TokenizerConfig, directory: Path, workers: int, progress: Progress) -> dict:
    """Write token files, tokenizer and held-out documents into `directory`; the manifest's facts are returned.

    Raises
    ------
    ValueError
        An input is missing or unreadable, a source has no text left, or its cap no room for its first document.
    """
    groups = group_sources(data)
    progress("choosing held-out documents", 0, None)
    heldout = collect_heldout(data, groups)
    _write_heldout(heldout, directory)
    meter = OverlapMeter(heldout.texts(), data.overlap_lines)
    work = Work(groups, heldout, meter, data.min_document_bytes, data.heldout_percent)
    quota = tokenizer.train_bytes // len(data.sources) if tokenizer.kind == "bpe" else 0
    intakes = {name: Intake(name, source.max_bytes, quota) for name, source in data.sources.items()}
    pool = Pool(work, workers)
    writer = _Writer(pool, directory, data.sources)
    try:
        facts, dtype, before = _run(data, tokenizer, directory, pool, writer, intakes, progress)
    finally:
        pool.close()
        writer.close()
    _refuse_empty(data, intakes.values())
    return _facts(data, directory, heldout, meter, intakes, facts, dtype, before, writer.hits)


def _refuse_empty(data: DataConfig, intakes: Iterable[Intake]) -> None:
    for intake in intakes:
        if not intake.stored:
            raise ValueError(
                f"source {intake.name!r} has no training text of data.min_document_bytes={data.min_document_bytes} bytes "
                f"or more{counts.name_counts(intake.dropped, '; dropped are ')}"
            )


def _run(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    directory: Path,
    pool: Pool,
    writer: _Writer,
    intakes: dict[str, Intake],
    progress: Progress,
) -> tuple[tokenizers.TokenizerFacts, str, set[str]]:
    """Read until the tokenizer can be trained, train it, then read on to the caps."""
    before: set[str] = set()
    seen: set[int] = set()
    caps = [source.max_bytes for source in data.sources.values()]
    total = None if None in caps else sum(c for c in caps if c)

    def take(readings: list[Reading]) -> None:
        for reading in readings:
            intake = intakes[reading.source]
            if not intake.store_full:
                before.update(reading.runs)
            for piece in intake.take(reading, seen):
                writer.add(reading.source, piece)
        progress("reading and encoding", sum(i.stored_bytes for i in intakes.values()), total)

    readers = [_read_group(g, group, pool, intakes) for g, group in enumerate(group_sources(data))]
    for group, reader in zip(group_sources(data), readers, strict=True):
        while not all(intakes[name].sample_full for name in group.names):
            result = next(reader, None)
            if result is None:
                _refuse_empty(data, (intakes[name] for name in group.names))
                break
            take(result)
    progress("training the tokenizer", 0, None)
    trained = tokenizers.make_tokenizer(tokenizer, (text for i in intakes.values() for text in i.sample))
    facts = tokenizers.save(trained, directory / "tokenizer", choose(tokenizer), own_template(tokenizer))
    if tokenizer.kind == "file":
        write_named(Path(str(tokenizer.path)).expanduser(), directory / "tokenizer")
    dtype = "<u2" if facts.vocab_size <= 65536 else "<u4"
    writer.set_tokenizer(directory / "tokenizer", facts, dtype)
    for reader in readers:
        for result in reader:
            take(result)
    writer.finish()
    return facts, dtype, before


def _read_group(index: int, group: Group, pool: Pool, intakes: dict[str, Intake]) -> Iterator[list[Reading]]:
    """Yield results of `Work.read` over a group's items until its sources are full.

    Workers read ahead. An item that cannot be read is an error only where the items before it do not fill the sources,
    whatever the number of workers.
    """
    failure: ValueError | None = None

    def calls() -> Iterator[tuple[int, list[Item], tuple[str, ...]]]:
        nonlocal failure
        try:
            for chunk in _chunks(group):
                wanted = tuple(name for name in group.names if not intakes[name].full)
                if not wanted:
                    return
                yield index, chunk, wanted
        except ValueError as error:
            failure = error

    yield from pool.results("read", calls())
    if failure is not None and not all(intakes[name].full for name in group.names):
        raise failure


def _chunks(group: Group) -> Iterator[list[Item]]:
    """Yield a group's items, as many at a time as are worth a call of a worker."""
    chunk: list[Item] = []
    size = 0
    for item in group.items():
        chunk.append(item)
        size += _TEXT_A_CHUNK // _FILES_A_CHUNK if group.reads_files else len(item.payload)
        if size >= _TEXT_A_CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _write_heldout(heldout: Heldout, directory: Path) -> None:
    for name, documents in heldout.documents.items():
        path = heldout_file(directory, name)
        path.parent.mkdir(exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for document in documents:
                file.write(json.dumps({"id": document.id, "text": document.text}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _facts(
    data: DataConfig,
    directory: Path,
    heldout: Heldout,
    meter: OverlapMeter,
    intakes: dict[str, Intake],
    facts: tokenizers.TokenizerFacts,
    dtype: str,
    before: set[str],
    left: set[str],
) -> dict[str, Any]:
    """Facts of the store for its manifest."""
    sources = {}
    for name, intake in intakes.items():
        tokens = token_file(directory, name).stat().st_size // np.dtype(dtype).itemsize
        sources[name] = {
            "tokens": tokens,
            **intake.facts(),
            "heldout_documents": len(heldout.documents[name]),
            "heldout_bytes": sum(len(d.text.encode()) for d in heldout.documents[name]),
            "heldout_passed_over": dict(sorted(heldout.passed_over[name].items())),
            "skipped_files": count_skipped(data.sources[name]),
        }
    return {
        "tokenizer": {
            "vocab_size": facts.vocab_size,
            "bos_id": facts.bos_id,
            "eos_id": facts.eos_id,
            "special": asdict(facts.special),
        },
        "dtype": dtype,
        "sources": sources,
        "overlap_before": meter.report(before),
        "overlap_left": meter.report(left),
        "heldout_sizes": {name: compressed_sizes(texts) for name, texts in heldout.texts().items() if texts},
    }
