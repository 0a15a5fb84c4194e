"""Step 1 of a corpus, a task a shard: read, drop what is no document for it, hash, and keep the rest.

read/<shard>/    see `workbench.data.corpus.document_files`
read/<shard>/languages.npy, languages.json    where a field names languages, see `workbench.data.corpus.languages`
read/<shard>/bands.npy    where near duplicates are sought: uint64 (documents, bands), as of `workbench.data.corpus.minhash`
read/<shard>/heldout_bands.npy    the same, where near duplicates of held-out documents are sought
samples/<shard>.read.jsonl    samples of what is dropped (see `workbench.data.corpus.removed_samples`)
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.config.schema import SourceConfig
from workbench.data import counts
from workbench.data.corpus import minhash, ready_tokens_step
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.document_files import DocumentWriter, make_key
from workbench.data.corpus.languages import StatedLanguages
from workbench.data.corpus.quality_rules import breaches
from workbench.data.corpus.removed_samples import RemovedSamples
from workbench.data.corpus.shard_reading import Read, read_shard
from workbench.data.corpus.words import Words

_Verdict = tuple[str | None, float | None]
"""Cause for which a document is dropped, None where it is kept; and what was measured, if the cause measures something."""


def read(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Read a shard; the documents read, kept and dropped by cause, and the bytes kept, are returned."""
    shard = corpus.by_name[name]
    if corpus.source(shard).kind == "tokens":
        return ready_tokens_step.read(corpus, name, scratch)
    writer, samples, languages = DocumentWriter(scratch / "read" / name), RemovedSamples(), StatedLanguages()
    sought = corpus.bands_files
    bands: dict[str, list[NDArray[np.uint64]]] = {file: [] for file in sought}
    dropped: Counter[str] = Counter()
    read = kept = size = 0
    for batch in read_shard(shard, corpus.source(shard)):
        texts = []
        for each, (cause, value) in zip(batch, _judge(batch, corpus.source(shard), corpus), strict=True):
            if cause is None:
                texts.append(each.text)
                languages.add(() if each.language is None else (each.language,))
                continue
            dropped[cause] += 1
            if each.text:
                samples.add(cause, each.text, shard.source, value)
        if sought and texts:
            words = Words.of(texts)
            for file, near in sought.items():
                bands[file].append(minhash.bands(words, near))
        size += int(writer.write(texts, [make_key(text) for text in texts]).sum())
        read += len(batch)
        kept += len(texts)
    writer.close()
    for file, near in sought.items():  # each band lies together, and is read by itself
        joined = np.concatenate([np.empty((0, near.bands), np.uint64), *bands[file]])
        np.save(scratch / "read" / name / file, np.asfortranarray(joined))
    if corpus.source(shard).language is not None:
        languages.write(scratch / "read" / name)
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
