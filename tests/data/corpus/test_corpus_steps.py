"""A corpus with every step on: all that is planted is found, counts add up, and no order of work changes a byte."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.data.corpus.conftest import BENCHMARK
from tests.data.corpus.test_pipeline import heldout_texts, input_texts, stored_texts
from workbench.config.schema import CorpusConfig, DataConfig
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.data.fingerprint import data_fingerprint, heldout_fingerprint
from workbench.data.store import Prepared, prepare, verify
from workbench.data.store_summary import describe
from workbench.study.layout import Layout


@pytest.fixture(name="full")
def fixture_full(full_data, small_tokenizer, tmp_path) -> Prepared:
    return prepare(full_data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)


def read_json(store: Prepared, name: str):
    return json.loads((store.directory / name).read_text())


def test_all_that_is_planted_is_found_and_counts_add_up(full: Prepared, full_data: DataConfig):
    verify(full)
    found = full.manifest["sources"]
    for name, facts in found.items():
        assert facts["read"] == len(input_texts(full_data, name)) == facts["kept"] + sum(facts["dropped"].values())
        assert facts["documents"] == len(stored_texts(full, name))
    dropped = found["c"]["dropped"]
    assert dropped["field_filter"] == 6
    assert dropped["gopher_min_words"] == 4
    texts = input_texts(full_data, "c")
    originals, near = texts[:5], texts[18:23]
    assert dropped["near_duplicate"] == 5
    assert found["a"]["dropped"]["exact_duplicate"] == 10
    assert found["b"]["dropped"]["exact_duplicate"] == 5
    asked = [text for text in texts if BENCHMARK.upper() in text]
    assert found["c"]["cut"]["benchmark_text"] == len(asked) == 3
    stored = "\n".join(stored_texts(full, "c"))
    assert BENCHMARK.upper() not in stored
    assert all(text in stored for text in originals)
    assert not any(text in stored for text in near)

    report = read_json(full, "contamination.json")
    assert report["training_documents"] == {"cut": len(asked)} == report["tasks"]["quiz"]["training_documents"]
    task = report["tasks"]["quiz"]
    assert (task["documents"], task["checkable"], task["dirty"], task["not_checkable"]) == (3, 2, [0], [2])
    assert report["documents"] == sum(
        facts["read"]
        - sum(n for cause, n in facts["dropped"].items() if cause not in ("heldout_text", "benchmark_text"))
        for facts in found.values()
    )
    table = read_json(full, "near_duplicates.json")
    assert table["dropped"] == sum(facts["dropped"].get("near_duplicate", 0) for facts in found.values())
    assert {pair["kept"]["source"] for pair in table["examples"]} <= set("abc")
    assert all(0.3 < pair["similarity"] <= 1 for pair in table["examples"])
    lengths = read_json(full, "lengths.json")
    for name, facts in found.items():
        assert {unit: sum(told.values()) for unit, told in lengths[name].items()} == {
            "bytes": facts["documents"],
            "tokens": facts["documents"],
        }
    samples = [json.loads(line) for line in (full.directory / "removed" / "samples.jsonl").read_text().splitlines()]
    causes = {sample["cause"] for sample in samples}
    assert causes == {"field_filter", "gopher_min_words", "near_duplicate", "exact_duplicate", "too_short", "empty"}
    assert all(left["worst_document"] == 0 for left in full.manifest["overlap_left"].values())
    assert full.manifest["overlap_metered_bytes"] > 20_000
    said = describe(full)
    assert f"c: benchmark text is cut out of {len(asked)} training documents" in said
    dirty = "quiz: 1 of 2 documents that can be checked have a passage of 8 words in the text that was read, before cuts and caps"
    assert dirty in said
    assert f"near duplicates: {table['dropped']} documents dropped" in said


def test_what_a_cap_leaves_out_is_in_no_count(full_data, small_tokenizer, tmp_path, with_source):
    layout = Layout(tmp_path / "outputs")
    texts = input_texts(full_data, "c")
    for cap in (5_000, 12_000):
        data = with_source(full_data, "c", max_bytes=cap)
        store = prepare(data, small_tokenizer, layout, workers=1)
        facts, report = store.manifest["sources"]["c"], read_json(store, "contamination.json")
        assert facts["read"] == len(texts) == facts["kept"] + sum(facts["dropped"].values())
        assert facts["dropped"]["beyond_cap"] > 0
        done = report["training_documents"]
        assert done.get("cut", 0) == facts["cut"].get("benchmark_text", 0)
        assert report["tasks"]["quiz"]["dirty"] == [0]


@pytest.mark.parametrize(("action", "cause"), [("remove", "benchmark_text"), ("mark", None)])
def test_documents_with_benchmark_text_go_or_stay_as_asked(
    full_data, small_tokenizer, tmp_path, action: str, cause: str | None
):
    asked = dataclasses.replace(full_data.corpus.contamination, action=action)
    data = dataclasses.replace(full_data, corpus=dataclasses.replace(full_data.corpus, contamination=asked))
    store = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    facts, report = store.manifest["sources"]["c"], read_json(store, "contamination.json")
    assert report["training_documents"] == {"removed" if cause else "marked": 3}
    assert facts["dropped"].get("benchmark_text", 0) == (3 if cause else 0)
    lines = (store.directory / "removed" / "samples.jsonl").read_text().splitlines()
    shown = [sample for sample in map(json.loads, lines) if sample["cause"] == "benchmark_text"]
    assert [(sample["value"], sample["source"]) for sample in shown] == [("quiz", "c")] * (3 if cause else 0)
    assert all(BENCHMARK.upper() in sample["text"] for sample in shown)


def test_near_duplicates_of_what_goes_for_benchmark_text_are_counted(full_data, small_tokenizer, tmp_path):
    asked = max((text for text in input_texts(full_data, "c") if BENCHMARK.upper() in text), key=len)
    with (tmp_path / "c.jsonl").open("a") as file:
        clean = asked.replace(BENCHMARK.upper(), "")
        file.write(json.dumps({"text": clean, "meta": {"set": "Books"}}) + "\n")
    lost = {}
    for action in ("remove", "cut"):
        settings = dataclasses.replace(full_data.corpus.contamination, action=action)
        data = dataclasses.replace(full_data, corpus=dataclasses.replace(full_data.corpus, contamination=settings))
        store = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
        lost[action] = store.manifest["sources"]["c"]["lost_copies"]
        assert clean not in stored_texts(store, "c")
    assert lost == {"remove": {"benchmark_text": 1}, "cut": {}}


def test_what_nearly_repeats_held_out_text_does_not_leak(full, full_data, small_tokenizer, tmp_path):
    held = heldout_texts(full, "a")
    files = sorted((tmp_path / "a").iterdir())
    before, behind = (text.replace(" ", " changed ", 1) for text in held[:2])
    files[0].write_text(json.dumps({"text": before}) + "\n" + files[0].read_text())
    with (tmp_path / "b.jsonl").open("a") as file:
        file.write(json.dumps({"text": behind}) + "\n")
    store = prepare(full_data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert heldout_texts(store, "a") == held
    found, table = store.manifest["sources"], read_json(store, "near_duplicates.json")
    assert found["b"]["dropped"]["near_duplicate"] == 1
    assert (found["a"]["dropped"].get("heldout_text", 0), found["a"]["cut"]) in [(1, {}), (0, {"heldout_text": 1})]
    assert table["dropped"] == sum(facts["dropped"].get("near_duplicate", 0) for facts in found.values())
    assert all(left["worst_document"] == 0 for left in store.manifest["overlap_left"].values())
    lines = [line for text in (before, behind) for line in text.split("\n")[1:]]
    stored = "\n".join(text for name in "ab" for text in stored_texts(store, name))
    assert not any(line in stored for line in lines)


def test_damaged_benchmark_texts_are_named_before_anything_is_read(full_data, small_tokenizer, tmp_path):
    (tmp_path / "benchmarks" / "other.jsonl").write_text('{"task": 3}\n')
    with pytest.raises(ValueError, match=r"other\.jsonl, line 1: `task` and `text` must be text"):
        prepare(full_data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert not list((tmp_path / "outputs").rglob("plan.json"))


def test_pairs_that_are_not_alike_indeed_stay(full_data, small_tokenizer, tmp_path):
    near = NearDuplicates(bands=30, rows=1, verify=True, least_similarity=0.6)
    data = dataclasses.replace(full_data, corpus=dataclasses.replace(full_data.corpus, near_duplicates=near))
    store = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    table = read_json(store, "near_duplicates.json")
    assert table["dropped"] == store.manifest["sources"]["c"]["dropped"]["near_duplicate"] == 5
    assert all(pair["similarity"] >= 0.6 for pair in table["examples"])


def test_settings_name_the_data_and_no_held_out_document(full_data, small_tokenizer, tmp_path):
    corpus = full_data.corpus
    contamination = corpus.contamination
    changes = [
        corpus,
        dataclasses.replace(corpus, near_duplicates=None),
        dataclasses.replace(corpus, near_duplicates=NearDuplicates(bands=20)),
        dataclasses.replace(corpus, contamination=None),
        dataclasses.replace(corpus, contamination=dataclasses.replace(contamination, ngram=12)),
        dataclasses.replace(corpus, overlap_words=20),
    ]
    kinds = [dataclasses.replace(full_data, corpus=changed) for changed in changes]
    assert len({data_fingerprint(data, small_tokenizer) for data in kinds}) == len(kinds)
    assert len({heldout_fingerprint(data, small_tokenizer) for data in kinds}) == 1
    before = data_fingerprint(full_data, small_tokenizer)
    moved = (tmp_path / "benchmarks").rename(tmp_path / "elsewhere")
    there = dataclasses.replace(corpus, contamination=dataclasses.replace(contamination, texts=str(moved)))
    assert data_fingerprint(dataclasses.replace(full_data, corpus=there), small_tokenizer) == before
    (moved / "quiz.jsonl").write_text('{"task": "quiz", "text": "another"}\n')
    assert data_fingerprint(dataclasses.replace(full_data, corpus=there), small_tokenizer) != before
    with pytest.raises(ValueError, match=r"overlap_min_words=14 is more than overlap_words=13"):
        CorpusConfig(overlap_min_words=14)


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_change_nothing(full, full_data, small_tokenizer, tmp_path, hash_store, workers: int):
    other = prepare(full_data, small_tokenizer, Layout(tmp_path / "other"), workers=workers)
    assert hash_store(other.directory) == hash_store(full.directory)
