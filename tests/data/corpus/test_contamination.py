"""Planted benchmark text is found wherever it stands, and what is kept has none."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from workbench.config.schema.contamination_config import Contamination
from workbench.data.corpus.benchmark_files import BenchmarkTexts
from workbench.data.corpus.contamination import CUT_UP, NOTHING_LEFT, BenchmarkIndex
from workbench.data.corpus.contamination_counts import Counts, Tally

QUESTION = "Which planet of the old charts was drawn with two moons, long before anyone had seen either? Mars"
SHORT = "name the tallest tree of the northern islands"
VOCABULARY = [f"w{i}" for i in range(5000)]


def benchmarks(**tasks: list[list[str]]) -> BenchmarkTexts:
    """Benchmark documents by task, each a list of texts."""
    documents = [(task, i) for task in sorted(tasks) for i in range(len(tasks[task]))]
    pairs = [(text, i) for i, (task, number) in enumerate(documents) for text in tasks[task][number]]
    return BenchmarkTexts(tuple(documents), tuple(t for t, _ in pairs), tuple(i for _, i in pairs))


def index_of(*texts: str, **settings: object) -> BenchmarkIndex:
    return BenchmarkIndex.of(benchmarks(quiz=[[t] for t in texts]), Contamination(texts="here", **settings))  # type: ignore[arg-type]


def filler(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(VOCABULARY, k=words))


@pytest.mark.parametrize(
    "planted",
    [
        QUESTION,
        QUESTION.upper(),
        QUESTION.replace(" ", "\n"),
        QUESTION.replace(" ", " -- "),
        "«" + QUESTION.replace(",", "").replace("?", "!") + "»",
        QUESTION.replace(" ", "\u00a0"),
        QUESTION.replace(" ", "\u3000"),
        QUESTION.replace(" ", " \u200b"),
        SHORT,
        SHORT.title(),
    ],
)
@pytest.mark.parametrize("where", ["begin", "middle", "end", "alone"])
def test_a_planted_text_is_found_at_its_bytes(planted: str, where: str):
    draw = random.Random(0)
    before = "" if where in ("begin", "alone") else filler(draw, 50) + " é日 \n"
    after = "" if where in ("end", "alone") else "\n ß " + filler(draw, 50)
    text = before + planted + after
    (hit,) = index_of(QUESTION, SHORT).find([filler(draw, 100), text, ""])
    assert hit.document == 1
    ((begin, end),) = hit.spans
    found = text.encode()[begin:end].decode()
    assert found == planted.strip("«»! ")
    assert hit.tasks == {"quiz": hit.passages}
    assert hit.passages == (1 if "tree" in planted.lower() else 6)


@pytest.mark.parametrize(
    "changed",
    [
        QUESTION.replace("charts", "cha\u0301rts"),  # an accent as a character of its own
        QUESTION.replace("charts", "chárts"),
        QUESTION.replace("drawn", "\uff44\uff52\uff41\uff57\uff4e"),  # full width
        QUESTION.replace("drawn", "dra\ufeffwn"),  # zero width, U+FEFF: a letter here
        QUESTION.replace("drawn", "dra\u200bwn"),  # zero width, U+200B: separates words
    ],
)
def test_other_characters_make_another_word(changed: str):
    index = index_of(QUESTION)
    assert not index.find([changed])
    # Thirteen words beside it are enough.
    assert index_of(QUESTION + " " + QUESTION.lower()).find([changed + " " + QUESTION])


def test_nothing_is_found_across_documents_or_in_other_text():
    draw = random.Random(1)
    index = index_of(*(filler(draw, 40) for _ in range(300)))
    half = QUESTION.index(" was")
    assert not index_of(QUESTION).find([QUESTION[:half], QUESTION[half:]])
    counts = index.no_counts()
    hit = index.count([filler(draw, 400) for _ in range(300)], counts)
    assert not hit.any()
    assert not counts.passages.any()


def test_all_planted_passages_are_found():
    draw = random.Random(2)
    given = [filler(draw, draw.randint(8, 60)) for _ in range(200)]
    batch = [filler(draw, 120) for _ in range(400)]
    for i, text in enumerate(given):
        begin = draw.randint(0, max(0, len(text.split()) - 13))
        words = " ".join(text.split()[begin : begin + 13])
        batch[2 * i] = batch[2 * i][:200] + f" , {words}. " + batch[2 * i][200:]
    hits = index_of(*given).find(batch)
    assert [hit.document for hit in hits] == list(range(0, 400, 2))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_kept_has_no_passage(seed: int):
    draw = random.Random(seed)
    given = [" ".join(draw.choices("abcdé日", k=draw.randint(2, 9))) for _ in range(12)]
    settings = {"ngram": 5, "report_ngram": 3, "min_words": 2, "shortest_piece_characters": 0, "most_pieces": 1000}
    index = index_of(*given, context_characters=draw.choice([0, 1, 3]), **settings)
    letters = [*"abcdef", "é", "日", "语"]
    batch = ["".join(draw.choice(letters) + draw.choice(["", " ", ". ", "\n"]) for _ in range(200)) for _ in range(20)]
    pieces, tally, hits = index.treat(batch)
    assert hits
    assert not index.find([piece for kept in pieces for piece in kept])
    for text, kept in zip(batch, pieces, strict=True):
        place = 0
        for piece in kept:
            place = text.index(piece, place) + len(piece)
    lost = sum(len(t.encode()) for t in batch) - sum(len(p.encode()) for kept in pieces for p in kept)
    assert tally.removed_bytes == lost
    assert tally.hits == len(hits) == sum(tally.tasks.values())


def test_a_cut_takes_its_surroundings_in_characters_and_whole_words():
    text = "é" * 30 + " word " + "日" * 3 + QUESTION + " end. " + "ü" * 30 + " " + "x" * 250
    index = index_of(QUESTION, context_characters=6, shortest_piece_characters=0)
    (kept,), _, _ = index.treat([text])
    assert kept == ["é" * 30 + " ", "ü" * 30 + " " + "x" * 250]
    (kept,), _, _ = index_of(QUESTION, context_characters=6).treat([text])
    assert kept == ["ü" * 30 + " " + "x" * 250]


def test_actions():
    text = filler(random.Random(0), 200) + " " + QUESTION + " " + filler(random.Random(1), 200)
    other = filler(random.Random(2), 30)
    for action, kept, done in (("mark", [text], "marked"), ("remove", [], "removed")):
        pieces, tally, _ = index_of(QUESTION, action=action).treat([other, text])
        assert pieces == [[other], kept]
        assert dict(tally.done) == {done: 1}
    _, tally, _ = index_of(QUESTION).treat([QUESTION + " a few more"])
    assert dict(tally.done) == {NOTHING_LEFT: 1}
    many = "\n".join([text] * 12)
    (pieces,), tally, _ = index_of(QUESTION).treat([many])
    assert pieces == []
    assert dict(tally.done) == {CUT_UP: 1}
    assert tally.removed_bytes == len(many)
    assert len(index_of(QUESTION, most_pieces=13).treat([many])[0][0]) == 13


def test_counts_by_task_add_up():
    draw = random.Random(3)
    both = filler(draw, 20)
    index = BenchmarkIndex.of(
        benchmarks(a=[[both], [filler(draw, 30)]], b=[[both], ["too short"]]), Contamination(texts="x", action="mark")
    )
    a = index.benchmarks.texts[1]
    _, tally, _ = index.treat([both, a, filler(draw, 40), both + " . " + a])
    assert tally.tasks == {"a + b": 2, "a": 1}
    assert tally.hits == 3
    assert tally.by_task() == {"a": 3, "b": 2}
    assert tally.passages == {"a": 2 * 8 + 2 * 18, "b": 2 * 8}
    total = Tally()
    total.add(tally)
    total.add(tally)
    assert total.by_task() == {"a": 6, "b": 4}
    assert total.documents == 8


def test_common_phrases_are_ignored_however_the_corpus_is_divided(tmp_path: Path):
    draw = random.Random(4)
    common, rare = filler(draw, 15), filler(draw, 15)
    corpus = [filler(draw, 30) + " " + (common if i % 3 == 0 else "") + " " + filler(draw, 30) for i in range(33)]
    corpus[5] += " " + rare
    corpus[6] += " " + common  # twice in one document is one document
    index = index_of(common, rare, shortest_piece_characters=0)
    results = []
    for shards in (1, 2, 7):
        total = index.no_counts()
        for i in reversed(range(shards)):
            counts = index.no_counts()
            hit = index.count(corpus[i::shards], counts)
            assert hit.tolist() == [bool(index.find([text])) for text in corpus[i::shards]]
            counts.save(tmp_path / "counts.npz")
            total.add(Counts.load(tmp_path / "counts.npz"))
        assert total.documents == 33
        assert sorted(set(total.passages.tolist())) == [1, 11]
        results.append(index.treat(corpus, index.ignored(total))[0])
    assert results[0] == results[1] == results[2]
    assert [i for i, kept in enumerate(results[0]) if kept != [corpus[i]]] == [5]
    everything = index_of(common, rare, ignore_above=None)
    assert not everything.ignored(total).any()
    assert not index_of(common, rare, ignore_above=11).ignored(total).any()


def test_the_report_names_dirty_and_clean_documents_and_those_that_cannot_be_checked():
    draw = random.Random(5)
    texts = [filler(draw, 30) for _ in range(5)]
    index = BenchmarkIndex.of(
        benchmarks(quiz=[[t] for t in texts] + [["too short"], ["no", SHORT]], tiny=[["short"]]),
        Contamination(texts="x"),
    )
    eight, thirteen = " ".join(texts[1].split()[3:11]), " ".join(texts[2].split()[3:16])
    counts = index.no_counts()
    index.count([f"{filler(draw, 9)} {eight} {filler(draw, 9)} {thirteen}", f"{SHORT} yes"], counts)
    overlap = index.overlap(counts)
    assert overlap["quiz"].dirty == [1, 2, 6]
    assert overlap["quiz"].clean == [0, 3, 4]
    assert overlap["quiz"].not_checkable == [5]
    assert overlap["quiz"].in_passages == [2, 6]
    assert overlap["quiz"].share == 0.5
    assert overlap["tiny"].not_checkable == [0]
    assert overlap["tiny"].share is None


def test_an_index_is_the_same_when_it_was_saved(tmp_path: Path):
    index = index_of(QUESTION, SHORT)
    index.save(tmp_path)
    again = BenchmarkIndex.load(tmp_path, index.benchmarks, index.settings)
    batch = [QUESTION, SHORT, "neither of them"]
    assert again.find(batch) == index.find(batch)
    counts = [index.no_counts(), again.no_counts()]
    index.count(batch, counts[0])
    again.count(batch, counts[1])
    np.testing.assert_array_equal(counts[0].passages, counts[1].passages)
    np.testing.assert_array_equal(counts[0].report_passages, counts[1].report_passages)
    assert counts[0].passages.any()


def test_texts_too_short_for_any_passage_make_an_empty_index():
    index = index_of("too short")
    counts = index.no_counts()
    hit = index.count([QUESTION, "too short"], counts)
    assert not hit.any()
    assert index.treat([QUESTION], index.ignored(counts))[0] == [[QUESTION]]
    assert index.overlap(counts)["quiz"].not_checkable == [0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"texts": ""}, "names no benchmark texts"),
        ({"action": "delete"}, "delete"),
        ({"min_words": 9}, "min_words <= report_ngram <= ngram, not 9, 8 and 13"),
        ({"report_ngram": 14}, "not 8, 14 and 13"),
        ({"min_words": 0}, "min_words"),
        ({"ignore_above": -1}, "-1"),
        ({"most_pieces": 0}, "0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Contamination(**{"texts": "x", **settings})
