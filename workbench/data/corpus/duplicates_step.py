"""Step 3 of a corpus: the rows of every shard that repeat an earlier document, or nearly repeat one.

A task a bucket of hashes finds exact duplicates, a task a band of MinHash values pairs of near ones, and one task joins them.

    exact/<bucket>.npy               int64 (dropped, 4): place of the shard in `ranked` and row, and those of what stays
    near/<band>.pairs                raw int64 (pairs, 2) of numbers of documents, in the order of `ranked`
    duplicates/<shard>.npy           int64 (rows,), ascending: exact duplicates
    duplicates/<shard>.near.npy      the same: near duplicates that are neither exact ones nor held out
    duplicates/<shard>.copies.npy    int64 (rows, 3), ascending: rows that stay, the exact and the near duplicates of each
    near_duplicates.json             settings, groups by size, and pairs to read
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.config.schema import to_dict
from workbench.data.corpus import near_duplicate_groups as groups
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.document_files import read_rows
from workbench.data.corpus.dropped_rows import heldout_rows, near_heldout_rows
from workbench.data.corpus.exact_duplicates import bucket_count, drop_in_bucket, kept_numbers, rows_to_drop
from workbench.data.corpus.minhash import jaccard, probability
from workbench.data.corpus.removed_samples import cut
from workbench.data.corpus.shards import Shard
from workbench.study.files import write_atomically

TABLE = "near_duplicates.json"
_BUDGET_BYTES = 1 << 29
"""Memory for the hashes that are sorted at a time."""
_SIMILARITIES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_SHOWN_BYTES = 1000
"""Of each text of a pair to read."""


def ranked(corpus: Corpus) -> list[Shard]:
    """List the shards in the order in which documents are first: those of sources without a cap, then the others.

    A document that is kept may lie beyond the cap of its source, and its text would be lost with it where another source
    had room. Whatever the caps, the order is the same, so that a smaller cap is a prefix of a larger.
    """
    return sorted(corpus.shards, key=lambda shard: corpus.source(shard).max_bytes is not None)


def name_buckets(corpus: Corpus) -> list[str]:
    """Name the tasks that find exact duplicates; before the documents are counted there seems to be one."""
    if not corpus.settings.exact_duplicates:
        return []
    return [f"{i:04d}" for i in range(_count_buckets(corpus))]


def _count_buckets(corpus: Corpus) -> int:
    try:
        documents = corpus.folder.read_record("heldout/all").facts["documents"]
    except FileNotFoundError:
        return 1
    return bucket_count(documents, _BUDGET_BYTES)


def name_bands(corpus: Corpus) -> list[str]:
    """Name the tasks that find near duplicates."""
    near = corpus.settings.near_duplicates
    return [] if near is None else [f"{band:03d}" for band in range(near.bands)]


def find_exact(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Write one bucket's exact duplicates; their number is returned."""
    hashes = [corpus.place("read", shard.name, "hashes.npy") for shard in ranked(corpus)]
    (scratch / "exact").mkdir()
    output = scratch / "exact" / f"{name}.npy"
    drop_in_bucket(int(name), _count_buckets(corpus), hashes, output)
    return {"documents": len(np.load(output, mmap_mode="r"))}


