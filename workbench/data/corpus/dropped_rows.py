"""Why documents of a shard are dropped whatever is in them: they repeat others, or are held out."""

from __future__ import annotations

import numpy as np

from workbench.data import counts
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.shards import Shard


def known_causes(corpus: Corpus, shard: Shard) -> list[str | None]:
    """Cause of each row of a shard; None where nothing is known against it."""
    rows = np.load(corpus.place("read", shard.name, "bytes.npy"), mmap_mode="r")
    causes: list[str | None] = [None] * len(rows)
    for row in np.load(corpus.place("duplicates", f"{shard.name}.npy")).tolist():
        causes[row] = counts.EXACT_DUPLICATE
    if corpus.settings.near_duplicates is not None:
        for row in np.load(corpus.place("duplicates", f"{shard.name}.near.npy")).tolist():
            causes[row] = counts.NEAR_DUPLICATE
    for row in near_heldout_rows(corpus, shard):
        if causes[row] != counts.EXACT_DUPLICATE:
            causes[row] = counts.NEAR_HELDOUT
    for row in heldout_rows(corpus, shard):
        causes[row] = counts.HELDOUT_SPLIT
    return causes


def read_copies(corpus: Corpus, shard: Shard) -> dict[int, tuple[int, int]]:
    """Rows of a shard that stay for others, with the number of exact and of near duplicates that were dropped for them."""
    copies = np.load(corpus.place("duplicates", f"{shard.name}.copies.npy")).tolist()
    return {row: (exact, near) for row, exact, near in copies}


def near_heldout_rows(corpus: Corpus, shard: Shard) -> list[int]:
    """Rows of a shard that nearly repeat a held-out document, that document among them; none where they are not to go."""
    if corpus.settings.heldout_near_duplicates is None:
        return []
    return np.load(corpus.place("leaks", "near", f"{shard.name}.npy")).tolist()


def heldout_rows(corpus: Corpus, shard: Shard) -> list[int]:
    """Rows of a shard that are held out or repeat a held-out document."""
    hashes = np.load(corpus.place("read", shard.name, "hashes.npy"))
    heldout = np.load(corpus.place("leaks", "hashes.npy"))
    alike = np.flatnonzero(np.isin(hashes[:, 0], heldout[:, 0])).tolist()
    return [row for row in alike if (heldout == hashes[row]).all(1).any()]
