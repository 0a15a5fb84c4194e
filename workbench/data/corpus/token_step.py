"""Steps 6 and 7 of a corpus, a task a shard: how much of each shard a cap leaves room for, and the tokens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from workbench.data.corpus import ready_tokens_step
from workbench.data.corpus.cleaning import Cleaner, lost_copies
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.shard_notes import ContaminationNotes
from workbench.data.corpus.token_writer import TokenWriter
from workbench.data.counts import BEYOND_CAP


def measure(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Count what a shard of a source with a cap would give without it."""
    kept = size = copies = 0
    dropped: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    notes = ContaminationNotes()
    for batch in Cleaner(corpus).clean(corpus.by_name[name]):
        kept += sum(cleaned.cause is None for cleaned in batch)
        size += sum(cleaned.bytes for cleaned in batch)
        copies += sum(lost_copies(cleaned, BEYOND_CAP) for cleaned in batch if cleaned.cause is None)
        for cleaned in (each for each in batch if each.cause is not None):
            dropped[str(cleaned.cause)] += 1
            lost[str(cleaned.cause)] += lost_copies(cleaned, str(cleaned.cause))
            if cleaned.tally is not None:
                notes.add(cleaned.tally)
    return {
        "kept": kept,
        "bytes": size,
        "dropped": dict(sorted(dropped.items())),
        "copies": copies,
        "lost_copies": dict(sorted((+lost).items())),
        "contamination": notes.facts(),
    }


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
    writer = TokenWriter(corpus, shard, scratch, rooms.get(name))
    if name in rooms and rooms[name] is None:
        writer.leave_out(corpus.folder.read_record(f"room/{name}").facts)
        return writer.close()
    for batch in Cleaner(corpus).clean(shard):
        for cleaned in batch:
            writer.add(cleaned)
    return writer.close()
