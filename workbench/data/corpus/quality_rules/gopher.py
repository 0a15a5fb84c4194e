"""Gopher's rules of quality (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1).

Where the paper leaves a choice, it is that of `datatrove`: what has only punctuation counts for neither the number of words
nor their mean length, but for the shares; symbols are counted in the text (an ellipsis is `...` or `…`); empty lines
count; bullet points are `•` and `-`; stop words are counted once each, in lower case only. Another choice: punctuation marks
that touch a word belong to it, where `datatrove` makes them words, so that its mean word lengths and shares of
alphabetic words are lower.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import numpy as np

from workbench.config.schema.quality_thresholds import GopherThresholds
from workbench.data.corpus.quality_rules.breach import Breach, ratio
from workbench.data.corpus.quality_rules.characters import LETTER, MARK, WordSpans

_ELLIPSES = ("...", "…")
_BULLETS = ("•", "-")


def breaches(thresholds: GopherThresholds, texts: Sequence[str]) -> list[Breach | None]:
    """First threshold that each document breaks."""
    words = WordSpans.of(texts)
    counted = words.beyond(MARK)
    rows = zip(
        texts,
        np.diff(words.first).tolist(),
        words.sums(counted).tolist(),
        words.sums(counted * (words.end - words.begin)).tolist(),
        words.sums(words.having(LETTER)).tolist(),
        strict=True,
    )
    return [_breach(thresholds, *row) for row in rows]


def _breach(
    limits: GopherThresholds, text: str, words: int, counted: int, characters: int, alphabetic: int
) -> Breach | None:
    """First threshold that a document breaks.

    Parameters
    ----------
    limits, text
        Thresholds, document.
    words, counted
        Its words, and those of them that have more than punctuation.
    characters
        Characters in the counted words.
    alphabetic
        Words with a letter.
    """
    if limits.min_words is not None and counted < limits.min_words:
        return Breach("gopher_min_words", counted)
    if limits.max_words is not None and counted > limits.max_words:
        return Breach("gopher_max_words", counted)
    length = ratio(characters, counted)
    if limits.min_mean_word_length is not None and length < limits.min_mean_word_length:
        return Breach("gopher_min_mean_word_length", length)
    if limits.max_mean_word_length is not None and length > limits.max_mean_word_length:
        return Breach("gopher_max_mean_word_length", length)
    hashes = ratio(text.count("#"), words)
    if limits.max_hashes_per_word is not None and hashes > limits.max_hashes_per_word:
        return Breach("gopher_max_hashes_per_word", hashes)
    ellipses = sum(map(text.count, _ELLIPSES))
    if limits.max_ellipses_per_word is not None and ratio(ellipses, words) > limits.max_ellipses_per_word:
        return Breach("gopher_max_ellipses_per_word", ratio(ellipses, words))
    found = _line_breach(limits, text, bool(ellipses))
    if found:
        return found
    share = ratio(alphabetic, words)
    if limits.min_alphabetic_words is not None and share < limits.min_alphabetic_words:
        return Breach("gopher_min_alphabetic_words", share)
    if limits.min_stop_words:
        stops = _stop_words(limits, text)
        if stops < limits.min_stop_words:
            return Breach("gopher_min_stop_words", stops)
    return None


def _line_breach(limits: GopherThresholds, text: str, ellipses: bool) -> Breach | None:
    lines = text.splitlines()
    if limits.max_bullet_lines is not None and any(bullet in text for bullet in _BULLETS):
        bullets = ratio(sum(line.lstrip().startswith(_BULLETS) for line in lines), len(lines))
        if bullets > limits.max_bullet_lines:
            return Breach("gopher_max_bullet_lines", bullets)
    if limits.max_ellipsis_lines is not None and ellipses:
        ends = ratio(sum(line.rstrip().endswith(_ELLIPSES) for line in lines), len(lines))
        if ends > limits.max_ellipsis_lines:
            return Breach("gopher_max_ellipsis_lines", ends)
    return None


@functools.lru_cache
def _stop_pattern(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words.split()))})\b")


def _stop_words(limits: GopherThresholds, text: str) -> int:
    """Different stop words in a text, counted as far as is needed."""
    assert limits.min_stop_words is not None
    found: set[str] = set()
    for match in _stop_pattern(limits.stop_words).finditer(text):
        found.add(match[0])
        if len(found) >= limits.min_stop_words:
            break
    return len(found)