def find_near(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Write one band's pairs of near duplicates; their number is returned."""
    near = corpus.settings.near_duplicates
    assert near is not None
    files = [corpus.place("read", shard.name, "bands.npy") for shard in ranked(corpus)]
    similar = None
    if near.verify:
        similar = groups.similar_texts(lru_cache(1000)(_text_reader(corpus)), near.ngram, near.least_similarity)
    (scratch / "near").mkdir()
    output = scratch / "near" / f"{name}.pairs"
    left_out = [np.array(near_heldout_rows(corpus, shard), np.int64) for shard in ranked(corpus)]
    groups.write_pairs(int(name), files, output, _BUDGET_BYTES, similar, left_out)
    return {"pairs": output.stat().st_size // 16}


def join(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Write the rows to drop of every shard; their numbers are returned."""
    folder = scratch / "duplicates"
    folder.mkdir()
    buckets = [corpus.place("exact", f"{bucket}.npy") for bucket in name_buckets(corpus)]
    exact = [rows_to_drop(shard, buckets) for shard in range(len(ranked(corpus)))]
    for shard, rows in zip(ranked(corpus), exact, strict=True):
        np.save(folder / f"{shard.name}.npy", rows)
    near = [np.empty(0, np.int64)]
    if corpus.settings.near_duplicates is not None:
        near = _join_near(corpus, exact, folder)
        (folder / groups.COMPONENTS_FILE).unlink()
    _write_copies(corpus, buckets, np.concatenate(near), folder)
    return {"exact": sum(map(len, exact)), "near": sum(map(len, near))}


def _write_copies(corpus: Corpus, buckets: list[Path], near: NDArray[np.int64], folder: Path) -> None:
    """Write which rows stay for others; `near` has the number of the document that stays for each near duplicate."""
    begins = np.concatenate([[0], np.cumsum(_documents_of(corpus), dtype=np.int64)])
    exact, near = kept_numbers(begins, buckets), np.sort(near)
    cuts = [np.searchsorted(numbers, begins) for numbers in (exact, near)]
    for i, shard in enumerate(ranked(corpus)):
        found = [numbers[cut[i] : cut[i + 1]] - begins[i] for numbers, cut in zip((exact, near), cuts, strict=True)]
        rows = np.unique(np.concatenate(found))
        copies = [np.bincount(np.searchsorted(rows, each), minlength=len(rows)) for each in found]
        np.save(folder / f"{shard.name}.copies.npy", np.column_stack([rows, *copies]).astype(np.int64))


def _join_near(corpus: Corpus, exact: list[NDArray[np.int64]], folder: Path) -> list[NDArray[np.int64]]:
    """Write near duplicates that are neither exact ones nor held out, with their table.

    By shard, the numbers of the documents that stay for them are returned.
    """
    pairs = [corpus.place("near", f"{band}.pairs") for band in name_bands(corpus)]
    work = folder.parent / "joined"
    work.mkdir()
    outputs = groups.join(pairs, _documents_of(corpus), work)
    firsts = []
    for shard, output, known in zip(ranked(corpus), outputs, exact, strict=True):
        gone = np.concatenate([known, np.array(heldout_rows(corpus, shard), np.int64)])
        rows, first = np.load(output), np.load(groups.first_file(output))
        is_left = ~np.isin(rows, gone)
        np.save(folder / f"{shard.name}.near.npy", rows[is_left])
        firsts.append(first[is_left])
        output.unlink()
        groups.first_file(output).unlink()
    (work / groups.COMPONENTS_FILE).replace(folder / groups.COMPONENTS_FILE)
    work.rmdir()
    table = json.loads((folder / groups.COMPONENTS_FILE).read_text(encoding="utf-8"))
    write_atomically(
        folder.parent / TABLE, json.dumps(_describe(corpus, table, sum(map(len, firsts))), indent=1) + "\n"
    )
    return firsts


def _describe(corpus: Corpus, table: dict[str, Any], near: int) -> dict[str, Any]:
    settings = corpus.settings.near_duplicates
    assert settings is not None
    read, place, shards = _text_reader(corpus), _placer(corpus), ranked(corpus)
    examples = []
    for kept, dropped in table["examples"]:
        texts = read(kept), read(dropped)
        sources = [shards[place(number)[0]].source for number in (kept, dropped)]
        shown = [{"source": s, "text": cut(text, _SHOWN_BYTES)} for s, text in zip(sources, texts, strict=True)]
        examples.append(
            {"kept": shown[0], "dropped": shown[1], "similarity": round(jaccard(*texts, settings.ngram), 4)}
        )
    return {
        "settings": to_dict(settings),
        "probability_by_similarity": {str(s): round(probability(s, settings), 4) for s in _SIMILARITIES},
        "documents": table["documents"],
        "dropped": near,
        "dropped_with_exact_and_heldout": table["dropped"],
        "groups_by_size": table["groups_by_size"],
        "examples": examples,
    }


def _documents_of(corpus: Corpus) -> list[int]:
    return [corpus.folder.read_record(f"read/{shard.name}").facts["kept"] for shard in ranked(corpus)]


def _placer(corpus: Corpus) -> Callable[[int], tuple[int, int]]:
    """Make what gives the index of the shard and the row of a document by its number."""
    first = np.concatenate([[0], np.cumsum(_documents_of(corpus), dtype=np.int64)])

    def place(number: int) -> tuple[int, int]:
        shard = int(np.searchsorted(first, number, "right")) - 1
        return shard, number - int(first[shard])

    return place


def _text_reader(corpus: Corpus) -> Callable[[int], str]:
    """Make what reads a document by its number over all shards."""
    place, shards = _placer(corpus), ranked(corpus)

    def read(number: int) -> str:
        shard, row = place(number)
        return read_rows(corpus.place("read", shards[shard].name), [row])[row][1]

    return read
