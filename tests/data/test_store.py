"""Prepared stores: what they hold, and that nothing but their content changes them."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from tests.data.store_texts import digests, heldout_texts, replace_source, training_texts
from workbench.config.schema import (
    MixtureSegment,
    StreamConfig,
    StreamSource,
    TokenizerConfig,
)
from workbench.data import folders, store
from workbench.data.store import open_prepared, prepare, verify
from workbench.data.store_summary import describe
from workbench.data.stream import Stream
from workbench.evaluate.suites.documents import read_heldout
from workbench.study.layout import Layout


def test_a_store_holds_its_documents(prepared, make_documents):
    originals = {"a": make_documents(400, 1), "b": make_documents(200, 2)}
    for name, texts in originals.items():
        stored = training_texts(prepared, name)
        facts = prepared.manifest["sources"][name]
        assert set(stored) <= set(texts)
        assert len(stored) == facts["documents"] > 0.85 * len(texts)
        assert facts["tokens"] == len(prepared.sources[name])
        assert facts["bytes"] == sum(len(text.encode()) for text in stored)
        held = heldout_texts(prepared, name)
        assert 3000 < sum(len(text.encode()) for text in held) == facts["heldout_bytes"] <= 4000
        assert not set(held) & set(stored)
        assert max(prepared.sources[name]) < prepared.vocab_size
    assert prepared.manifest["dtype"] == "<u2"
    assert "0.00% left" in describe(prepared)


def test_a_stream_runs_over_a_store(prepared):
    sources = {"a": StreamSource(), "b": StreamSource()}
    config = StreamConfig(prepared.fingerprint, 32, 0, sources, [MixtureSegment(0, {"a": 1, "b": 1})])
    tokens, index = Stream(prepared, config).batch(0, 8)
    assert tokens.shape == (8, 33)
    row = prepared.sources[("a", "b")[index[0]]]
    assert any((row[p * 32 : p * 32 + 33] == tokens[0]).all() for p in range(len(row) // 32))


def test_prepare_again_does_nothing(prepared, two_sources, small_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "build", lambda *_: pytest.fail("built again"))
    again = prepare(two_sources, small_tokenizer, Layout(tmp_path / "outputs"))
    assert again.manifest == prepared.manifest
    verify(again)


def test_the_number_of_workers_changes_nothing(prepared, two_sources, small_tokenizer, tmp_path):
    two = prepare(two_sources, small_tokenizer, Layout(tmp_path / "two"), workers=2)
    assert digests(two) == digests(prepared)


def test_a_source_without_text_is_named_before_the_tokenizer_is_trained(
    two_sources, small_tokenizer, tmp_path, write_jsonl
):
    write_jsonl(tmp_path / "b.jsonl", ["short one"] * 3 + [""])
    source = dataclasses.replace(two_sources.sources["b"], heldout_bytes=0)
    data = dataclasses.replace(two_sources, sources={"b": source})
    with pytest.raises(
        ValueError, match=r"'b' has no training text of .*=200 bytes or more; dropped are .*1 empty, 3 too short"
    ):
        prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)


def test_what_only_looks_like_a_line_end_stays_in_training_and_held_out_text(
    two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl
):
    odd = ["\f\x1c\u2028\u0085\v ".join(text.split("\n")) + "\nand a line" for text in make_documents(200, 1)]
    write_jsonl(tmp_path / "a.jsonl", odd)
    made = prepare(two_sources, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert set(training_texts(made, "a")) <= set(odd)
    assert set(heldout_texts(made, "a")) <= set(odd)
    read = read_heldout(str(made.heldout_dir), "a")
    assert sorted(row["text"] for row in read) == sorted(heldout_texts(made, "a"))


def test_a_lock_is_held_by_one_at_a_time_though_its_file_goes(tmp_path):
    inside, most = 0, []

    def hold() -> None:
        nonlocal inside
        for _ in range(20):
            with folders.locked(tmp_path / "a.lock"):
                inside += 1
                most.append(inside)
                time.sleep(0.0005)
                inside -= 1

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80
    assert not list(tmp_path.iterdir())


def test_inputs_that_change_while_they_are_read_make_no_store(
    two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl
):
    def change(what, done, total):
        write_jsonl(tmp_path / "b.jsonl", make_documents(150, 2))

    with pytest.raises(ValueError, match="inputs of data 'two' changed while they were read"):
        prepare(two_sources, small_tokenizer, Layout(tmp_path / "outputs"), workers=1, progress=change)
    assert not list((tmp_path / "outputs" / "data").iterdir())


def test_a_store_under_another_name_is_refused(prepared):
    moved = prepared.directory.rename(prepared.directory.with_name("0123456789abcdef"))
    with pytest.raises(ValueError, match=f"0123456789abcdef holds data {prepared.fingerprint}"):
        open_prepared(moved)


def test_names_of_stores_follow_what_is_in_them(two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl):
    def name(data=two_sources, tokenizer=small_tokenizer):
        return store.data_fingerprint(data, tokenizer), store.heldout_fingerprint(data, tokenizer)

    first, held = name()
    same = replace_source(two_sources, "a", weight=5.0, unique_tokens=100, max_epochs=None)
    assert name(dataclasses.replace(same, name="other")) == (first, held)
    capped = name(replace_source(two_sources, "a", max_bytes=1000))
    assert capped[0] != first
    assert capped[1] == held
    assert name(tokenizer=dataclasses.replace(small_tokenizer, vocab_size=301))[0] != first
    assert name(tokenizer=dataclasses.replace(small_tokenizer, vocab_size=301))[1] == held
    for changed in (
        dataclasses.replace(two_sources, heldout_percent=6.0),
        dataclasses.replace(two_sources, min_document_bytes=100),
        dataclasses.replace(two_sources, overlap_lines=4),
        dataclasses.replace(two_sources, heldout_document_bytes=3000),
        replace_source(two_sources, "b", heldout_bytes=100),
    ):
        assert name(changed)[0] != first
        assert name(changed)[1] != held
    write_jsonl(tmp_path / "a.jsonl", make_documents(400, seed=7))
    assert name()[0] != first
    assert name()[1] != held


def test_a_failed_build_leaves_nothing_and_a_killed_one_is_replaced(
    two_sources, small_tokenizer, tmp_path, monkeypatch
):
    layout = Layout(tmp_path / "outputs")
    fingerprint = store.data_fingerprint(two_sources, small_tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr("workbench.data.build._facts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(two_sources, small_tokenizer, layout, workers=1)
    assert not list((tmp_path / "outputs" / "data").iterdir())
    killed = tmp_path / "outputs" / "data" / f"{fingerprint}.partial"
    killed.mkdir()
    (killed / "tokens_zzz.bin").write_bytes(b"left over")
    prepared = prepare(two_sources, small_tokenizer, layout, workers=1)
    assert not killed.exists()
    assert not list(prepared.directory.glob("*zzz*"))


def test_damaged_stores_are_named(prepared, tmp_path):
    path = prepared.directory / "tokens_a.bin"
    original = path.read_bytes()
    path.write_bytes(original[:-2])
    with pytest.raises(ValueError, match=rf"tokens_a.bin has {len(original) - 2} bytes, not {len(original)}"):
        open_prepared(prepared.directory)
    path.write_bytes(original[:-2] + bytes([original[-2] ^ 1, original[-1]]))
    with pytest.raises(ValueError, match=r"tokens_a.bin is damaged"):
        verify(open_prepared(prepared.directory))
    with pytest.raises(ValueError, match="run `workbench prepare`"):
        open_prepared(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heldout_percent": 1e-4}, "no held-out document: raise data.heldout_percent"),
        ({"min_document_bytes": 10**6}, "below data.min_document_bytes=1000000, so that no document could be held out"),
    ],
)
def test_sources_that_give_nothing_are_refused(two_sources, small_tokenizer, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        prepare(dataclasses.replace(two_sources, **change), small_tokenizer, Layout(tmp_path / "outputs"), workers=1)


def test_a_tokenizer_from_a_file_with_a_large_vocabulary(two_sources, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<unk>": 0, "<s>": 69_999, **{str(i): i for i in range(1, 400)}, "token": 66_000}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "words.json"))
    tokenizer = TokenizerConfig("file", 70_000, str(tmp_path / "words.json"), bos="<s>")
    prepared = prepare(two_sources, tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert prepared.manifest["dtype"] == "<u4"
    assert (prepared.vocab_size, prepared.bos_id, prepared.eos_id) == (70_000, 69_999, None)
    special = prepared.manifest["tokenizer"]["special"]
    assert (special["bos"], special["bos_from"], special["eos"]) == ("<s>", "tokenizer.bos", None)
    assert "beginning of sequence '<s>' (from tokenizer.bos), end of sequence none" in describe(prepared)
    counts = np.bincount(prepared.sources["a"])
    assert len(counts) == 70_000
    assert counts[69_999] == prepared.manifest["sources"]["a"]["documents"]
    assert counts[66_000] > 0
    with pytest.raises(ValueError, match=r"vocab_size=32000, but .*words\.json has 70000 ids"):
        prepare(two_sources, dataclasses.replace(tokenizer, vocab_size=32_000), Layout(tmp_path / "outputs"), workers=1)


KILLED = """
import os, signal, sys, threading, time
from workbench.config.schema import DataConfig, SourceConfig, TokenizerConfig
from workbench.data.store import prepare
from workbench.study.layout import Layout
from pathlib import Path

