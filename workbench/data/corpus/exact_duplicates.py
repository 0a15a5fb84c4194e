"""Exact duplicates among the documents of many shards, on disk: 128-bit hashes, in buckets by their leading bits.

Each bucket is a task of its own, whose memory is bounded; what is found depends neither on the number of buckets nor on
the order in which they end. Of equal documents, the first in (shard, row) order stays. Every bucket reads all hashes
(16 bytes a document) once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BYTES_IN_MEMORY = 96
"""Of a document in a bucket while it is sorted: hash, place and order with their copies, and room for uneven buckets."""
_CHUNK = 1 << 18
"""Documents read at a time."""


def bucket_count(total: int, budget_bytes: int) -> int:
    """Smallest power of two of buckets so that each of `total` documents' buckets fits into `budget_bytes` of memory.

    Raises
    ------
    ValueError
        The budget is below the 64 MiB that reading takes at least.
    """
    if budget_bytes < 1 << 26:
        raise ValueError(f"budget_bytes={budget_bytes!r}: give the search for duplicates at least {1 << 26} (64 MiB)")
    return 1 << max(0, -(-total * BYTES_IN_MEMORY // budget_bytes) - 1).bit_length()


def in_bucket(hashes: NDArray[np.uint64], bucket: int, buckets: int) -> NDArray[np.bool_]:
    """Say which hashes begin with a bucket's bits; `buckets` is a power of two."""
    bits = buckets.bit_length() - 1
    if buckets != 1 << bits or not 0 <= bucket < buckets:
        raise ValueError(f"bucket={bucket!r} of {buckets!r}: take a power of two, and a number below it")
    return hashes >> np.uint64(64 - bits) == bucket if bits else np.ones(len(hashes), bool)


def drop_in_bucket(bucket: int, buckets: int, hash_files: Sequence[Path], output: Path) -> Path:
    """Write one bucket's documents to drop: int64 (dropped, 4) of (shard, row, and those of the one that stays), sorted.

    Parameters
    ----------
    hash_files
        A file for each shard in order: uint64 (documents, 2), as of `workbench.data.corpus.document_files.hashes_of`.
    output
        File (.npy) to write.
    """
    hashes, shards, rows = [], [], []
    for shard, file in enumerate(hash_files):
        stored = np.load(file, mmap_mode="r")
        for start in range(0, len(stored), _CHUNK):
            chunk = np.asarray(stored[start : start + _CHUNK])
            found = np.flatnonzero(in_bucket(chunk[:, 0], bucket, buckets))
            hashes.append(chunk[found])
            rows.append(found + start)
            shards.append(np.full(len(found), shard))
    drop = np.empty((0, 4), np.int64)
    if hashes:
        joined = np.concatenate(hashes)
        hashes.clear()
        places = np.column_stack([np.concatenate(shards), np.concatenate(rows)])
        shards.clear()
        rows.clear()
        drop = _repeated(joined, places)
    np.save(output, drop)
    return output


def _repeated(hashes: NDArray[np.uint64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of all documents but the first of each hash, and of that one: (dropped, 4)."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: equal hashes stay in (shard, row) order
    ordered = hashes[order]
    is_first = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(1)])
    del ordered
    again, firsts = np.flatnonzero(~is_first), np.flatnonzero(is_first)
    kept = order[firsts[np.searchsorted(firsts, again) - 1]]
    dropped = order[again]
    by_place = np.argsort(dropped)
    result = np.empty((len(dropped), 4), np.int64)
    result[:, :2] = places[dropped[by_place]]
    result[:, 2:] = places[kept[by_place]]
    return result


def rows_to_drop(shard: int, bucket_files: Sequence[Path]) -> NDArray[np.int64]:
    """Gather one shard's rows to drop from the files of all buckets, sorted."""
    rows = [np.empty(0, np.int64)]
    for file in bucket_files:
        drop = np.load(file, mmap_mode="r")
        begin, end = np.searchsorted(drop[:, 0], [shard, shard + 1])
        rows.append(np.asarray(drop[begin:end, 1]))
    return np.sort(np.concatenate(rows))


def kept_numbers(first: NDArray[np.int64], bucket_files: Sequence[Path]) -> NDArray[np.int64]:
    """Gather the documents that stay of several equal ones from the files of all buckets, once for each copy.

    Parameters
    ----------
    first
        Number of each shard's first document, over all shards.

    Returns
    -------
    numbers
        int64 (dropped,), ascending.
    """
    numbers = [np.empty(0, np.int64)]
    for file in bucket_files:
        drop = np.load(file, mmap_mode="r")
        numbers.append(first[drop[:, 2]] + drop[:, 3])
    return np.sort(np.concatenate(numbers))
