"""FineWeb's own rules (Penedo et al. 2024, arXiv:2406.17557, section 3.6).

Lines of white space alone do not count. Thresholds are as in the paper: a document at a threshold goes, and a short line
has fewer than 30 characters. `datatrove` keeps a document at a threshold, counts lines of 30 characters as short, has 0.01
for duplicate lines, and a list of all scripts' terminal punctuation that is longer than the one here. A line may end in
white space behind its punctuation here, and not there.
"""

from __future__ import annotations

from collections.abc import Sequence

from workbench.config.schema.quality_thresholds import FineWebThresholds
from workbench.data.corpus.quality_rules.breach import Breach, duplicates, ratio

_TERMINAL = frozenset(".!?‼‽⁇⁈⁉。．｡！？։؟۔।॥။៕።፧፨᠃᠉⸮")  # noqa: RUF001
"""Sentence ends of Latin, Chinese, Japanese, Armenian, Arabic, Indic, Burmese, Khmer, Ethiopic and Mongolian text."""


def breaches(thresholds: FineWebThresholds, texts: Sequence[str]) -> list[Breach | None]:
    """First threshold that each document breaks; a document without a word breaks `fineweb_empty`."""
    return [_breach(thresholds, text) for text in texts]


def _breach(limits: FineWebThresholds, text: str) -> Breach | None:
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if not lines:
        return Breach("fineweb_empty", 0)
    terminal = sum(line.rstrip()[-1] in _TERMINAL for line in lines) / len(lines)
    if limits.min_terminal_lines is not None and terminal <= limits.min_terminal_lines:
        return Breach("fineweb_min_terminal_lines", terminal)
    short = sum(len(line) < limits.short_line_characters for line in lines) / len(lines)
    if limits.max_short_lines is not None and short >= limits.max_short_lines:
        return Breach("fineweb_max_short_lines", short)
    newlines = text.count("\n")
    repeated = ratio(duplicates(lines)[1], len(text) - newlines)
    if limits.max_duplicate_line_characters is not None and repeated >= limits.max_duplicate_line_characters:
        return Breach("fineweb_max_duplicate_line_characters", repeated)
    if limits.max_newlines_per_word is not None:
        per_word = newlines / len(text.split())
        if per_word > limits.max_newlines_per_word:
            return Breach("fineweb_max_newlines_per_word", per_word)
    return None
