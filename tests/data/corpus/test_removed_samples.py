"""Samples of removed documents do not depend on order or shards, and are readable."""

import hashlib
import json
import random

import pytest

from workbench.data.corpus.removed_samples import RemovedSamples, cut


def samples_of(documents, count=3, most_bytes=12):
    samples = RemovedSamples(count, most_bytes)
    for document in documents:
        samples.add(*document)
    return samples


def random_documents(r):
    texts = ["a", "b", "c", "\ud800", "ä" * 20, "", "x\ny", *map(str, range(9))]
    return [
        (r.choice(["short", "long"]), r.choice(texts), r.choice(["s:1", "s:2"]), r.choice([None, 1, 0.5, "why"]))
        for _ in range(r.randrange(30))
    ]


@pytest.mark.parametrize("seed", range(100))
def test_merging_is_associative_commutative_and_gives_the_whole(seed, tmp_path):
    r = random.Random(seed)
    parts = [random_documents(r) for _ in range(3)]
    a, b, c = map(samples_of, parts)
    whole = [document for part in parts for document in part]
    r.shuffle(whole)
    expected = samples_of(whole).documents()
    assert a.merge(b).merge(c).documents() == expected
    assert a.merge(b.merge(c)).documents() == expected
    assert c.merge(a).merge(b).documents() == expected
    assert a.merge(a).documents() == a.documents()
    a.merge(b).merge(c).write(tmp_path / "merged.jsonl")
    samples_of(whole).write(tmp_path / "whole.jsonl")
    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert RemovedSamples.read(tmp_path / "merged.jsonl", 3, 12).documents() == expected


def test_the_smallest_hashes_stay():
    texts = [str(number) for number in range(100)]
    samples = samples_of([("cause", text, "s") for text in texts])
    smallest = sorted(hashlib.sha256(text.encode()).hexdigest() for text in texts)[:3]
    assert [one.key for one in samples.documents()] == smallest
    known = RemovedSamples(3, 12)
    for text in texts:
        known.add("cause", text, "s", key=hashlib.sha256(text.encode()).digest())
    assert known.documents() == samples.documents()


def test_file(tmp_path):
    samples = samples_of([("b", "Grüße\n an alle", "web:3", 0.25), ("a", "x", "web:4")])
    samples.write(tmp_path / "removed.jsonl")
    records = [json.loads(line) for line in (tmp_path / "removed.jsonl").read_text().splitlines()]
    assert [{key: one[key] for key in one if key != "key"} for one in records] == [
        {"cause": "a", "value": None, "source": "web:4", "text": "x"},
        {"cause": "b", "value": 0.25, "source": "web:3", "text": "Grüße\n an "},
    ]


@pytest.mark.parametrize("most_bytes", range(1, 12))
def test_texts_are_cut_between_characters(most_bytes):
    text = "aä€😀b"
    found = cut(text, most_bytes)
    assert text.startswith(found)
    longer = text[: len(found) + 1]
    assert len(found.encode()) <= most_bytes
    assert longer == found or len(longer.encode()) > most_bytes


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="count=0 of removed samples must be at least 1"):
        RemovedSamples(0)
    with pytest.raises(ValueError, match=r"removed samples of \(3, 12\) and \(4, 12\) documents and bytes cannot"):
        samples_of([]).merge(samples_of([], 4))
    (tmp_path / "a.jsonl").write_text('{"cause": "x"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl:1: no record of a removed document: KeyError\('key'\)"):
        RemovedSamples.read(tmp_path / "a.jsonl")
