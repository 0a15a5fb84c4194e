"""A corpus with every step on: all that is planted is found, counts add up, and no order of work changes a byte."""

from __future__ import annotations

import json

import pytest

from tests.data.corpus.conftest import BENCHMARK
from tests.data.corpus.test_pipeline import heldout_texts, input_texts, stored_texts
from workbench.config.schema import DataConfig
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
    held = [text for name in "abc" for text in heldout_texts(full, name)]
    texts = input_texts(full_data, "c")
    originals, near = texts[:5], texts[18:23]
    held_near = sum(text in held for text in near)
    assert dropped["near_duplicate"] == 5 - held_near
    assert found["a"]["dropped"]["exact_duplicate"] == 10
    assert found["b"]["dropped"]["exact_duplicate"] == 5
    asked = [text for text in texts if BENCHMARK.upper() in text and text not in held]
    assert found["c"]["cut"]["benchmark_text"] == len(asked) > 0
    stored = "\n".join(stored_texts(full, "c"))
    assert BENCHMARK.upper() not in stored
    assert sum(text in stored for text in originals) == sum(text not in held for text in originals)
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
    assert table["dropped"] == sum(facts["dropped"].get("near_duplicate", 0) for facts in found.values()) + held_near
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
    assert "quiz: 1 of 2 documents that can be checked have a passage of 8 words" in said
    assert f"near duplicates: {table['dropped']} documents dropped" in said


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_change_nothing(full, full_data, small_tokenizer, tmp_path, hash_store, workers: int):
    other = prepare(full_data, small_tokenizer, Layout(tmp_path / "other"), workers=workers)
    assert hash_store(other.directory) == hash_store(full.directory)
