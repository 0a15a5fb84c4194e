"""Documents that stand in a corpus more than once, by 128-bit hashes sorted on disk, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("shard", "<u4"), ("row", "<u4")])
_BUCKET_ENTRIES = 8_000_000
"""Entries of a bucket to aim for: 192 MB of them, some 600 MB while they are sorted."""


def drop_exact_duplicates(hashes: Sequence[Path], work: Path) -> Iterator[NDArray[np.int64]]:
    """Yield, for each shard in order, the rows (ascending) whose document stands in an earlier (shard, row).

    Parameters
    ----------
    hashes
        By shard, a `.npy` file of uint64 (documents, 2).
    work
        Folder for temporary files of 24 bytes a document; made, and deleted at the end.
    """
    sizes = [np.load(path, mmap_mode="r").shape[0] for path in hashes]
    buckets = max(1, -(-sum(sizes) // _BUCKET_ENTRIES))
    work.mkdir(parents=True, exist_ok=True)
    _fill_buckets(hashes, buckets, work)
    _sort_buckets(buckets, len(hashes), work)
    for shard in range(len(hashes)):
        path = work / f"rows_{shard}"
        rows = np.fromfile(path, np.int64) if path.exists() else np.empty(0, np.int64)
        path.unlink(missing_ok=True)
        rows.sort()
        yield rows
    work.rmdir()


def _fill_buckets(hashes: Sequence[Path], buckets: int, work: Path) -> None:
    """Sort every shard's hashes into files by their first bits."""
    for shard, path in enumerate(hashes):
        loaded = np.load(path)
        entries = np.empty(len(loaded), _ENTRY)
        entries["high"], entries["low"] = loaded[:, 0], loaded[:, 1]
        entries["shard"], entries["row"] = shard, np.arange(len(loaded))
        bucket = (entries["high"] >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)
        order = np.argsort(bucket, kind="stable")
        edges = np.searchsorted(bucket[order], np.arange(buckets + 1, dtype=np.uint64))
        for i in range(buckets):
            if edges[i] < edges[i + 1]:
                with (work / f"bucket_{i}").open("ab") as file:
                    entries[order[edges[i] : edges[i + 1]]].tofile(file)


def _sort_buckets(buckets: int, shards: int, work: Path) -> None:
    """Find the repeated entries of every bucket and write their rows to a file a shard."""
    for i in range(buckets):
        path = work / f"bucket_{i}"
        if not path.exists():
            continue
        entries = np.fromfile(path, _ENTRY)
        path.unlink()
        # Entries lie in the order of (shard, row), and the sort is stable: the first of equals is the one that stays.
        entries = entries[np.lexsort((entries["low"], entries["high"]))]
        again = np.zeros(len(entries), bool)
        again[1:] = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
        dropped = entries[again]
        for shard in np.unique(dropped["shard"]).tolist():
            with (work / f"rows_{shard}").open("ab") as file:
                dropped["row"][dropped["shard"] == shard].astype(np.int64).tofile(file)
