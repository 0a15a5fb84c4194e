"""Step 8 of a corpus, one task: what the shards' tasks noted, put together for people to read.

removed/samples.jsonl    samples of what was dropped, by cause (see `workbench.data.corpus.removed_samples`)
lengths.json             by source of texts, documents by length in bytes and in tokens: those from a power of two up to the next
contamination.json       where benchmark texts were looked for: which occur in the texts that were read, the sources of token files,
                         into which nobody looked, and what was done with training documents
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from workbench.config.schema import to_dict
from workbench.config.schema.contamination_config import OF_CUT
from workbench.data.corpus.cleaning import leak_meter
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.languages import add_up
from workbench.data.corpus.removed_samples import RemovedSamples
from workbench.data.corpus.shard_notes import ContaminationNotes
from workbench.data.corpus.shards import Shard

LENGTHS, CONTAMINATION = "lengths.json", "contamination.json"


def summarise(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Write the files; the held-out text that is left in training text is returned, as far as that was looked at."""
    samples, shards = RemovedSamples(), _text_shards(corpus)
    for path in sorted(corpus.place("samples").glob("*")):
        samples = samples.merge(RemovedSamples.read(path))
    (scratch / "removed").mkdir()
    samples.write(scratch / "removed" / "samples.jsonl")
    facts = {shard.name: corpus.folder.read_record(f"tokens/{shard.name}").facts for shard in shards}
    _write(scratch / LENGTHS, _add_up_lengths(corpus, facts))
    if corpus.settings.contamination is not None:
        _write(scratch / CONTAMINATION, _describe_contamination(corpus, facts))
    languages = _add_up_languages(corpus)
    return {
        **({"languages": languages} if languages else {}),
        "overlap_left": _measure_left(corpus) if shards else {},
        "unmeasured_sources": unread_sources(corpus),
        "metered_bytes": sum(each["metered_bytes"] for each in facts.values()),
    }


def _text_shards(corpus: Corpus) -> list[Shard]:
    """List the shards of texts: nothing of this is measured in token files."""
    return [shard for shard in corpus.shards if corpus.source(shard).kind != "tokens"]


def unread_sources(corpus: Corpus) -> list[str]:
    """Name the sources of which no text is looked at: neither benchmark texts nor held-out ones are sought in token files."""
    return sorted(name for name, source in corpus.data.sources.items() if source.kind == "tokens")


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _add_up_lengths(corpus: Corpus, facts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for source in sorted({shard.source for shard in _text_shards(corpus)}):
        told = [facts[shard.name]["lengths"] for shard in corpus.shards_of(source)]
        total = {unit: sum((Counter(each[unit]) for each in told), Counter[str]()) for unit in ("bytes", "tokens")}
        result[source] = {unit: dict(sorted(n.items(), key=lambda item: int(item[0]))) for unit, n in total.items()}
    return result


def _add_up_languages(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Count documents by language, and say by what, of each source where they are counted."""
    result: dict[str, dict[str, Any]] = {}
    most = corpus.settings.language_sample
    for source in sorted({shard.source for shard in _text_shards(corpus)}):
        field = corpus.data.sources[source].language
        if field is None and most is None:
            continue
        paths = (corpus.place("languages", f"{shard.name}.json") for shard in corpus.shards_of(source))
        found = add_up((json.loads(path.read_text(encoding="utf-8")) for path in paths), most)
        counts = found.pop("counts")
        by = found if field is None else {"field": field}
        result[source] = {"languages": counts, "languages_by": {**by, "documents": sum(counts.values())}}
    return result


def _measure_left(corpus: Corpus) -> dict[str, dict[str, float]]:
    hits: set[str] = set()
    for shard in _text_shards(corpus):
        hits |= set(json.loads(corpus.place("left", f"{shard.name}.json").read_text(encoding="utf-8")))
    return leak_meter(corpus).report(hits)


def _describe_contamination(corpus: Corpus, facts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    settings = to_dict(corpus.settings.contamination)
    for name in ("texts", *(OF_CUT if settings["action"] != "cut" else ())):  # those have no effect
        del settings[name]
    notes = ContaminationNotes()
    for each in facts.values():
        notes.merge(each["contamination"])
    counted = corpus.folder.read_record("common/all").facts
    overlap = json.loads(corpus.place("common", "overlap.json").read_text(encoding="utf-8"))
    tasks = {}
    for task, found in sorted(overlap.items()):
        checkable = len(found["clean"]) + len(found["dirty"])
        tasks[task] = {
            "documents": checkable + len(found["not_checkable"]),
            "checkable": checkable,
            "dirty": found["dirty"],
            "in_passages": found["in_passages"],
            "not_checkable": found["not_checkable"],
            "passages": notes.tally.passages[task],
            "training_documents": dict(sorted(notes.by_task.get(task, {}).items())),
        }
    return {
        "settings": settings,
        "files": corpus.folder.read_record("benchmarks/all").facts["files"],
        "unchecked_sources": unread_sources(corpus),
        "documents": counted["documents"],
        "passages": counted["passages"],
        "ignored_passages": counted["ignored"],
        "training_documents": notes.facts()["tally"]["done"],
        "training_documents_by_tasks": notes.facts()["tally"]["tasks"],
        "removed_bytes": notes.tally.removed_bytes,
        "tasks": tasks,
    }
