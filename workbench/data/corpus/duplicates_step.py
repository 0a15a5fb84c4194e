"""Step 3 of a corpus: the rows of every shard that repeat a document of an earlier row.

duplicates/<shard>.npy    int64 (rows,), ascending
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.exact_duplicates import bucket_count, drop_in_bucket, rows_to_drop

_BUDGET_BYTES = 1 << 29
"""Memory for the hashes that are sorted at a time."""


def find(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Write the rows to drop of every shard; their number is returned."""
    assert corpus.data.corpus is not None
    folder = scratch / "duplicates"
    folder.mkdir(parents=True)
    total = 0
    if corpus.data.corpus.exact_duplicates:
        hashes = [corpus.place("read", shard.name, "hashes.npy") for shard in corpus.shards]
        buckets = bucket_count(sum(len(np.load(file, mmap_mode="r")) for file in hashes), _BUDGET_BYTES)
        work = scratch / "buckets"
        work.mkdir()
        files = [drop_in_bucket(i, buckets, hashes, work / f"{i}.npy") for i in range(buckets)]
        found = [rows_to_drop(shard, files) for shard in range(len(corpus.shards))]
        shutil.rmtree(work)
    else:
        found = [np.empty(0, np.int64) for _ in corpus.shards]
    for shard, rows in zip(corpus.shards, found, strict=True):
        np.save(folder / f"{shard.name}.npy", rows)
        total += len(rows)
    return {"documents": total}
