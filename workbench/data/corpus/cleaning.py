"""What becomes of the documents of a shard once duplicates, benchmark and held-out text are known: the pieces to train on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from workbench.data import counts
from workbench.data.corpus.contamination import NOTHING_LEFT
from workbench.data.corpus.contamination_counts import Tally
from workbench.data.corpus.contamination_step import open_benchmarks
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.document_files import read_batches
from workbench.data.corpus.dropped_rows import known_causes, read_copies
from workbench.data.corpus.heldout_leaks import HeldoutLeaks, LeakSettings
from workbench.data.corpus.leak_meter import LeakMeter
from workbench.data.corpus.shards import Shard


@dataclass
class Cleaned:
    """What a document came to."""

    text: str
    """The whole document."""
    pieces: list[str]
    """What is left to train on: mostly the whole text."""
    cause: str | None = None
    """Why nothing is left (see `workbench.data.counts`); None: something is."""
    cut: dict[str, int] = field(default_factory=dict)
    """Bytes that were cut out, by why (`counts.BENCHMARK_TEXT`, `counts.HELDOUT_TEXT`)."""
    tally: Tally | None = None
    """What was done with it for the benchmark text that it holds; None: it holds none."""

    copies: tuple[int, int] = (0, 0)
    """Exact and near duplicates that were dropped since this one was to stay."""

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the pieces."""
        return _size(self.pieces)


def lost_copies(cleaned: Cleaned, cause: str) -> int:
    """Count the duplicates whose text is lost since the document that was to stay goes in the end.

    Held-out documents are meant to take their copies along. For benchmark or held-out text in it a document goes as its
    exact duplicates would; of its near duplicates this is not known.
    """
    exact, near = cleaned.copies
    if cause == counts.BEYOND_CAP:
        return exact + near
    return near if cause in (counts.BENCHMARK_TEXT, counts.HELDOUT_TEXT) else 0


class Cleaner:
    """Takes out of documents what must not be trained on."""

    def __init__(self, corpus: Corpus) -> None:
        """Read what earlier steps found."""
        self._corpus = corpus
        settings = corpus.settings
        leaks = LeakSettings(corpus.data.overlap_lines, settings.overlap_words, settings.overlap_min_words)
        self._leaks = HeldoutLeaks({"": _read_leaks(corpus)}, leaks)
        self._benchmarks = open_benchmarks(corpus)

    def clean(self, shard: Shard) -> Iterator[list[Cleaned]]:
        """Yield what each document of a shard came to, in batches, in order."""
        causes, copies = known_causes(self._corpus, shard), read_copies(self._corpus, shard)
        for first, texts in read_batches(self._corpus.place("read", shard.name)):
            here = [
                Cleaned(text, [text], causes[first + i], copies=copies.get(first + i, (0, 0)))
                for i, text in enumerate(texts)
            ]
            for each in here:
                if each.cause is not None:
                    each.pieces = []
            self._take_out_benchmarks([each for each in here if each.cause is None])
            self._take_out_heldout([each for each in here if each.cause is None])
            yield here

    def _take_out_benchmarks(self, documents: list[Cleaned]) -> None:
        if self._benchmarks is None:
            return
        index, ignored = self._benchmarks
        for hit in index.find([each.text for each in documents], ignored):
            each = documents[hit.document]
            (pieces,), tally, _ = index.treat([each.text], ignored)
            each.tally = tally
            self._leave(each, pieces, counts.BENCHMARK_TEXT)
            if each.cause is not None and tally.done["cut"]:
                tally.done.clear()
                tally.done[NOTHING_LEFT] = 1

    def _take_out_heldout(self, documents: list[Cleaned]) -> None:
        found, _ = self._leaks.cut([piece for each in documents for piece in each.pieces])
        pieces = iter(found)
        for each in documents:
            self._leave(each, [part for _ in each.pieces for part in next(pieces)], counts.HELDOUT_TEXT)

    def _leave(self, each: Cleaned, pieces: list[str], why: str) -> None:
        """Leave pieces of a document; those of a cut one that are too short for documents go."""
        if pieces == each.pieces:
            return
        before = each.bytes
        each.pieces = [
            piece for piece in pieces if not counts.why_too_short(piece, self._corpus.data.min_document_bytes)
        ]
        each.cut[why] = before - each.bytes
        if not each.pieces:
            each.cause = why


def _size(pieces: list[str]) -> int:
    return sum(len(piece.encode()) for piece in pieces)


def _read_leaks(corpus: Corpus) -> list[str]:
    """Read the texts that training must lose."""
    with corpus.place("leaks", "texts.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def leak_meter(corpus: Corpus) -> LeakMeter:
    """Make what measures how much of the held-out texts is left in training text."""
    found = {}
    for name in sorted(corpus.data.sources):
        with corpus.place("heldout", f"{name}.jsonl").open(encoding="utf-8") as lines:
            found[name] = [json.loads(line)["text"] for line in lines]
    return LeakMeter(found, corpus.settings.overlap_words, corpus.settings.overlap_min_words)
