"""Corpora in shards: what is in the store, and what it depends on."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from workbench.config.schema import (
    CorpusConfig,
    DataConfig,
    MixtureSegment,
    SourceConfig,
    StreamConfig,
    StreamSource,
    TokenizerConfig,
)
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.data import python_texts
from workbench.data.fingerprint import data_fingerprint, heldout_fingerprint
from workbench.data.store import Prepared, open_prepared, prepare, verify
from workbench.data.store_summary import describe, dropped_table, notes, source_table
from workbench.data.stream import Stream
from workbench.data.tokenizer import load_saved
from workbench.study.layout import Layout


def stored_texts(prepared: Prepared, source: str) -> list[str]:
    """Pieces of a source, decoded from its token ids; the offsets say where each begins."""
    tokenizer = load_saved(prepared.tokenizer_dir)
    found = []
    for shard in prepared.manifest["sources"][source]["shards"]:
        path = prepared.directory / shard["file"]
        tokens, offsets = np.fromfile(path, prepared.manifest["dtype"]), np.load(path.with_suffix(".offsets.npy"))
        assert offsets[-1] == len(tokens) == shard["tokens"]
        assert (np.flatnonzero(tokens == prepared.bos_id) == offsets[:-1]).all()
        found += [tokenizer.decode(part[1:].tolist()) for part in np.split(tokens, offsets[1:-1]) if len(part)]
    return found


def heldout_texts(prepared: Prepared, source: str) -> list[str]:
    return [json.loads(line)["text"] for line in prepared.heldout_path(source).read_text().splitlines()]


def input_texts(data: DataConfig, source: str) -> list[str]:
    path = Path(data.sources[source].path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [json.loads(line)["text"] for file in files for line in file.read_text().splitlines()]


def fold(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def store(corpus_data, small_tokenizer, tmp_path) -> Prepared:
    return prepare(corpus_data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)


def test_a_store_holds_every_document_once_and_in_order(store, corpus_data):
    seen: set[str] = set()
    held = {fold(text) for name in "ab" for text in heldout_texts(store, name)}
    for name in "ab":
        expected = []
        for text in input_texts(corpus_data, name):
            if len(text.encode()) >= 200 and fold(text) not in seen | held:
                expected.append(text)
            seen.add(fold(text))
        assert stored_texts(store, name) == expected
        facts = store.manifest["sources"][name]
        assert facts["read"] == len(input_texts(corpus_data, name)) == facts["kept"] + sum(facts["dropped"].values())
        assert facts["bytes"] == sum(len(text.encode()) for text in expected)
        assert facts["tokens"] == len(store.sources[name]) == sum(shard["tokens"] for shard in facts["shards"])
        assert 2500 < facts["heldout_bytes"] <= 4000
    assert store.manifest["sources"]["a"]["dropped"]["exact_duplicate"] == 10
    assert store.manifest["sources"]["b"]["dropped"] == {
        "exact_duplicate": 5,
        "empty": 1,
        "heldout_split": store.manifest["sources"]["b"]["heldout_documents"],
        "too_short": 1,
    }


def test_only_the_store_is_left(store):
    assert {path.name for path in store.directory.iterdir()} == {
        "heldout",
        "lengths.json",
        "manifest.json",
        "plan.json",
        "removed",
        "tokenizer",
        "tokens",
    }
    assert [path.name for path in store.directory.parent.iterdir()] == [store.fingerprint]
    verify(store)
    file = store.directory / store.manifest["sources"]["a"]["shards"][0]["file"]
    raw = bytearray(file.read_bytes())
    raw[100] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ValueError, match="is damaged"):
        verify(open_prepared(store.directory))
    file.write_bytes(raw[:-1])
    with pytest.raises(ValueError, match="prepare again"):
        open_prepared(store.directory)


@pytest.mark.parametrize("workers", [2, 4])
def test_the_number_of_workers_changes_nothing(store, corpus_data, small_tokenizer, tmp_path, hash_store, workers):
    other = prepare(corpus_data, small_tokenizer, Layout(tmp_path / "other"), workers=workers)
    assert hash_store(other.directory) == hash_store(store.directory)


def test_the_manifest_has_the_config_of_the_plan_whoever_finishes(
    store, corpus_data, small_tokenizer, tmp_path, hash_store, with_source, monkeypatch
):
    """A command that was given relative paths writes what a job writes, which knows the plan alone."""
    monkeypatch.chdir(tmp_path)
    relative = with_source(with_source(corpus_data, "a", path="a"), "b", path="b.jsonl")
    other = prepare(relative, small_tokenizer, Layout(tmp_path / "other"), workers=1)
    assert other.manifest["config"] == json.loads((other.directory / "plan.json").read_text())["config"]
    assert other.manifest["config"]["data"]["sources"]["b"]["path"] == str(tmp_path / "b.jsonl")
    assert hash_store(other.directory) == hash_store(store.directory)


def test_the_size_of_shards_changes_no_token(store, corpus_data, small_tokenizer, tmp_path):
    whole = dataclasses.replace(corpus_data, corpus=CorpusConfig())
    other = prepare(whole, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert other.fingerprint != store.fingerprint
    assert other.heldout_fingerprint == store.heldout_fingerprint
    for name in "ab":
        assert len(other.manifest["sources"][name]["shards"]) == 1 < len(store.manifest["sources"][name]["shards"])
        assert (other.sources[name][:] == store.sources[name][:]).all()


def test_a_smaller_cap_is_a_prefix_of_a_larger(store, corpus_data, small_tokenizer, tmp_path, with_source):
    largest = prepare(
        with_source(corpus_data, "a", max_bytes=2 * 10**9), small_tokenizer, Layout(tmp_path / "outputs"), workers=1
    )
    whole = stored_texts(largest, "a")
    assert len(whole) == len(stored_texts(store, "a")) - 5, "source b, which has no cap, keeps what both have"
    for cap in (30_000, 45_000, 10**9):
        capped = with_source(corpus_data, "a", max_bytes=cap)
        small = prepare(capped, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
        texts, facts = stored_texts(small, "a"), small.manifest["sources"]["a"]
        assert texts == whole[: len(texts)]
        assert facts["bytes"] == sum(len(text.encode()) for text in texts) <= cap
        assert facts["read"] == facts["kept"] + sum(facts["dropped"].values())
        assert facts["dropped"].get("beyond_cap", 0) == len(whole) - len(texts)
        if len(texts) < len(whole):
            assert facts["bytes"] + facts["left_out_bytes"] > cap
            assert facts["left_out_bytes"] == len(whole[len(texts)].encode())
        assert stored_texts(small, "b") == stored_texts(largest, "b")
        assert small.heldout_fingerprint == store.heldout_fingerprint
        assert heldout_texts(small, "a") == heldout_texts(store, "a")
    with pytest.raises(ValueError, match="max_bytes=100 has no room for the first document, which has"):
        prepare(with_source(corpus_data, "a", max_bytes=100), small_tokenizer, Layout(tmp_path / "outputs"), workers=1)


@pytest.mark.parametrize("near", [None, NearDuplicates()])
def test_no_text_is_lost_beyond_the_cap_of_another_source(corpus_data, small_tokenizer, tmp_path, with_source, near):
    first = (tmp_path / "a" / "0.jsonl").read_text()
    (tmp_path / "b.jsonl").write_text(first)  # all of it is in source a, beyond its cap but for some
    data = with_source(corpus_data, "a", max_bytes=2000, heldout_bytes=0)
    corpus = dataclasses.replace(data.corpus, near_duplicates=near, exact_duplicates=near is None)
    data = dataclasses.replace(data, corpus=corpus)
    made = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    different = {fold(json.loads(line)["text"]) for line in first.splitlines()}
    left = different - {fold(text) for text in heldout_texts(made, "b")}
    assert {fold(text) for text in stored_texts(made, "b")} == left
    assert not left & {fold(text) for text in stored_texts(made, "a")}


@pytest.mark.parametrize("near", [None, NearDuplicates()])
def test_copies_of_what_lies_beyond_a_cap_are_counted(corpus_data, small_tokenizer, tmp_path, with_source, near):
    lines = (tmp_path / "b.jsonl").read_text()
    (tmp_path / "b.jsonl").write_text(lines + "".join(path.read_text() for path in sorted((tmp_path / "a").iterdir())))
    data = with_source(corpus_data, "a", max_bytes=2000, heldout_bytes=0)
    data = with_source(data, "b", max_bytes=10**9)
    corpus = dataclasses.replace(data.corpus, near_duplicates=near, exact_duplicates=near is None)
    data = dataclasses.replace(data, corpus=corpus)
    made = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    copies = Counter(fold(text) for name in "ab" for text in input_texts(data, name))
    gone = {fold(text) for text in input_texts(data, "a")} - {fold(text) for text in stored_texts(made, "a")}
    gone -= {fold(text) for text in heldout_texts(made, "b")}
    lost = sum(copies[text] - 1 for text in gone)
    assert lost > len(gone) > 100
    sources = made.manifest["sources"]
    assert (sources["a"]["lost_copies"], sources["b"]["lost_copies"]) == ({"beyond_cap": lost}, {})
    assert (
        f"source 'a': {lost:,} documents were dropped as duplicates of some that went later on (beyond max_bytes): "
        "their text is nowhere in the corpus" in notes(made)
    )


def test_text_of_held_out_documents_is_cut_out(corpus_data, small_tokenizer, tmp_path, store):
    held = heldout_texts(store, "a")[0].split("\n")
    before = input_texts(corpus_data, "b")[1].split("\n")
    with Path(corpus_data.sources["b"].path).open("a") as file:
        file.write(json.dumps({"text": "\n".join([*before[::-1], *held[:6], *before[::-1]]) + " end"}) + "\n")
    again = prepare(corpus_data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    if heldout_texts(again, "a") != heldout_texts(store, "a"):
        pytest.fail("the added document was chosen")
    assert again.manifest["sources"]["b"]["cut"] == {"heldout_text": 1}
    last = stored_texts(again, "b")[-2:]
    assert [text.split("\n")[0] for text in last] == [before[-1]] * 2
    facts = again.manifest["sources"]["b"]
    assert facts["documents"] == facts["kept"] + 1
    assert "b: held-out text is cut out of 1 training documents (" in describe(again)


def test_duplicates_stay_where_they_are_wanted(corpus_data, small_tokenizer, tmp_path):
    data = dataclasses.replace(corpus_data, corpus=CorpusConfig(20_000, exact_duplicates=False))
    prepared = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert "exact_duplicate" not in prepared.manifest["sources"]["a"]["dropped"]


def test_a_stream_runs_over_the_shards(store):
    sources = {"a": StreamSource(), "b": StreamSource()}
    config = StreamConfig(store.fingerprint, 32, 0, sources, [MixtureSegment(0, {"a": 1, "b": 1})])
    tokens, index = Stream(store, config).batch(0, 64)
    for row, k in zip(tokens, index, strict=True):
        whole = store.sources["ab"[k]][:]
        windows = np.lib.stride_tricks.sliding_window_view(whole, 33)[::32]
        assert (windows == row).all(1).any()


def test_summaries_are_those_of_any_store(store):
    assert [row[0] for row in source_table(store)[1]] == ["a", "b"]
    head, rows = dropped_table(store)
    for row in rows:
        counted = dict(zip(head, (int(cell.replace(",", "")) for cell in row[1:]), strict=False))
        assert int(row[1].replace(",", "")) == sum(int(cell.replace(",", "")) for cell in row[2:]), counted
    assert any("scores rest on" in note and "heldout_percent" not in note for note in notes(store))
    assert store.fingerprint in describe(store)


def test_the_fingerprint_covers_the_settings(corpus_data, small_tokenizer):
    plain = dataclasses.replace(corpus_data, corpus=None)
    settings = [None, CorpusConfig(), CorpusConfig(1000), CorpusConfig(exact_duplicates=False)]
    prints = [data_fingerprint(dataclasses.replace(plain, corpus=each), small_tokenizer) for each in settings]
    assert len(set(prints)) == 4
    assert heldout_fingerprint(plain, small_tokenizer) != heldout_fingerprint(corpus_data, small_tokenizer)


@pytest.mark.slow
def test_the_embedded_sources_go_through_the_same_steps(tmp_path, monkeypatch):
    files = python_texts.list_files()[
        ::16
    ]  # of all of them, which take minutes; in this process, which sees the change
    monkeypatch.setattr(python_texts, "list_files", lambda: files)
    sources = {
        "prose": SourceConfig("python_prose", max_bytes=600_000, heldout_bytes=30_000),
        "code": SourceConfig("python_code", max_bytes=300_000, heldout_bytes=30_000),
    }
    data = DataConfig("python", sources, corpus=CorpusConfig(shard_bytes=2_000_000))
    tokenizer = TokenizerConfig(vocab_size=500, train_bytes=100_000)
    prepared = prepare(data, tokenizer, Layout(tmp_path), workers=1)
    verify(prepared)
    plan = json.loads((prepared.directory / "plan.json").read_text())
    assert min(Counter(shard["source"] for shard in plan["shards"]).values()) > 2
    for name, facts in prepared.manifest["sources"].items():
        assert facts["read"] == facts["kept"] + sum(facts["dropped"].values())
        assert 0.9 * facts["max_bytes"] < facts["bytes"] <= facts["max_bytes"], name
        assert facts["dropped"]["not_prose" if name == "prose" else "not_code"]
