"""The last step of a corpus: every shard's counts put together, as the manifest of the store (format 3)."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from workbench.data import counts
from workbench.data.corpus import ready_tokens_step
from workbench.data.corpus.corpus_plan import PLAN, Corpus
from workbench.data.corpus.full_disk import naming_full_disk
from workbench.data.corpus.task_folder import Record
from workbench.data.fingerprint import heldout_fingerprint
from workbench.data.folders import MANIFEST
from workbench.data.inputs import count_skipped
from workbench.study.files import fsync, sha256, write_atomically

FORMAT = 3


def write_manifest(corpus: Corpus, tasks: dict[str, list[str]]) -> None:
    """Write the manifest of a corpus whose tasks are all done.

    Parameters
    ----------
    corpus
        The corpus.
    tasks
        Names of the tasks, by phase.

    Raises
    ------
    ValueError
        A source has no text left, or its cap no room for the first document.
    RuntimeError
        More than a tenth of some held-out document's passages occurs in training text all the same.
    """
    records = {task: corpus.folder.read_record(task) for names in tasks.values() for task in names}
    heldout, tokenizer = records["heldout/all"].facts, records["tokenizer/all"].facts
    left = records["summary/all"].facts
    _refuse_leak(left["overlap_left"])
    languages = left.get("languages", {})
    sources = {name: _describe(corpus, name, records) | languages.get(name, {}) for name in corpus.data.sources}
    plan = corpus.place(PLAN)
    files = {name: facts for record in records.values() for name, facts in record.files.items()}
    files[PLAN] = {"sha256": sha256(plan), "bytes": plan.stat().st_size}
    manifest = {
        "fingerprint": corpus.fingerprint,
        "format": FORMAT,
        "heldout_fingerprint": heldout_fingerprint(corpus.data, corpus.tokenizer),
        **tokenizer,
        "sources": {name: {**facts, **heldout["sources"][name]} for name, facts in sources.items()},
        "heldout_sizes": heldout["sizes"],
        "overlap_left": left["overlap_left"],
        "overlap_unmeasured_sources": left["unmeasured_sources"],
        "overlap_metered_bytes": left["metered_bytes"],
        "config": json.loads(plan.read_text(encoding="utf-8"))["config"],  # whoever finishes, and wherever they started
        "seconds": round(sum(record.seconds for record in records.values()), 2),
        "files": dict(sorted(files.items())),
    }
    text = json.dumps(manifest, indent=1)
    with naming_full_disk(corpus.folder.root, corpus.fingerprint, MANIFEST, len(text)):
        write_atomically(corpus.place(MANIFEST), text)
    fsync(corpus.folder.root)


def _refuse_leak(left: dict[str, dict[str, float]]) -> None:
    for name, facts in left.items():
        if facts["worst_document"] > 0.1:
            raise RuntimeError(
                f"a held-out document of {name!r} has {facts['worst_document']:.0%} of its passages in training text "
                "after cutting: a bug, the store is not finished"
            )


def _describe(corpus: Corpus, source: str, records: dict[str, Record]) -> dict[str, Any]:
    """Add up a source: documents `read` are those `kept` and those `dropped` by cause."""
    config = corpus.data.sources[source]
    if config.kind == "tokens":
        return ready_tokens_step.summarize(corpus, source, records)
    shards = corpus.shards_of(source)
    reads = [records[f"read/{shard.name}"].facts for shard in shards]
    tokens = [records[f"tokens/{shard.name}"].facts for shard in shards]
    dropped = sum((Counter(facts["dropped"]) for facts in (*reads, *tokens)), Counter[str]())
    total = {key: sum(facts[key] for facts in tokens) for key in ("tokens", "documents", "kept", "bytes")}
    cut = {
        key: dict(sum((Counter(facts[key]) for facts in tokens), Counter[str]()))
        for key in ("cut", "cut_bytes", "lost_copies")
    }
    read = sum(facts["read"] for facts in reads)
    assert read == total["kept"] + dropped.total(), (source, read, total, dropped)
    left_out = next((f["left_out_bytes"] for f in tokens if f["left_out_bytes"] is not None), None)
    _refuse_empty(corpus, source, total["documents"], left_out, dropped)
    return {
        **total,
        **cut,
        "read": read,
        "dropped": dict(sorted(dropped.items())),
        "max_bytes": config.max_bytes,
        "left_out_bytes": left_out,
        "skipped_files": count_skipped(config),
        "shards": [
            {"file": f"tokens/{source}/{shard.name}.bin", **{k: facts[k] for k in ("tokens", "documents", "bytes")}}
            for shard, facts in zip(shards, tokens, strict=True)
        ],
    }


def _refuse_empty(corpus: Corpus, source: str, documents: int, left_out: int | None, dropped: Counter[str]) -> None:
    if documents:
        return
    if left_out is not None:
        raise ValueError(
            f"source {source!r}: max_bytes={corpus.data.sources[source].max_bytes} has no room for the first document, "
            f"which has {left_out} bytes: raise max_bytes"
        )
    raise ValueError(
        f"source {source!r} has no training text of data.min_document_bytes={corpus.data.min_document_bytes} bytes "
        f"or more{counts.name_counts(dropped, '; dropped are ')}"
    )
