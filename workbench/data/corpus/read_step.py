"""Step 1 of a corpus, a task a shard: read, drop what is no document for it, hash, and keep the rest."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from workbench.data import counts
from workbench.data.corpus import ready_tokens_step
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.document_files import DocumentWriter, make_key
from workbench.data.corpus.shard_reading import Read, read_shard


def read(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Read a shard; the documents read, kept and dropped by cause, and the bytes kept, are returned."""
    shard = corpus.by_name[name]
    if corpus.source(shard).kind == "tokens":
        return ready_tokens_step.read(corpus, name, scratch)
    writer = DocumentWriter(scratch / "read" / name)
    dropped: Counter[str] = Counter()
    read = kept = size = 0
    for batch in read_shard(shard, corpus.source(shard)):
        texts = []
        for each, cause in zip(batch, _causes(batch, corpus.data.min_document_bytes), strict=True):
            if cause is None:
                texts.append(each.text)
            else:
                dropped[cause] += 1
        size += int(writer.write(texts, [make_key(text) for text in texts]).sum())
        read += len(batch)
        kept += len(texts)
    writer.close()
    return {"read": read, "kept": kept, "bytes": size, "dropped": dict(sorted(dropped.items()))}


def _causes(batch: list[Read], min_bytes: int) -> list[str | None]:
    """Why each document is dropped, None where it is kept; filters by field and by quality belong here."""
    return [each.cause or counts.why_too_short(each.text, min_bytes) for each in batch]
