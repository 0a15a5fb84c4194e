"""Why documents of a shard are dropped whatever is in them: they repeat others, or are held out."""

from __future__ import annotations

import numpy as np

from workbench.data import counts
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.shards import Shard


def known_causes(corpus: Corpus, shard: Shard) -> list[str | None]:
    """Cause of each row of a shard; None where nothing is known against it."""
    hashes = np.load(corpus.place("read", shard.name, "hashes.npy"))
    causes: list[str | None] = [None] * len(hashes)
    for row in np.load(corpus.place("duplicates", f"{shard.name}.npy")).tolist():
        causes[row] = counts.EXACT_DUPLICATE
    if corpus.settings.near_duplicates is not None:
        for row in np.load(corpus.place("duplicates", f"{shard.name}.near.npy")).tolist():
            causes[row] = counts.NEAR_DUPLICATE
    heldout = np.load(corpus.place("leaks", "hashes.npy"))
    for row in np.flatnonzero(np.isin(hashes[:, 0], heldout[:, 0])).tolist():
        if (heldout == hashes[row]).all(1).any():
            causes[row] = counts.HELDOUT_SPLIT
    return causes
