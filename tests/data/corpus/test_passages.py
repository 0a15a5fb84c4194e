"""Passages are found by a plain reading of words, whatever stands around them."""

import random
from pathlib import Path

import numpy as np
import pytest

from workbench.data.corpus.passages import PassageIndex, merge_spans
from workbench.data.corpus.words import Words


def _plain(texts: list[list[str]], n: int, least: int) -> set[tuple[str, ...]]:
    passages = set()
    for words in texts:
        if len(words) >= n:
            passages |= {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
        elif len(words) >= least:
            passages.add(tuple(words))
    return passages


@pytest.mark.parametrize("seed", range(30))
def test_all_passages_and_only_those_are_found(seed: int, tmp_path: Path):
    draw = random.Random(seed)
    n = draw.choice([2, 3, 5])
    least = draw.randint(1, n)

    def documents(count: int, longest: int) -> list[list[str]]:
        return [draw.choices("abcde", k=draw.randrange(longest)) for _ in range(count)]

    given, batch = documents(20, 8), documents(20, 40)
    made = PassageIndex.of([" ".join(words) for words in given], range(20), n, least)
    made.save(tmp_path)
    words = Words.of([", ".join(words).upper() for words in batch])
    passages = _plain(given, n, least)
    expected = []
    for i, document in enumerate(batch):
        for begin in range(len(document)):
            for end in range(begin + 1, len(document) + 1):
                if tuple(document[begin:end]) in passages:
                    expected.append((begin + words.first[i], end + words.first[i]))
    for index in (made, PassageIndex.load(tmp_path)):
        found = index.find(words)
        assert list(zip(found.begin.tolist(), found.end.tolist(), strict=True)) == expected
        places, owners = index.index.owners_of(found.rows)
        flat = [word for document in batch for word in document]
        for place, owner in zip(places.tolist(), owners.tolist(), strict=True):
            passage = tuple(flat[found.begin[place] : found.end[place]])
            assert passage in _plain([given[owner]], n, least)
        assert set(places.tolist()) == set(range(len(expected)))


def test_nothing_is_found_across_documents():
    index = PassageIndex.of(["one two three four"], [0], 4)
    assert len(index.find(Words.of(["one two", "three four"])).rows) == 0
    assert len(index.find(Words.of(["one two three four"])).rows) == 1


def test_spans_that_overlap_are_united():
    begin, end = merge_spans(np.array([0, 2, 3, 9, 12, 12]), np.array([5, 3, 6, 12, 13, 20]))
    assert begin.tolist() == [0, 9, 12]
    assert end.tolist() == [6, 12, 20]
    assert len(merge_spans(np.empty(0, np.int64), np.empty(0, np.int64))[0]) == 0


def test_min_words_has_its_bounds():
    for least in (0, 6):
        with pytest.raises(ValueError, match=f"min_words={least} is not within 1 to n=5"):
            PassageIndex.of([], [], 5, least)