def stop(what, done, total):
    if done > 20_000:
        os.kill(os.getpid(), getattr(signal, sys.argv[3]))
        time.sleep(5)

if __name__ == "__main__":
    # A shell starts what is in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    data = DataConfig("x", {"a": SourceConfig("jsonl", path=sys.argv[1], heldout_bytes=4000)}, heldout_percent=5.0)
    prepare(data, TokenizerConfig(vocab_size=300, train_bytes=40_000), Layout(Path(sys.argv[2])), 2, stop)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_stopping_prepare_leaves_no_store_and_no_process(name, tmp_path, write_jsonl, make_documents):
    path = write_jsonl(tmp_path / "a.jsonl", make_documents(2000, seed=1))
    script = tmp_path / f"stop_{tmp_path.name}.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(path), str(tmp_path / "outputs"), name]
    environment = {**os.environ, "STOP": str(script)}  # inherited by workers, so that they can be found
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert ended.returncode == -getattr(signal, name), ended.stderr
    assert not list((tmp_path / "outputs" / "data").glob("*/manifest.json"))
    if name == "SIGINT":
        assert not list((tmp_path / "outputs" / "data").glob("*.partial"))
    for _ in range(50):
        left = [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get("STOP") == str(script)]
        if not left:
            return
        time.sleep(0.1)
    pytest.fail(f"{left} still run")
