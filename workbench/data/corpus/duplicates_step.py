"""Step 3 of a corpus: the rows of every shard that repeat a document of an earlier row.

duplicates/<shard>.npy    int64 (rows,), ascending
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.exact_duplicates import drop_exact_duplicates


def find(corpus: Corpus, name: str, scratch: Path) -> dict[str, Any]:
    """Write the rows to drop of every shard; their number is returned."""
    assert corpus.data.corpus is not None
    folder = scratch / "duplicates"
    folder.mkdir(parents=True)
    total = 0
    if corpus.data.corpus.exact_duplicates:
        hashes = [corpus.place("read", shard.name, "hashes.npy") for shard in corpus.shards]
        found = drop_exact_duplicates(hashes, scratch / "sorting")
    else:
        found = (np.empty(0, np.int64) for _ in corpus.shards)
    for shard, rows in zip(corpus.shards, found, strict=True):
        np.save(folder / f"{shard.name}.npy", rows)
        total += len(rows)
    return {"documents": total}
