"""Published rules of quality, by name; each names the first threshold that a document breaks, and what was measured.

Words are separated by white space, as in most implementations; in `datatrove` punctuation marks are words of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from workbench.config.schema.quality_thresholds import QualitySettings
from workbench.data.corpus.quality_rules import c4, fineweb, gopher, gopher_repetition
from workbench.data.corpus.quality_rules.breach import Breach

RULES: dict[str, Callable[[Any, Sequence[str]], list[Breach | None]]] = {
    "gopher_repetition": gopher_repetition.breaches,
    "gopher": gopher.breaches,
    "c4": c4.breaches,
    "fineweb": fineweb.breaches,
}
"""By the names of `QualitySettings`, in the order in which they are applied (that of FineWeb)."""


def breaches(settings: QualitySettings, texts: Sequence[str]) -> list[Breach | None]:
    """First threshold that each document breaks, with what was measured; None for those that break none.

    Parameters
    ----------
    settings
        Rules to apply and their thresholds.
    texts
        Some megabytes of documents at a time are fastest. The result for one does not depend on the others.
    """
    found: list[Breach | None] = [None] * len(texts)
    for name, rule in RULES.items():
        thresholds = getattr(settings, name)
        if thresholds is None:
            continue
        left = [number for number, breach in enumerate(found) if breach is None]
        for number, breach in zip(left, rule(thresholds, [texts[number] for number in left]), strict=True):
            found[number] = breach
    return found


def causes(settings: QualitySettings, texts: Sequence[str]) -> list[str | None]:
    """Names of the thresholds of `breaches`, such as `gopher_min_words`."""
    return [breach.cause if breach else None for breach in breaches(settings, texts)]
