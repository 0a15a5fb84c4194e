"""Steps 5 and 6 of a corpus, a task a shard: how much of each shard a cap leaves room for, and the tokens.

tokens/<source>/<shard>.bin            token ids, little endian, the beginning-of-sequence token before each piece
tokens/<source>/<shard>.offsets.npy    int64 (pieces + 1,): where each piece begins, and where the last one ends
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data import counts
from workbench.data import tokenizer as tokenizers
from workbench.data.corpus import ready_tokens_step
from workbench.data.corpus.cleaning import Cleaned, Cut, clean, make_cut, read_leaks
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.shards import Shard
from workbench.data.corpus.tokenizer_step import read_facts

_ENCODED_CHARACTERS = 1_000_000
"""Text that is encoded in one call."""


def measure(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Count what a shard of a source with a cap would give without it."""
    kept = size = 0
    dropped: Counter[str] = Counter()
    for batch in clean(corpus, corpus.by_name[name], _make_cut(corpus)):
        kept += sum(cleaned.cause is None for cleaned in batch)
        size += sum(cleaned.bytes for cleaned in batch)
        dropped.update(cleaned.cause for cleaned in batch if cleaned.cause is not None)
    return {"kept": kept, "bytes": size, "dropped": dict(sorted(dropped.items()))}


def divide(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Bytes that its source's cap leaves for each shard; None behind the shard in which the cap ends."""
    rooms: dict[str, int | None] = {}
    for source, config in corpus.data.sources.items():
        left = config.max_bytes
        if left is None:
            continue
        for shard in corpus.shards_of(source):
            rooms[shard.name] = left if left >= 0 else None
            left -= corpus.folder.read_record(f"room/{shard.name}").facts["bytes"]
    return {"rooms": rooms}


def write(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Write the tokens of a shard; its counts are returned."""
    shard = corpus.by_name[name]
    if corpus.source(shard).kind == "tokens":
        return ready_tokens_step.write(corpus, name, scratch)
    rooms = corpus.folder.read_record("caps/all").facts["rooms"]
    writer = _Writer(corpus, shard, scratch, rooms.get(name))
    if name in rooms and rooms[name] is None:
        writer.leave_out(corpus.folder.read_record(f"room/{name}").facts)
        return writer.close()
    for batch in clean(corpus, shard, _make_cut(corpus)):
        for cleaned in batch:
            writer.add(cleaned)
    return writer.close()


def _make_cut(corpus: Corpus) -> Cut:
    return make_cut(read_leaks(corpus), corpus.data.overlap_lines)


class _Writer:
    """Encodes the documents of a shard and counts them."""

    def __init__(self, corpus: Corpus, shard: Shard, scratch: Path, room: int | None) -> None:
        """Begin the files of a shard, which has `room` bytes; None is without bound."""
        folder = scratch / "tokens" / shard.source
        folder.mkdir(parents=True)
        self._path = folder / f"{shard.name}.bin"
        self._offsets_path = folder / f"{shard.name}.offsets.npy"
        self._file = self._path.open("wb")
        self._facts, self._dtype = read_facts(corpus)
        self._tokenizer = tokenizers.load_saved(corpus.place("tokenizer"))
        self._room, self._is_full = room, False
        self._texts: list[str] = []
        self._characters = self._tokens = self._bytes = self._pieces = self._kept = self._cut = 0
        self._offsets: list[Any] = []
        self._left_out: int | None = None
        self._dropped: Counter[str] = Counter()

    def add(self, cleaned: Cleaned) -> None:
        """Take a document, or count why not."""
        cause = cleaned.cause or self._why_no_room(cleaned.bytes)
        if cause is not None:
            self._dropped[cause] += 1
            return
        self._kept += 1
        self._cut += cleaned.is_cut
        self._bytes += cleaned.bytes
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
        if measured["kept"]:
            self._dropped[counts.BEYOND_CAP] += measured["kept"]

    def _encode(self) -> None:
        tokens = tokenizers.encode_documents(self._tokenizer, self._texts, self._facts, self._dtype)
        self._offsets.append(np.flatnonzero(tokens == self._facts.bos_id) + self._tokens)
        tokens.tofile(self._file)
        self._tokens += len(tokens)
        self._texts, self._characters = [], 0

    def close(self) -> dict[str, Any]:
        """Write what is left; the counts are returned."""
        self._encode()
        self._file.close()
        offsets = np.concatenate([*self._offsets, [self._tokens]]).astype(np.int64)
        assert len(offsets) == self._pieces + 1
        np.save(self._offsets_path, offsets)
        return {
            "tokens": self._tokens,
            "documents": self._pieces,
            "kept": self._kept,
            "cut": self._cut,
            "bytes": self._bytes,
            "left_out_bytes": self._left_out,
            "dropped": dict(sorted(self._dropped.items())),
        }
