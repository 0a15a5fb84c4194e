"""C4's rules (Raffel et al. 2020, section 2.2): lines that a page loses, and pages that go.

As in the paper, `lorem ipsum` and curly brackets count anywhere in a page; C4's code and `datatrove` look only into the lines
that stay. A sentence ends with . ! or ? before white space or the line's end, and what is behind the last one is a sentence
too; C4 and `datatrove` use NLTK's Punkt, which knows abbreviations and so counts fewer. Quotation marks that end a line are
the two of ASCII, as in `datatrove`, and the curly ones; C4's code has " alone. Words of a line are counted before citations
go, as in `datatrove`; in C4's code afterwards. Only `...` is an ellipsis in both, here `…` is one too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from workbench.config.schema.quality_thresholds import C4Thresholds
from workbench.data.corpus.quality_rules.breach import Breach

_ENDS = (".", "!", "?", '"', "'", "\u201d", "\u2019")
_ELLIPSES = ("...", "…")
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_POLICY = re.compile("terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
_SENTENCE = re.compile(r"[.!?][\"'\u201d\u2019)\]]*(?=\s|$)")


def breaches(thresholds: C4Thresholds, texts: Sequence[str]) -> list[Breach | None]:
    """First threshold that each page breaks."""
    return [breach for _, breach in clean(thresholds, texts)]


def clean(thresholds: C4Thresholds, texts: Sequence[str]) -> list[tuple[str, Breach | None]]:
    """Remove the lines of pages that the rules remove.

    Returns
    -------
    list
        Of each page the lines that stay, and the first threshold that it breaks, if any.
    """
    return [_clean(thresholds, text) for text in texts]


def _clean(limits: C4Thresholds, text: str) -> tuple[str, Breach | None]:
    lower = text.lower()
    if limits.lorem_ipsum and "lorem ipsum" in lower:
        return "", Breach("c4_lorem_ipsum", lower.count("lorem ipsum"))
    if limits.curly_bracket and "{" in text:
        return "", Breach("c4_curly_bracket", text.count("{"))
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    javascript = limits.javascript_lines and "javascript" in lower
    policy = limits.policy_lines and _POLICY.search(lower) is not None
    kept = [line for line in (_kept(limits, line, javascript, policy) for line in lines) if line]
    if limits.min_sentences:
        sentences = sum(map(_sentences, kept))
        if sentences < limits.min_sentences:
            return "\n".join(kept), Breach("c4_min_sentences", sentences)
    return "\n".join(kept), None


def _kept(limits: C4Thresholds, line: str, javascript: bool, policy: bool) -> str | None:
    """Give the line without citations, or None if it goes; the last two say what to look for."""
    whole = line
    if limits.citations and "[" in line:
        line = _CITATION.sub("", line).strip()
    if limits.terminal_punctuation and (not line.endswith(_ENDS) or line.endswith(_ELLIPSES)):
        return None
    words = whole.split()
    if (
        limits.max_word_length is not None
        and len(whole) > limits.max_word_length  # or no word can be longer
        and max(map(len, words)) > limits.max_word_length
    ):
        return None
    if limits.min_words_per_line is not None and len(words) < limits.min_words_per_line:
        return None
    if javascript and "javascript" in line.lower():
        return None
    if policy and _POLICY.search(line.lower()):
        return None
    return line


def _sentences(line: str) -> int:
    count = end = 0
    for match in _SENTENCE.finditer(line):
        count, end = count + 1, match.end()
    return count + bool(line[end:].strip())
