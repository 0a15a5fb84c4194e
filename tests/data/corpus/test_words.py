"""Words and their n-grams: what a plain reading of the rules gives, and where they stand."""

import itertools
import random
import sys

import numpy as np
import pytest

from workbench.data.corpus.words import Words

_CHARACTERS = "aAbZ09 _-.,\n\t'Ääßéİı\u03a3\u03c3Жж日本語한글“”—… «»\u017f\u212a\u03c2\U0001f600\u0301"


def _is_alone(c: str) -> bool:
    return 0x3040 <= ord(c) <= 0xDFFF


def _is_letter(c: str) -> bool:
    code = ord(c)
    if code < 128:
        return c.isalnum()
    return not (0x80 <= code < 0xC0 or 0x2000 <= code < 0x2080 or 0x3000 <= code < 0x3040)


def _plain_words(text: str) -> list[str]:
    """Words character by character, as the module's docstring says them."""
    words, word = [], ""
    for c in text:
        if word and (not _is_letter(c) or _is_alone(c)):
            words.append(word)
            word = ""
        if _is_alone(c):
            words.append(c)
        elif _is_letter(c):
            word += c
    return [*words, word] if word else words


def _fold(c: str) -> str:
    if c in "\u03a3\u03c2":
        return "\u03c3"
    return c.lower() if c in "AZ\u00c4\u0416" else c


@pytest.fixture
def texts() -> list[str]:
    draw = random.Random(0)
    made = ["".join(draw.choices(_CHARACTERS, k=draw.randrange(40))) for _ in range(300)]
    return ["", "one", "...", "語", *made, "x" * 5000, ""]


def test_words_are_those_of_a_plain_reading(texts: list[str]):
    words = Words.of(texts)
    for i, text in enumerate(texts):
        mine = slice(words.first[i], words.first[i + 1])
        raw = text.encode()
        found = [raw[b:e].decode() for b, e in zip(words.begin[mine], words.end[mine], strict=True)]
        assert found == _plain_words(text), repr(text)


def _growth(c: str) -> int:
    """Bytes by which lower case is longer."""
    return len(c.lower().encode()) - len(c.encode())


_CODES = [*range(0xD800), *range(0xE000, sys.maxunicode + 1)]
"""All characters."""
_MOVING = [c for c in map(chr, _CODES) if _growth(c)]
"""Those whose lower case takes another number of bytes."""


def _words_and_hashes(text: str) -> list[tuple[str, int]]:
    words, raw = Words.of([text]), text.encode()
    borders = zip(words.begin.tolist(), words.end.tolist(), words.hashes.tolist(), strict=True)
    return [(raw[b:e].decode(), value) for b, e, value in borders]


def test_words_stand_where_they_are_though_lower_cases_are_longer_and_shorter():
    longer, shorter = [c for c in _MOVING if _growth(c) > 0], [c for c in _MOVING if _growth(c) < 0]
    mixed = []
    for up, down in itertools.product(longer, shorter):
        ups, downs = up * -_growth(down), down * _growth(up)
        mixed += [f"{a} word {b}" for a, b in ((ups, downs), (downs, ups))]
        mixed += [f"WORD{ups}.word word{downs}", f"{downs}日word{ups} Word"]
    assert all(len(text.encode()) == len(text.lower().encode()) for text in mixed)
    draw = random.Random(0)
    mixed += [" ".join(draw.choices([*_MOVING, "word", "Ж日"], k=9)) for _ in range(2000)]
    (_, expected), *_ = _words_and_hashes("word")
    for text in mixed:
        found = _words_and_hashes(text)
        assert [word for word, _ in found] == _plain_words(text), repr(text)
        assert all(value == expected for word, value in found if word == "word"), repr(text)


def test_upper_case_is_folded_where_it_has_as_many_bytes_and_nowhere_else():
    alone = dict(_words_and_hashes(" ".join(map(chr, _CODES))))
    folded = {"\u03c2": "\u03c3"} | {c: c.lower() for c in alone if not _growth(c) and c != "\u03c2"}
    for c, value in alone.items():
        assert value == alone[folded.get(c, c)], repr(c)
    assert len(set(alone.values())) == len({folded.get(c, c) for c in alone})


def test_a_word_has_one_hash_wherever_it_stands(texts: list[str]):
    together, by_word = Words.of(texts), {}
    for i, text in enumerate(texts):
        alone = Words.of([text])
        np.testing.assert_array_equal(alone.hashes, together.hashes[together.first[i] : together.first[i + 1]])
        for word, value in zip(_plain_words(text), alone.hashes.tolist(), strict=True):
            assert by_word.setdefault("".join(_fold(c) for c in word), value) == value
    assert len(set(by_word.values())) == len(by_word)


def test_hashes_are_the_same_on_every_machine():
    assert Words.of(["The quick fox"]).hashes.tolist() == [
        12143101251257735885,
        5254115894320391943,
        8008151339663993785,
    ]
    assert Words.of(["the QUICK, fox"]).ngrams(3)[0].tolist() == [12090001136379050449]


def test_ngrams_lie_within_documents(texts: list[str]):
    words = Words.of(texts)
    for n in (1, 3, 13):
        hashes, places = words.ngrams(n)
        expected = [w for i in range(len(texts)) for w in range(words.first[i], words.first[i + 1] - n + 1)]
        assert places.tolist() == expected
        again = Words.of(texts[::-1]).ngrams(n)[0]
        assert sorted(again.tolist()) == sorted(hashes.tolist())


def test_ngrams_tell_order_and_length_apart():
    (ab,), _ = Words.of(["a b"]).ngrams(2)
    (ba,), _ = Words.of(["b a"]).ngrams(2)
    a, b = Words.of(["a b"]).ngrams(1)[0]
    assert len({ab, ba, a, b}) == 4
    assert Words.of(["A -- B!"]).ngrams(2)[0].tolist() == [ab]


def test_nothing_has_no_words():
    for texts in ([], [""], [" ", "..."]):
        words = Words.of(texts)
        assert len(words.hashes) == 0
        assert words.first.tolist() == [0] * (len(texts) + 1)
        assert len(words.ngrams(2)[0]) == 0
