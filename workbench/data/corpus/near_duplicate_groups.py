"""Near duplicates among the documents of many shards, on disk: documents that share a band's hash, joined to groups.

A task a band writes pairs of documents; one task more joins them. Documents are numbered over all shards in (shard, row)
order, and of each group the first stays. The result depends neither on the number of buckets nor on the order of tasks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workbench.data.corpus.exact_duplicates import bucket_count, in_bucket
from workbench.data.corpus.minhash import NO_WORDS, jaccard
from workbench.data.corpus.words import mix

COMPONENTS_FILE = "components.json"
_CHUNK = 1 << 18
"""Documents or pairs at a time."""


def write_pairs(
    band: int,
    band_files: Sequence[Path],
    output: Path,
    budget_bytes: int,
    similar: Callable[[int, int], bool] | None = None,
    left_out: Sequence[NDArray[np.int64]] | None = None,
) -> Path:
    """Write a band's pairs: raw int64 (pairs, 2), the first document of a group and another of it.

    Parameters
    ----------
    band_files
        A file (.npy) for each shard in order: uint64 (documents, bands), as of `minhash.bands`.
    budget_bytes
        Memory to take at most; what is more goes through in buckets, each of which reads the band again.
    similar
        Whether two documents by number are similar indeed, as of `similar_texts`; others do not count.
    left_out
        Rows of each shard, int64 (rows,), ascending, that are in no pair; None leaves none out.
    """
    counts = [len(np.load(file, mmap_mode="r")) for file in band_files]
    buckets = bucket_count(sum(counts), budget_bytes)
    with output.open("wb") as file:
        for bucket in range(buckets):
            pairs = _pairs(*_read_bucket(band, band_files, bucket, buckets, left_out))
            if similar is not None:
                pairs = pairs[[similar(int(one), int(other)) for one, other in pairs]] if len(pairs) else pairs
            file.write(pairs.astype("<i8").tobytes())
    return output


def similar_texts(text_of: Callable[[int], str], ngram: int, least: float) -> Callable[[int, int], bool]:
    """Make a check of the true Jaccard similarity of two documents.

    It reads and shingles both texts of a pair, once for every band that has the pair. Pairs are of the first document of a
    band's group and another, so that two similar documents whose first is like neither stay both.
    """
    return lambda one, other: jaccard(text_of(one), text_of(other), ngram) >= least


def _read_bucket(
    band: int,
    band_files: Sequence[Path],
    bucket: int,
    buckets: int,
    left_out: Sequence[NDArray[np.int64]] | None,
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    hashes, numbers, before = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0
    for shard, file in enumerate(band_files):
        stored = np.load(file, mmap_mode="r")
        for start in range(0, len(stored), _CHUNK):
            chunk = np.array(stored[start : start + _CHUNK, band])
            if left_out is not None:
                rows = left_out[shard]
                chunk[rows[(rows >= start) & (rows < start + _CHUNK)] - start] = NO_WORDS
            found = np.flatnonzero(in_bucket(chunk, bucket, buckets) & (chunk != NO_WORDS))
            hashes.append(chunk[found])
            numbers.append(found + (before + start))
        before += len(stored)
    return np.concatenate(hashes), np.concatenate(numbers)


def _pairs(hashes: NDArray[np.uint64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pair the first document of each hash with every other."""
    order = np.argsort(hashes, kind="stable")
    hashes, numbers = hashes[order], numbers[order]
    begins = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else numbers
    sizes = np.diff(begins, append=len(hashes))
    pairs = np.column_stack([np.repeat(numbers[begins], sizes), numbers])
    return pairs[pairs[:, 0] != pairs[:, 1]]


def join(pair_files: Sequence[Path], documents: Sequence[int], folder: Path, examples: int = 20) -> list[Path]:
    """Join pairs to groups and write each shard's rows to drop, with a table of the groups' sizes.

    Memory is 8 bytes a document (4 below 2^31 of them), and some 50 for each one dropped while groups are counted.

    Parameters
    ----------
    pair_files
        As of `write_pairs`, of all bands.
    documents
        Number of documents of each shard.
    folder
        Where a file (.npy) of sorted int64 rows a shard is written, beside each (.first.npy) the numbers of the first
        documents of these rows' groups, and `COMPONENTS_FILE`: documents, dropped, groups by
        size, and some pairs (first of the group, dropped) by number, for reading.
    """
    first = np.concatenate([[0], np.cumsum(documents, dtype=np.int64)])
    roots = components(pair_files, int(first[-1]))
    dropped = np.concatenate(
        [np.empty(0, np.int64)]
        + [start + np.flatnonzero(_moved(roots, start)) for start in range(0, len(roots), _CHUNK)]
    )
    outputs = [folder / f"{shard:06d}.npy" for shard in range(len(documents))]
    cuts = np.searchsorted(dropped, first)
    for shard, output in enumerate(outputs):
        mine = dropped[cuts[shard] : cuts[shard + 1]]
        np.save(output, mine - first[shard])
        np.save(first_file(output), roots[mine].astype(np.int64))
    sizes, groups = np.unique(np.unique(roots[dropped], return_counts=True)[1] + 1, return_counts=True)
    shown = np.sort(dropped[np.argsort(mix(dropped.astype(np.uint64)), kind="stable")[:examples]])
    table = {
        "documents": len(roots),
        "dropped": len(dropped),
        "groups_by_size": {str(size): int(count) for size, count in zip(sizes, groups, strict=True)},
        "examples": [[int(roots[number]), int(number)] for number in shown],
    }
    (folder / COMPONENTS_FILE).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return outputs


def first_file(output: Path) -> Path:
    """Path of the numbers of the first documents, beside a file of rows."""
    return output.with_suffix(".first.npy")


def _moved(roots: NDArray, start: int) -> NDArray[np.bool_]:
    part = roots[start : start + _CHUNK]
    return part != np.arange(start, start + len(part))


def components(pair_files: Sequence[Path], documents: int) -> NDArray:
    """Smallest number of each document's connected component, by union-find over chunks of pairs: (documents,)."""
    roots = np.arange(documents, dtype=np.int32 if documents < 1 << 31 else np.int64)
    for file in pair_files:
        count = file.stat().st_size // 16
        for start in range(0, count, _CHUNK):
            pairs = np.fromfile(file, "<i8", 2 * min(_CHUNK, count - start), offset=16 * start).reshape(-1, 2)
            _unite(roots, pairs)
    for start in range(0, documents, _CHUNK):
        part = slice(start, start + _CHUNK)
        roots[part] = _find(roots, roots[part])
    return roots


def _unite(roots: NDArray, pairs: NDArray[np.int64]) -> None:
    """Join the components of pairs; a root always hangs on a smaller one."""
    while True:
        ends = np.stack([_find(roots, pairs[:, 0]), _find(roots, pairs[:, 1])])
        roots[pairs.T] = ends  # shortens the ways for the next ones
        low, high = ends.min(0), ends.max(0)
        apart = low != high
        if not apart.any():
            return
        pairs = np.column_stack([low, high])[apart]
        np.minimum.at(roots, pairs[:, 1], pairs[:, 0].astype(roots.dtype))


def _find(roots: NDArray, numbers: NDArray) -> NDArray:
    found = roots[numbers]
    while True:
        further = roots[found]
        if np.array_equal(further, found):
            return found
        found = further
