"""Documents of made words, with edited copies of a known similarity."""

import numpy as np


def make_words(draw: np.random.Generator, count: int) -> list[str]:
    """Draw words of a made vocabulary, some far more often than others."""
    return [f"w{k}" for k in np.minimum(draw.zipf(1.3, count), 1 << 20)]


def edit(words: list[str], similarity: float, draw: np.random.Generator, ngram: int = 5) -> list[str]:
    """Change words far enough from each other that the shingles' Jaccard similarity is about the one given.

    Every changed word changes `ngram` shingles, so that of S shingles S - c ngram are shared among S + c ngram.
    """
    count = len(words) - ngram + 1
    changes = round(count * (1 - similarity) / (1 + similarity) / ngram)
    changed = list(words)
    slots = np.arange(ngram - 1, len(words) - ngram + 1, ngram)
    for at in draw.choice(slots, min(changes, len(slots)), replace=False):
        changed[at] = f"x{draw.integers(1 << 40)}"
    return changed
