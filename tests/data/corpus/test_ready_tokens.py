"""Sources of token files that were made elsewhere: held out, left out of the stream, refused where they have changed."""

from __future__ import annotations

import dataclasses
import json
import os
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
from workbench.config.schema.contamination_config import Contamination
from workbench.data.corpus.referenced_tokens import refuse_mask
from workbench.data.data_record import make_record
from workbench.data.fingerprint import data_fingerprint, heldout_fingerprint
from workbench.data.store import open_prepared, prepare, verify
from workbench.data.store_summary import describe, notes, source_table
from workbench.data.stream import Stream
from workbench.study.layout import Layout


def data_of(path: Path, shard_bytes: int = 6_000, **changes) -> DataConfig:
    source = SourceConfig("tokens", path=str(path), heldout_bytes=3_000, **changes)
    return DataConfig("ready", {"text": source}, corpus=CorpusConfig(shard_bytes=shard_bytes))


def stream_of(store, context: int) -> Stream:
    sources = {"text": StreamSource(None, None)}
    return Stream(store, StreamConfig(store.fingerprint, context, 0, sources, [MixtureSegment(0, {"text": 1})]))


def heldout_of(store) -> list[str]:
    with store.heldout_path("text").open() as lines:
        return [json.loads(line)["text"] for line in lines]


@pytest.fixture(name="prepared_of")
def fixture_prepared_of(llama_tokenizer, tmp_path):
    def prepared_of(data: DataConfig, outputs: str = "outputs"):
        return prepare(data, llama_tokenizer, Layout(tmp_path / outputs), workers=1)

    return prepared_of


def test_every_format_holds_out_the_same_texts_and_never_trains_on_them(write_tokens, encoded, prepared_of, tmp_path):
    ids, texts = encoded
    found = {}
    for form in ("megatron", "npy", "header", "flat"):
        path, changes = write_tokens(form)
        store = prepared_of(data_of(path, **changes))
        found[form] = heldout_of(store)
        facts = store.manifest["sources"]["text"]
        assert set(found[form]) <= set(texts)
        assert facts["read"] == len(texts) == facts["kept"] + facts["dropped"]["heldout_split"]
        assert facts["dropped"]["heldout_split"] == facts["heldout_documents"] == len(found[form]) == facts["same_ids"]
        assert facts["tokens"] + facts["excluded_tokens"] == sum(map(len, ids)) == len(store.sources["text"])
        assert facts["borders"] == {"index" if form == "megatron" else "begin": len(texts)}
        held = {tuple(ids[texts.index(text)]) for text in found[form]}
        ranges = store.sources["text"].excluded.tolist()
        assert {tuple(store.sources["text"][begin:end].tolist()) for begin, end in ranges} == held
        stream = stream_of(store, 16)
        total = (len(store.sources["text"]) - 1) // 16
        counted = stream.counts(1)["text"]
        windows = stream.windows(0, round(1 / counted.epochs))[1]
        assert len(set(windows.tolist())) == len(windows) < total
        excluded = np.zeros(len(store.sources["text"]), bool)
        for begin, end in ranges:
            excluded[begin:end] = True
        clean = [w for w in range(total) if not excluded[w * 16 : w * 16 + 17].any()]
        assert sorted(windows.tolist()) == clean
        assert "used where they are" in describe(store)
        assert source_table(store)[1][0][3] == "not measured"
        assert not any("were the files made" in note for note in notes(store))
        verify(store)
    assert len({tuple(texts) for texts in found.values()}) == 1
    assert not list((tmp_path / "outputs").rglob("*.bin")), "nothing is copied"


def test_shards_and_workers_change_nothing_of_what_is_held_out(write_tokens, llama_tokenizer, tmp_path):
    path, changes = write_tokens("flat")
    seen = []
    for number, (shard_bytes, workers) in enumerate([(1_000_000, 1), (3_000, 2), (700, 1)]):
        layout = Layout(tmp_path / str(number))
        store = prepare(data_of(path, shard_bytes, **changes), llama_tokenizer, layout, workers=workers)
        facts = store.manifest["sources"]["text"]
        seen.append(
            (heldout_of(store), sorted(store.sources["text"].excluded.tolist()), facts["read"], facts["tokens"])
        )
    assert seen[0] == seen[1] == seen[2]


def test_documents_are_told_apart_by_the_token_that_ends_them_or_by_length(encoded, prepared_of, tmp_path):
    ids, texts = encoded
    for name, documents in (
        ("end", [[*document[1:], 2] for document in ids]),
        ("window", [document[1:] for document in ids]),
    ):
        np.concatenate(documents).astype(np.uint16).tofile(tmp_path / f"{name}.bin")
        store = prepared_of(data_of(tmp_path / f"{name}.bin", token_dtype="uint16"), name)
        facts = store.manifest["sources"]["text"]
        assert list(facts["borders"]) == [name]
        assert facts["documents_with_bos"] == 0
        if name == "end":
            assert set(heldout_of(store)) <= set(texts)
        with pytest.raises(ValueError, match=r"document_mask=True: .* 0 begin with '<s>'"):
            refuse_mask(store.manifest, dataclasses.replace(stream_of(store, 16).config, document_mask=True))
        refuse_mask(store.manifest, stream_of(store, 16).config)


