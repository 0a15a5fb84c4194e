"""Held-out text as lm-eval documents: whole texts, last words, and continuations to choose among.

The task files beside this module name these functions with `!function`. lm-eval calls them with a
task's `dataset_kwargs` and with the metadata, which carries `heldout_dir`, the folder of the held-out
`<source>.jsonl` files (`{"id": ..., "text": ...}` a line).

Everything here is a pure function of the texts: what looks random is drawn by hashes of the text, so
that the questions stay the same from machine to machine, and any first `n` of them are a fair sample.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets

PASSAGE_CHARACTERS = 1000
"""One question is made of each passage of this length, so that long documents give several."""

_WORD = re.compile(r"(?<=\S) ([^\W\d_]{3,})(?=[\s.,;:!?)])")
_GAP = re.compile(r"(?<=\S) (?=\S)")


class Cut(NamedTuple):
    """A place in a held-out text at which a question is asked."""

    document: int
    """Index of the text."""
    id: str
    """`<document id>#<character>`."""
    start: int
    """Character at which the answer begins, always a single space."""
    end: int
    """Character at which the matched pattern ends."""
    key: bytes
    """Hash that all choices about this question are drawn from."""


def load_texts(heldout_dir: str, source: str, **_: Any) -> datasets.DatasetDict:
    """Whole held-out texts of one source, as `{"id", "text"}`."""
    return _as_dataset(read_heldout(heldout_dir, source), source)


def load_last_words(
    heldout_dir: str, source: str, items: int, context_characters: int, **_: Any
) -> datasets.DatasetDict:
    """Passages that end before a word, as `{"id", "context", "target"}`; the target is a space and the word.

    Parameters
    ----------
    heldout_dir
        Folder of the held-out files.
    source
        Name of the source.
    items
        Questions at the most.
    context_characters
        Characters before the word at the most.
    """
    texts = read_heldout(heldout_dir, source)
    rows = [
        {"id": cut.id, "context": context, "target": texts[cut.document]["text"][cut.start : cut.end]}
        for cut in _cuts(texts, _WORD, salt="last word")
        if (context := _context(texts[cut.document]["text"], cut.start, context_characters))
    ]
    return _as_dataset(rows[:items], source)


def load_continuations(
    heldout_dir: str, source: str, items: int, choices: int, context_characters: int, choice_characters: int, **_: Any
) -> datasets.DatasetDict:
    """Passages with their true continuation among others', as `{"id", "context", "choices", "answer"}`.

    The wrong endings are true continuations elsewhere, in other held-out documents of the same source.
    All endings begin with a single space and have equally many characters, so that neither length nor
    indentation gives the answer away.

    Parameters
    ----------
    heldout_dir
        Folder of the held-out files.
    source
        Name of the source.
    items
        Questions at the most.
    choices
        Endings to choose among.
    context_characters, choice_characters
        Length of the passage, at the most, and of each ending, exactly.
    """
    texts = read_heldout(heldout_dir, source)
    whole = [cut for cut in _cuts(texts, _GAP, salt="continuation") if _ending(texts, cut, choice_characters)]
    rows: list[dict[str, Any]] = []
    for place, cut in enumerate(whole):
        context = _context(texts[cut.document]["text"], cut.start, context_characters)
        wrong = _distractors(texts, whole, place, choices - 1, choice_characters)
        if context and len(wrong) == choices - 1:
            answer = int.from_bytes(cut.key[:4], "little") % choices
            endings = [*wrong[:answer], _ending(texts, cut, choice_characters), *wrong[answer:]]
            rows.append({"id": cut.id, "context": context, "choices": endings, "answer": answer})
        if len(rows) == items:
            break
    return _as_dataset(rows, source)


def perplexity(loglikelihoods: Sequence[float]) -> float:
    """Perplexity of an answer, `exp(-mean(log-likelihood))`, as lm-eval's own.

    A function of our own because lm-eval would bootstrap the standard error of its own in several
    processes; ours is computed from the per-document values.
    """
    return math.exp(-sum(loglikelihoods) / len(loglikelihoods))


def read_heldout(heldout_dir: str | Path, source: str) -> list[dict[str, str]]:
    """Held-out documents of one source, in the order of their texts' hashes."""
    path = Path(heldout_dir) / f"{source}.jsonl"
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    texts = [{"id": str(row["id"]), "text": row["text"]} for row in rows if row["text"]]
    return sorted(texts, key=lambda row: _hash(row["text"], row["id"]))


def _cuts(texts: list[dict[str, str]], pattern: re.Pattern[str], salt: str) -> list[Cut]:
    return sorted(_passage_cuts(texts, pattern, salt), key=lambda cut: cut.key)


def _passage_cuts(texts: list[dict[str, str]], pattern: re.Pattern[str], salt: str) -> Iterator[Cut]:
    for number, row in enumerate(texts):
        text = row["text"]
        for start in range(0, len(text), PASSAGE_CHARACTERS):
            # The first fifth of a passage is left as context for what follows.
            stop = min(start + PASSAGE_CHARACTERS, len(text))
            matches = list(pattern.finditer(text, start + PASSAGE_CHARACTERS // 5, stop))
            if matches:
                key = _hash(salt, text[start:stop], row["id"])
                chosen = matches[int.from_bytes(key[8:16], "little") % len(matches)]
                yield Cut(number, f"{row['id']}#{chosen.start()}", chosen.start(), chosen.end(), key)


def _context(text: str, end: int, characters: int) -> str:
    start = max(0, end - characters)
    context = text[start:end]
    # Begin with a whole word, unless the text itself begins here.
    return context if start == 0 else context.partition(" ")[2].lstrip()


def _ending(texts: list[dict[str, str]], cut: Cut, characters: int) -> str:
    ending = texts[cut.document]["text"][cut.start : cut.start + characters]
    return ending if len(ending) == characters else ""


def _distractors(texts: list[dict[str, str]], cuts: list[Cut], place: int, count: int, characters: int) -> list[str]:
    found: list[str] = []
    truth = _ending(texts, cuts[place], characters)
    offset = int.from_bytes(cuts[place].key[16:24], "little")
    for step in range(len(cuts)):
        other = cuts[(offset + step) % len(cuts)]
        ending = _ending(texts, other, characters)
        if other.document != cuts[place].document and ending != truth and ending not in found:
            found.append(ending)
        if len(found) == count:
            break
    return found


def _hash(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode("utf-8")).digest()


def _as_dataset(rows: list[dict[str, Any]], source: str) -> datasets.DatasetDict:
    if not rows:
        raise ValueError(f"the held-out text of source {source!r} is too short to ask a question of")
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
