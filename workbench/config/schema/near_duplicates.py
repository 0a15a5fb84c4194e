"""Settings of the search for near duplicates."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.plain import check_at_least


@dataclass(frozen=True)
class NearDuplicates:
    """Documents are near duplicates where all of a band's MinHash values agree; the first of each group stays.

    The defaults are FineWeb's (Penedo et al. 2024, arXiv:2406.17557, section 3.4): 14 bands of 8 over 5-grams of words, for
    documents that are at least 75% similar; such a pair is found with a probability of 1 - (1 - 0.75^8)^14 = 77%. FineWeb
    keeps one document of each group at random.
    """

    ngram: int = 5
    """Words in a shingle."""
    bands: int = 14
    """Bands; more find more pairs, and more wrong ones."""
    rows: int = 8
    """MinHash values in a band; more find fewer pairs, and fewer wrong ones."""
    verify: bool = False
    """Whether a pair counts only where its shingles' true Jaccard similarity is at least `least_similarity`."""
    least_similarity: float = 0.75
    """Between 0 and 1; read only with `verify`."""

    def __post_init__(self):
        for name in ("ngram", "bands", "rows"):
            check_at_least(name, getattr(self, name), 1)
        if not 0 < self.least_similarity <= 1:
            raise ValueError(f"least_similarity={self.least_similarity!r}: set it above 0 and up to 1")
