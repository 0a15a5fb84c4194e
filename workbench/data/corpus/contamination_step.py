"""Step 4 of a corpus: how often passages of benchmark texts occur in what is left after duplicates are dropped.

One task indexes the benchmark texts, a task a shard counts, and one adds up; what is done with the documents follows when
tokens are written (`workbench.data.corpus.cleaning`), since it depends on the counts of the whole corpus.

    benchmarks/texts.jsonl, index/    the benchmark texts as they were found, and their passages
    passages/<shard>.npz              in how many of the shard's documents each passage occurs
    common/ignored.npy                bool (H,): passages that are common phrases
    common/overlap.json               by task, the numbers of its documents by whether they occur in what was counted
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.data.corpus.benchmark_files import BenchmarkTexts, benchmark_hashes, read_benchmark_texts
from workbench.data.corpus.contamination import BenchmarkIndex
from workbench.data.corpus.contamination_counts import Counts
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.document_files import read_batches
from workbench.data.corpus.dropped_rows import known_causes


def name_shards(corpus: Corpus) -> list[str]:
    """Name the tasks that count."""
    return [] if corpus.settings.contamination is None else [shard.name for shard in corpus.shards]


def name_one(corpus: Corpus) -> list[str]:
    """Name a task that is there where benchmark texts are looked for."""
    return [] if corpus.settings.contamination is None else ["all"]


def index(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Index the benchmark texts; hashes of their files are returned.

    Raises
    ------
    ValueError
        As `workbench.data.corpus.benchmark_files.read_benchmark_texts`.
    """
    settings = corpus.settings.contamination
    assert settings is not None
    benchmarks = read_benchmark_texts(Path(settings.texts))
    folder = scratch / "benchmarks"
    folder.mkdir()
    _write_texts(benchmarks, folder / "texts.jsonl")
    BenchmarkIndex.of(benchmarks, settings).save(folder / "index")
    return {"files": benchmark_hashes(Path(settings.texts)), "documents": len(benchmarks.documents)}


def _write_texts(benchmarks: BenchmarkTexts, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for text, owner in zip(benchmarks.texts, benchmarks.owners, strict=True):
            task, number = benchmarks.documents[owner]
            file.write(json.dumps({"task": task, "document": number, "text": text}) + "\n")


def count(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Count the passages in a shard's documents; the number of documents, and of those with a passage, is returned."""
    shard = corpus.by_name[name]
    index, causes = _open(corpus), known_causes(corpus, shard)
    counted, found = index.no_counts(), 0
    for first, texts in read_batches(corpus.place("read", name)):
        here = causes[first : first + len(texts)]
        found += int(index.count([t for t, cause in zip(texts, here, strict=True) if cause is None], counted).sum())
    (scratch / "passages").mkdir()
    counted.save(scratch / "passages" / f"{name}.npz")
    return {"documents": counted.documents, "with_passages": found}


def add_up(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Say which passages are common, and which benchmark documents occur; the documents counted are returned."""
    index = _open(corpus)
    total = index.no_counts()
    for shard in corpus.shards:
        total.add(Counts.load(corpus.place("passages", f"{shard.name}.npz")))
    folder = scratch / "common"
    folder.mkdir()
    ignored = index.ignored(total)
    np.save(folder / "ignored.npy", ignored)
    overlap = {task: dataclasses.asdict(found) for task, found in index.overlap(total).items()}
    (folder / "overlap.json").write_text(json.dumps(overlap), encoding="utf-8")
    return {"documents": total.documents, "passages": len(ignored), "ignored": int(ignored.sum())}


def open_benchmarks(corpus: Corpus) -> tuple[BenchmarkIndex, NDArray[np.bool_]] | None:
    """Open the index of benchmark texts with the passages to ignore; None where none are looked for."""
    if corpus.settings.contamination is None:
        return None
    return _open(corpus), np.load(corpus.place("common", "ignored.npy"))


def _open(corpus: Corpus) -> BenchmarkIndex:
    settings = corpus.settings.contamination
    assert settings is not None
    benchmarks = read_benchmark_texts(corpus.place("benchmarks", "texts.jsonl"))
    return BenchmarkIndex.load(corpus.place("benchmarks", "index"), benchmarks, settings)
