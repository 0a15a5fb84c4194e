"""Which documents of a source are kept by published rules of quality.

Every rule's class holds its thresholds with the published values as defaults; None switches a threshold off.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from workbench.config.plain import check_at_least


def _check_thresholds(name: str, thresholds: Any, shares: tuple[str, ...]) -> None:
    """Refuse negative thresholds, shares above one, and a least value above the most."""
    values = dataclasses.asdict(thresholds)
    for key, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            check_at_least(f"{name}.{key}", value, 0)
            if key in shares and value > 1:
                raise ValueError(f"{name}.{key}={value!r} is a share and must be at most 1")
    for key, least in values.items():
        most = values.get(key.replace("min_", "max_"))
        if key.startswith("min_") and least is not None and most is not None and least > most:
            raise ValueError(f"{name}.{key}={least!r} is above {key.replace('min_', 'max_')}={most!r}")


@dataclass(frozen=True)
class GopherThresholds:
    """Gopher's rules of quality.

    References
    ----------
    Rae et al. 2021, arXiv:2112.11446, appendix A.1.1, "Quality Filtering".
    """

    min_words: int | None = 50
    max_words: int | None = 100_000
    min_mean_word_length: float | None = 3.0
    """Characters."""
    max_mean_word_length: float | None = 10.0
    """Characters."""
    max_hashes_per_word: float | None = 0.1
    max_ellipses_per_word: float | None = 0.1
    max_bullet_lines: float | None = 0.9
    """Share of lines that begin with a bullet point."""
    max_ellipsis_lines: float | None = 0.3
    """Share of lines that end with an ellipsis."""
    min_alphabetic_words: float | None = 0.8
    """Share of words with a letter."""
    min_stop_words: int | None = 2
    """How many different ones of the stop words must occur."""
    stop_words: str = "the be to of and that have with"
    """Separated by spaces; for text that is not English, common words of its language."""

    def __post_init__(self) -> None:
        """Refuse what no document could meet."""
        shares = ("max_bullet_lines", "max_ellipsis_lines", "min_alphabetic_words")
        _check_thresholds("gopher", self, shares)
        known = len(set(self.stop_words.split()))
        if self.min_stop_words is not None and self.min_stop_words > known:
            raise ValueError(f"gopher.min_stop_words={self.min_stop_words!r}: there are only {known} stop words")


@dataclass(frozen=True)
class GopherRepetitionThresholds:
    """Gopher's rules of repetition, as shares of a document.

    References
    ----------
    Rae et al. 2021, arXiv:2112.11446, table A1.
    """

    max_duplicate_lines: float | None = 0.30
    max_duplicate_paragraphs: float | None = 0.30
    max_duplicate_line_characters: float | None = 0.20
    max_duplicate_paragraph_characters: float | None = 0.20
    max_top_2_gram: float | None = 0.20
    """Share of characters in the most frequent two successive words."""
    max_top_3_gram: float | None = 0.18
    max_top_4_gram: float | None = 0.16
    max_duplicate_5_grams: float | None = 0.15
    """Share of characters in five successive words that occurred before."""
    max_duplicate_6_grams: float | None = 0.14
    max_duplicate_7_grams: float | None = 0.13
    max_duplicate_8_grams: float | None = 0.12
    max_duplicate_9_grams: float | None = 0.11
    max_duplicate_10_grams: float | None = 0.10

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        _check_thresholds("gopher_repetition", self, tuple(f.name for f in dataclasses.fields(self)))


@dataclass(frozen=True)
class C4Thresholds:
    """C4's rules: which lines of a page stay, and which pages.

    Not among them: its list of offensive words, its detection of English (a filter by a field does that), and its removal of
    repeated spans of three sentences.

    References
    ----------
    Raffel et al. 2020, JMLR 21(140), section 2.2; `max_word_length`, `policy_lines` and `citations` are in C4's code only
    (`c4_utils` of TensorFlow Datasets).
    """

    terminal_punctuation: bool = True
    """Whether lines go that do not end in . ! ? or a quotation mark."""
    min_words_per_line: int | None = 3
    """Shorter lines go."""
    max_word_length: int | None = 1000
    """Characters; lines with a longer word go."""
    javascript_lines: bool = True
    """Whether lines with the word JavaScript go."""
    policy_lines: bool = True
    """Whether lines about terms of use, privacy and cookies go."""
    citations: bool = True
    """Whether marks such as [1] and [edit] go from lines."""
    min_sentences: int | None = 5
    """A page goes if the lines that stay have fewer."""
    lorem_ipsum: bool = True
    """Whether a page with these words goes."""
    curly_bracket: bool = True
    """Whether a page with a { goes."""

    def __post_init__(self) -> None:
        """Refuse negative thresholds."""
        _check_thresholds("c4", self, ())


@dataclass(frozen=True)
class FineWebThresholds:
    """FineWeb's own rules.

    References
    ----------
    Penedo et al. 2024, arXiv:2406.17557, section 3.6; `max_newlines_per_word` is in its code only (`datatrove`), which also
    has 0.01 where the paper has 0.1 for `max_duplicate_line_characters`.
    """

    min_terminal_lines: float | None = 0.12
    """Share of lines that end in terminal punctuation; documents at or below it go."""
    max_short_lines: float | None = 0.67
    """Share of short lines; documents at or above it go."""
    short_line_characters: int = 30
    """Lines of fewer characters are short."""
    max_duplicate_line_characters: float | None = 0.1
    """Share of characters in lines that occurred before; documents at or above it go."""
    max_newlines_per_word: float | None = 0.3
    """Documents above it go."""

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        shares = ("min_terminal_lines", "max_short_lines", "max_duplicate_line_characters")
        _check_thresholds("fineweb", self, shares)


@dataclass(frozen=True)
class QualitySettings:
    """Rules of quality that documents must meet; of those given, in this order.

    In YAML: `quality: {gopher: {min_words: 20}, gopher_repetition: {}}`; an empty mapping takes the published thresholds.
    """

    gopher_repetition: GopherRepetitionThresholds | None = None
    """None leaves the rules out; so do the others."""
    gopher: GopherThresholds | None = None
    c4: C4Thresholds | None = None
    fineweb: FineWebThresholds | None = None
