"""Writes the documents of a shard as tokens, and counts them.

tokens/<source>/<shard>.bin            token ids, little endian, the beginning-of-sequence token before each piece
tokens/<source>/<shard>.offsets.npy    int64 (pieces + 1,): where each piece begins, and where the last one ends
samples/<shard>.tokens.jsonl           samples of what is dropped (see `workbench.data.corpus.removed_samples`)
languages/<shard>.json                 languages of the documents that are kept, where they are counted
left/<shard>.json                      held-out passages that are left in the training text that was looked at
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data import counts
from workbench.data import tokenizer as tokenizers
from workbench.data.corpus.cleaning import Cleaned, leak_meter, lost_copies
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.languages import CountedLanguages, DetectedLanguages, Languages
from workbench.data.corpus.removed_samples import RemovedSamples
from workbench.data.corpus.shard_notes import ContaminationNotes, LeftLeaks, histogram
from workbench.data.corpus.shards import Shard
from workbench.data.corpus.tokenizer_step import read_facts

_ENCODED_CHARACTERS = 1_000_000
"""Text that is encoded in one call."""
_NOT_SHOWN = (counts.HELDOUT_SPLIT, counts.BEYOND_CAP)
"""Causes that say nothing of the text."""


class TokenWriter:
    """Encodes the documents of a shard and counts them."""

    def __init__(self, corpus: Corpus, shard: Shard, scratch: Path, room: int | None) -> None:
        """Begin the files of a shard, which has `room` bytes; None is without bound."""
        folder = scratch / "tokens" / shard.source
        folder.mkdir(parents=True)
        self._path = folder / f"{shard.name}.bin"
        self._file = self._path.open("wb")
        self._shard, self._scratch = shard, scratch
        self._facts, self._dtype = read_facts(corpus)
        self._tokenizer = tokenizers.load_saved(corpus.place("tokenizer"))
        self._room, self._is_full = room, False
        self._texts: list[str] = []
        self._characters = self._tokens = self._bytes = self._pieces = self._kept = 0
        self._offsets: list[Any] = []
        self._left_out: int | None = None
        self._dropped: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._cut: Counter[str] = Counter()
        self._cut_bytes: Counter[str] = Counter()
        self._lengths: Counter[int] = Counter()
        self._samples, self._contamination = RemovedSamples(), ContaminationNotes()
        size = corpus.folder.read_record(f"read/{shard.name}").facts["bytes"]
        self._leaks = LeftLeaks(leak_meter(corpus), size)
        self._languages, self._row = _languages_of(corpus, shard), 0

    def add(self, cleaned: Cleaned) -> None:
        """Take a document, or count why not."""
        row, size = self._row, cleaned.bytes
        self._row += 1
        cause = cleaned.cause or self._why_no_room(size)
        if cleaned.tally is not None and cause != counts.BEYOND_CAP:
            self._contamination.add(cleaned.tally)
        if cause is not None:
            self._dropped[cause] += 1
            self._lost[cause] += lost_copies(cleaned, cause)
            if cause not in _NOT_SHOWN:
                tasks = (
                    " + ".join(sorted(cleaned.tally.passages))
                    if cause == counts.BENCHMARK_TEXT and cleaned.tally
                    else None
                )
                self._samples.add(cause, cleaned.text, self._shard.source, tasks)
            return
        self._kept += 1
        if self._languages is not None:
            self._languages.take(row, cleaned.text)
        self._cut.update(cleaned.cut.keys())
        self._cut_bytes.update(cleaned.cut)
        self._leaks.look(cleaned)
        self._bytes += size
        self._pieces += len(cleaned.pieces)
        self._texts += cleaned.pieces
        self._characters += sum(map(len, cleaned.pieces))
        if self._characters >= _ENCODED_CHARACTERS:
            self._encode()

    def _why_no_room(self, size: int) -> str | None:
        """Never take a later, shorter document: a smaller cap is a prefix of a larger."""
        if not self._is_full and self._room is not None and self._bytes + size > self._room:
            self._is_full, self._left_out = True, size
        return counts.BEYOND_CAP if self._is_full else None

    def leave_out(self, measured: dict[str, Any]) -> None:
        """Count a whole shard as beyond the cap."""
        self._dropped.update(measured["dropped"])
        self._contamination.merge(measured["contamination"])
        if measured["kept"]:
            self._dropped[counts.BEYOND_CAP] += measured["kept"]
        self._lost.update(measured["lost_copies"])
        self._lost[counts.BEYOND_CAP] += measured["copies"]

    def _encode(self) -> None:
        tokens = tokenizers.encode_documents(self._tokenizer, self._texts, self._facts, self._dtype)
        self._offsets.append(np.flatnonzero(tokens == self._facts.bos_id) + self._tokens)
        tokens.tofile(self._file)
        self._tokens += len(tokens)
        self._lengths.update(histogram(len(text.encode()) for text in self._texts))
        self._texts, self._characters = [], 0

    def close(self) -> dict[str, Any]:
        """Write what is left; the counts are returned."""
        self._encode()
        self._file.close()
        offsets = np.concatenate([*self._offsets, [self._tokens]]).astype(np.int64)
        assert len(offsets) == self._pieces + 1
        np.save(self._path.with_suffix(".offsets.npy"), offsets)
        for folder in ("samples", "left"):
            (self._scratch / folder).mkdir()
        self._samples.write(self._scratch / "samples" / f"{self._shard.name}.tokens.jsonl")
        (self._scratch / "left" / f"{self._shard.name}.json").write_text(
            json.dumps(sorted(self._leaks.hits)), encoding="utf-8"
        )
        if self._languages is not None:
            (self._scratch / "languages").mkdir()
            counted = json.dumps(self._languages.facts())
            (self._scratch / "languages" / f"{self._shard.name}.json").write_text(counted, encoding="utf-8")
        lengths = {"bytes": self._lengths, "tokens": histogram(np.diff(offsets))}
        return {
            "tokens": self._tokens,
            "documents": self._pieces,
            "kept": self._kept,
            "bytes": self._bytes,
            "left_out_bytes": self._left_out,
            "dropped": dict(sorted(self._dropped.items())),
            "lost_copies": dict(sorted((+self._lost).items())),
            "cut": dict(sorted(self._cut.items())),
            "cut_bytes": dict(sorted(self._cut_bytes.items())),
            "contamination": self._contamination.facts(),
            "lengths": {unit: {str(k): n for k, n in sorted(found.items())} for unit, found in lengths.items()},
            "metered_bytes": self._leaks.bytes,
        }


def _languages_of(corpus: Corpus, shard: Shard) -> Languages | None:
    """Count a shard's languages by its source's field, or else in a sample; None where neither was asked for."""
    folder = corpus.place("read", shard.name)
    if corpus.source(shard).language is not None:
        return CountedLanguages(folder)
    most = corpus.settings.language_sample
    return None if most is None else DetectedLanguages(folder / "hashes.npy", most)