def test_held_out_text_may_come_from_a_file(write_tokens, write_jsonl, make_documents, prepared_of, tmp_path):
    path, changes = write_tokens("npy")
    given = write_jsonl(tmp_path / "heldout.jsonl", make_documents(40, seed=9))
    store = prepared_of(data_of(path, heldout_path=str(given), **changes))
    assert heldout_of(store)
    assert set(heldout_of(store)) <= set(make_documents(40, seed=9))
    assert not len(store.sources["text"].excluded)
    assert store.manifest["sources"]["text"]["excluded_tokens"] == 0
    without = prepared_of(data_of(path, **changes))
    assert without.fingerprint != store.fingerprint
    with pytest.raises(ValueError, match=r"heldout_path='.*gone.jsonl' is not there"):
        prepared_of(data_of(path, heldout_path=str(tmp_path / "gone.jsonl"), **changes))


def test_a_changed_or_moved_file_is_refused(write_tokens, prepared_of, llama_tokenizer, tmp_path):
    path, changes = write_tokens("npy")
    data = data_of(path, **changes)
    store = prepared_of(data)
    os.utime(path, ns=(1, 1))
    open_prepared(store.directory)  # touched, and the same
    moved = path.rename(tmp_path / "elsewhere.npy")
    with pytest.raises(
        ValueError, match=r"is not there any more: put it back, or delete .* data.sources.text.path"
    ) as caught:
        open_prepared(store.directory)
    assert "\n" not in str(caught.value)
    assert data_fingerprint(data_of(moved, **changes), llama_tokenizer) == store.fingerprint
    moved.rename(path)
    tokens = np.load(path, mmap_mode="r+")
    tokens[5] += 1
    tokens.flush()
    os.utime(path, ns=(2, 2))
    with pytest.raises(ValueError, match=r"of source 'text' has changed since it was prepared: put the file back"):
        open_prepared(store.directory)
    with pytest.raises(ValueError, match="has changed since it was prepared"):
        verify(store)
    assert data_fingerprint(data, llama_tokenizer) != store.fingerprint


def test_a_file_of_another_tokenizer_is_noticed(encoded, prepared_of, tmp_path):
    ids, _ = encoded
    shuffle = np.concatenate([np.arange(3), 3 + np.random.default_rng(0).permutation(297)])
    np.save(tmp_path / "other.npy", shuffle[np.concatenate(ids)].astype(np.uint16))
    store = prepared_of(data_of(tmp_path / "other.npy"))
    assert any("were the files made with this tokenizer?" in note for note in notes(store))
    np.save(tmp_path / "large.npy", np.append(np.concatenate(ids), 300).astype(np.uint16))
    with pytest.raises(ValueError, match=r"large.npy has id 300 at token \d+, and the tokenizer has 300"):
        prepared_of(data_of(tmp_path / "large.npy"))


def test_one_document_is_not_both_trained_on_and_held_out(encoded, prepared_of, tmp_path):
    ids, _ = encoded
    np.array(ids[0], np.uint16).tofile(tmp_path / "one.bin")
    with pytest.raises(ValueError, match=r"'text': the held-out documents are all that its token files have"):
        prepared_of(data_of(tmp_path / "one.bin", token_dtype="uint16"))


def test_settings_that_do_not_fit_are_refused_in_one_line(tmp_path):
    for changes, match in (
        ({"max_bytes": 5}, "source max_bytes=5 is about texts"),
        ({"where": "a == 1"}, "source where='a == 1' is about texts"),
        ({"token_dtype": "uint8"}, "source token_dtype='uint8'"),
    ):
        with pytest.raises(ValueError, match=match) as caught:
            SourceConfig("tokens", path="x", **changes)
        assert "\n" not in str(caught.value)
    for name in ("token_dtype", "heldout_path"):
        with pytest.raises(ValueError, match=f"source {name}='uint16' is for sources of kind 'tokens', not 'jsonl'"):
            SourceConfig("jsonl", path="x", **{name: "uint16"})
    data = data_of(tmp_path)
    with pytest.raises(ValueError, match=r"data.sources.text.kind='tokens' needs data.corpus"):
        dataclasses.replace(data, corpus=None)


def test_text_of_other_sources_loses_what_token_files_hold_out(
    write_tokens, encoded, llama_tokenizer, write_jsonl, make_documents, tmp_path
):
    path, changes = write_tokens("npy")
    texts = write_jsonl(tmp_path / "b.jsonl", [*encoded[1], *make_documents(40, seed=8)])
    data = data_of(path, **changes)
    sources = {**data.sources, "b": SourceConfig("jsonl", path=str(texts), heldout_bytes=3_000)}
    data = dataclasses.replace(data, sources=sources)
    store = prepare(data, llama_tokenizer, Layout(tmp_path / "both"), workers=1)
    held = store.manifest["sources"]["text"]["heldout_documents"]
    assert held > 0
    dropped = store.manifest["sources"]["b"]["dropped"]
    assert dropped["heldout_split"] + dropped.get("heldout_text", 0) >= held


