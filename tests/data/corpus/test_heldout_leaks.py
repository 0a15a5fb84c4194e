"""Held-out text leaves training documents, whatever their lines are; the meter finds nothing that is left."""

from __future__ import annotations

import random

import pytest

from workbench.data.corpus.heldout_leaks import HeldoutLeaks, LeakSettings, LeakTally
from workbench.data.corpus.leak_meter import LeakMeter

PASSAGE = "the held-out page says in one long line what a ferry costs, and when it leaves the Old Harbour. "
VOCABULARY = [f"w{i}" for i in range(3000)]


def filler(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(VOCABULARY, k=words))


def test_a_long_line_is_cut_and_the_document_split_there():
    leaks = HeldoutLeaks({"web": ["A page. " + PASSAGE + "More of it."]})
    before, after = filler(random.Random(0), 30), filler(random.Random(1), 30)
    for planted in (PASSAGE, PASSAGE.upper(), PASSAGE.replace(" ", "\n   "), PASSAGE.replace(",", " --")):
        (pieces,), tally = leaks.cut([f"{before} - {planted}{after}"])
        assert pieces == [f"{before} -", f". {after}"] or pieces == [f"{before} -", f".\n   {after}"]
        assert tally.cut_by == {"words": 1}


def test_lines_without_many_words_are_cut_by_their_runs():
    table = "\n".join(f"| {i} | -- | {i * i} |" for i in range(5))
    leaks = HeldoutLeaks({"web": [table], "books": [PASSAGE]})
    text = f"before it\n{table.replace(' ', '  ')}\nafter"
    pieces, tally = leaks.cut(["", text, PASSAGE, f"{PASSAGE}\n{text}"])
    assert pieces == [[""], ["before it", "after"], [], ["before it", "after"]]
    assert tally.documents == 4
    assert tally.cut == 3
    assert tally.cut_by == {"lines": 3}
    total = LeakTally()
    total.add(tally)
    total.add(tally)
    assert total.cut == 6


def test_what_is_removed_is_counted_in_bytes():
    leaks = HeldoutLeaks({"web": [filler(random.Random(5), 20)]})
    text = "é日 before " + filler(random.Random(5), 20) + " ß after"
    pieces, tally = leaks.cut([text])
    assert pieces == [["é日 before", "ß after"]]
    assert sum(tally.removed_bytes.values()) == len(text.encode()) - len("é日 beforeß after".encode())


def test_indentation_behind_a_cut_stays():
    planted = filler(random.Random(6), 14)
    (pieces,), _ = HeldoutLeaks({"code": [f"{planted} and the rest of it"]}).cut(
        [f"x = 1\n    # {planted}  \n\n    y = 2"]
    )
    assert pieces == ["x = 1\n    #", "    y = 2"]


def test_twelve_words_stay_and_nothing_is_found_across_documents():
    words = filler(random.Random(2), 26).split()
    leaks = HeldoutLeaks({"web": [" ".join(words)]})
    halves = [" ".join(words[:12]), " ".join(words[12:24])]
    assert leaks.cut(halves)[0] == [[half] for half in halves]
    assert leaks.cut([" ".join(words[3:16])])[0] == [[]]


@pytest.mark.parametrize("seed", range(30))
def test_the_meter_finds_nothing_in_what_is_left(seed: int):
    draw = random.Random(seed)
    letters = [*"abcdeFÉé日語Σς", "don't", "İx", "\u0301a", "ﬁ"]
    spaces = [" ", "\n", ". ", " \n\n  ", "\u2014", "", "\u3000", "\u00a0", "\u200b"]

    def document(length: int) -> str:
        return "".join(draw.choice(letters) + draw.choice(spaces) for _ in range(length))

    n = draw.choice([3, 4])
    heldout = {"a": [document(20) for _ in range(4)], "b": [document(20)]}
    leaks, meter = HeldoutLeaks(heldout, LeakSettings(lines=3, words=n, min_words=n)), LeakMeter(heldout, n)
    training = [document(120) for _ in range(20)]
    pieces, tally = leaks.cut(training)
    assert meter.hits(training)
    assert not meter.hits(piece for left in pieces for piece in left)
    for text, left in zip(training, pieces, strict=True):
        place = 0
        for piece in left:
            place = text.index(piece, place) + len(piece)
        if not meter.hits([text]) and left != [text]:
            assert tally.cut_by["lines"]
    removed = sum(len(t.encode()) for t in training) - sum(len(p.encode()) for left in pieces for p in left)
    assert sum(tally.removed_bytes.values()) == removed


def test_the_meter_finds_what_is_planted():
    draw = random.Random(3)
    held = [filler(draw, 40) for _ in range(5)]
    meter = LeakMeter({"web": held, "short": ["three words only"]}, 13)
    hits = meter.hits([filler(draw, 20) + "\n" + " ".join(held[2].split()[5:19]).upper(), filler(draw, 30)])
    assert len(hits) == 2
    report = meter.report(hits)
    assert report == {
        "web": {"share": 2 / (5 * 28), "worst_document": 2 / 28, "documents_above_tenth": 0.0},
    }
    assert meter.report(meter.hits(held))["web"]["share"] == 1


def test_the_meter_looks_for_documents_shorter_than_a_passage_as_a_whole():
    meter = LeakMeter({"web": ["one two three four", "five six seven", "eight nine"]}, 13, 3)
    assert meter.hits(["x One, two three four.", "five six eight nine"]) == {"one two three four"}
    assert meter.report({"one two three four"})["web"] == {
        "share": 0.5,
        "worst_document": 1,
        "documents_above_tenth": 0.5,
    }


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="min_words=8 is more than words=7"):
        LeakSettings(words=7)
    with pytest.raises(ValueError, match="lines"):
        LeakSettings(lines=0)
