"""What becomes of the documents of a shard once duplicates and held-out text are known: the pieces to train on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from workbench.data import counts
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.document_files import read_batches
from workbench.data.corpus.shards import Shard
from workbench.data.overlap import HeldoutRuns

Cut = Callable[[list[str]], list[tuple[list[str], bool]]]
"""Gives, for each text, its pieces without held-out text, and whether there was any."""


class Cleaned(NamedTuple):
    """What a document came to."""

    pieces: list[str]
    """What is left to train on: mostly the whole text."""
    cause: str | None
    """Why nothing is left (see `workbench.data.counts`); None: something is."""
    is_cut: bool
    """Whether held-out text was cut out."""
    bytes: int
    """UTF-8 bytes of the pieces."""


def make_cut(texts: list[str], overlap_lines: int) -> Cut:
    """Make the function that cuts runs of lines of held-out texts out of training documents."""
    runs = HeldoutRuns(overlap_lines)
    for text in texts:
        runs.add(text)

    def cut(documents: list[str]) -> list[tuple[list[str], bool]]:
        return [(pieces, bool(found)) for pieces, found in map(runs.cut, documents)]

    return cut


def read_leaks(corpus: Corpus) -> list[str]:
    """Read the texts that training must lose."""
    with corpus.place("leaks", "texts.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def clean(corpus: Corpus, shard: Shard, cut: Cut) -> Iterator[list[Cleaned]]:
    """Yield what each document of a shard came to, in batches, in order."""
    folder = corpus.place("read", shard.name)
    causes = _known_causes(corpus, shard, folder)
    min_bytes = corpus.data.min_document_bytes
    for first, texts in read_batches(folder):
        here = causes[first : first + len(texts)]
        cuts = iter(cut([text for text, cause in zip(texts, here, strict=True) if cause is None]))
        yield [Cleaned([], cause, False, 0) if cause else _judge(*next(cuts), min_bytes) for cause in here]


def _judge(pieces: list[str], is_cut: bool, min_bytes: int) -> Cleaned:
    kept = [piece for piece in pieces if not counts.why_too_short(piece, min_bytes)] if is_cut else pieces
    size = sum(len(piece.encode()) for piece in kept)
    return Cleaned(kept, None if kept else counts.HELDOUT_TEXT, is_cut, size)


def _known_causes(corpus: Corpus, shard: Shard, folder: Path) -> list[str | None]:
    """By row, why a document is dropped whatever is in it; None where nothing is known against it."""
    hashes = np.load(folder / "hashes.npy")
    causes: list[str | None] = [None] * len(hashes)
    for row in np.load(corpus.place("duplicates", f"{shard.name}.npy")).tolist():
        causes[row] = counts.DUPLICATE
    heldout = np.load(corpus.place("leaks", "hashes.npy"))
    for row in np.flatnonzero(np.isin(hashes[:, 0], heldout[:, 0])).tolist():
        if (heldout == hashes[row]).all(1).any():
            causes[row] = counts.HELDOUT_SPLIT
    return causes