def test_a_tokenizer_that_is_trained_here_is_refused(write_tokens, tmp_path):
    path, changes = write_tokens("npy")
    with pytest.raises(ValueError, match=r"need tokenizer.kind=file and tokenizer.path, not 'bpe'"):
        prepare(data_of(path, **changes), TokenizerConfig("bpe", 300), Layout(tmp_path / "x"), workers=1)


@pytest.fixture(name="mixed")
def fixture_mixed(write_tokens, encoded, llama_tokenizer, write_jsonl, make_documents, tmp_path):
    """Token files that hold the benchmark's documents and some of the other source's text, beside a source of texts."""
    path, changes = write_tokens("npy")
    quiz = write_jsonl(tmp_path / "quiz.jsonl", [])
    quiz.write_text("".join(json.dumps({"task": "quiz", "text": text}) + "\n" for text in encoded[1][:10]))
    texts = write_jsonl(tmp_path / "b.jsonl", [*encoded[1][10:], *make_documents(40, seed=8)])
    data = data_of(path, **changes)
    sources = {**data.sources, "b": SourceConfig("jsonl", path=str(texts), heldout_bytes=9_000)}
    corpus = dataclasses.replace(data.corpus, contamination=Contamination(str(quiz)))
    data = dataclasses.replace(data, sources=sources, corpus=corpus)
    return prepare(data, llama_tokenizer, Layout(tmp_path / "mixed"), workers=1)


def test_token_files_are_not_said_to_be_free_of_benchmark_text(mixed, write_tokens, tmp_path):
    """No text of theirs is looked at, so that documents of which none is found are those of the other sources."""
    found = json.loads((mixed.directory / "contamination.json").read_text())
    assert found["unchecked_sources"] == ["text"]
    assert "benchmark text: not looked for in the token files of text" in describe(mixed)
    path, changes = write_tokens("npy")
    data = data_of(path, **changes)
    asked = dataclasses.replace(data.corpus, contamination=Contamination(str(tmp_path / "quiz.jsonl")))
    with pytest.raises(ValueError, match=r"^data\.corpus\.contamination looks into texts, and all [^\n]*leave it out$"):
        dataclasses.replace(data, corpus=asked)


def test_duplicates_of_token_files_are_not_said_to_be_looked_for(mixed, write_tokens, prepared_of):
    path, changes = write_tokens("npy")
    alone = make_record(prepared_of(data_of(path, **changes)).directory)
    assert (alone["exact_duplicates"], alone["token_sources"]) == (False, ["text"])
    record = make_record(mixed.directory)
    assert (record["exact_duplicates"], record["token_sources"]) == (True, ["text"])


def test_held_out_text_is_said_not_to_be_measured_in_token_files(mixed, encoded, write_tokens, prepared_of):
    ids, texts = encoded
    with mixed.heldout_path("b").open() as lines:
        held = {json.loads(line)["text"] for line in lines} & set(texts)
    begins = {sum(map(len, ids[: texts.index(text)])) for text in held}
    assert begins - {begin for begin, _ in mixed.sources["text"].excluded.tolist()}, "held out of b, and trained on"
    assert mixed.manifest["overlap_unmeasured_sources"] == ["text"]
    assert make_record(mixed.directory)["overlap_unmeasured_sources"] == ["text"]
    assert "held-out text: not measured in the token files of text" in describe(mixed)
    path, changes = write_tokens("npy")
    alone = prepared_of(data_of(path, **changes))
    assert alone.manifest["overlap_unmeasured_sources"] == ["text"]
    assert "held-out text: not measured in the token files of text" in describe(alone)


def test_the_tokenizer_names_what_is_held_out_of_token_files(encoded, llama_tokenizer, write_jsonl, tmp_path):
    """It says where their documents end and what their text is; of a file with held-out text it says nothing."""
    ids, texts = encoded
    path = tmp_path / "end.bin"
    np.concatenate([[*document[1:], 2] for document in ids]).astype(np.uint16).tofile(path)
    other = dataclasses.replace(llama_tokenizer, eos="a")
    data = data_of(path, token_dtype="uint16")
    stores = [prepare(data, each, Layout(tmp_path / "outputs"), workers=1) for each in (llama_tokenizer, other)]
    assert heldout_of(stores[0]) != heldout_of(stores[1])
    assert stores[0].heldout_fingerprint != stores[1].heldout_fingerprint
    assert stores[1].heldout_fingerprint == heldout_fingerprint(data, other)
    given = data_of(path, token_dtype="uint16", heldout_path=str(write_jsonl(tmp_path / "given.jsonl", texts)))
    assert heldout_fingerprint(given, llama_tokenizer) == heldout_fingerprint(given, other)
    plain = DataConfig("plain", {"b": SourceConfig("jsonl", path=str(tmp_path / "given.jsonl"))}, corpus=CorpusConfig())
    assert heldout_fingerprint(plain, llama_tokenizer) == heldout_fingerprint(plain, other)
