"""Step 1 of a corpus, a task a shard: read, drop what is no document for it, hash, and keep the rest.

read/<shard>/    see `workbench.data.corpus.document_files`
samples/<shard>.read.jsonl    samples of what is dropped (see `workbench.data.corpus.removed_samples`)
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from workbench.config.schema import SourceConfig
from workbench.data import counts
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.document_files import DocumentWriter, make_key
from workbench.data.corpus.quality_rules import breaches
from workbench.data.corpus.removed_samples import RemovedSamples
from workbench.data.corpus.shard_reading import Read, read_shard

_Verdict = tuple[str | None, float | None]
"""Cause for which a document is dropped, None where it is kept; and what was measured, if the cause measures something."""


def read(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Read a shard; the documents read, kept and dropped by cause, and the bytes kept, are returned."""
    shard = corpus.by_name[name]
    writer, samples = DocumentWriter(scratch / "read" / name), RemovedSamples()
    dropped: Counter[str] = Counter()
    read = kept = size = 0
    for batch in read_shard(shard, corpus.source(shard)):
        texts = []
        for each, (cause, value) in zip(batch, _judge(batch, corpus.source(shard), corpus), strict=True):
            if cause is None:
                texts.append(each.text)
                continue
            dropped[cause] += 1
            if each.text:
                samples.add(cause, each.text, shard.source, value)
        size += int(writer.write(texts, [make_key(text) for text in texts]).sum())
        read += len(batch)
        kept += len(texts)
    writer.close()
    (scratch / "samples").mkdir()
    samples.write(scratch / "samples" / f"{name}.read.jsonl")
    return {"read": read, "kept": kept, "bytes": size, "dropped": dict(sorted(dropped.items()))}


def _judge(batch: list[Read], source: SourceConfig, corpus: Corpus) -> list[_Verdict]:
    """Say of each document why it is dropped: by its file or its fields, by its length, or by rules of quality."""
    min_bytes = corpus.data.min_document_bytes
    verdicts: list[_Verdict] = [(each.cause or counts.why_too_short(each.text, min_bytes), None) for each in batch]
    if source.quality is not None:
        left = [i for i, (cause, _) in enumerate(verdicts) if cause is None]
        for i, breach in zip(left, breaches(source.quality, [batch[i].text for i in left]), strict=True):
            if breach is not None:
                verdicts[i] = breach.cause, breach.value
    return verdicts
