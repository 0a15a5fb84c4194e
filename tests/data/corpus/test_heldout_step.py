"""Held-out documents: those with the smallest keys, whatever the shards."""

from __future__ import annotations

import json
from pathlib import Path

from workbench.data.corpus import heldout_step
from workbench.data.corpus.document_files import make_key
from workbench.data.store import prepare
from workbench.study.layout import Layout


def test_the_smallest_keys_are_held_out(corpus_data, small_tokenizer, tmp_path, monkeypatch, hash_store):
    prepared = prepare(corpus_data, small_tokenizer, Layout(tmp_path / "all"), workers=1)
    files = sorted((tmp_path / "a").iterdir())
    texts = {json.loads(line)["text"] for file in files for line in file.read_text().splitlines()}
    ordered = sorted(texts, key=make_key)
    chosen = [json.loads(line) for line in prepared.heldout_path("a").read_text().splitlines()]
    assert [row["text"] for row in chosen] == ordered[: len(chosen)]
    assert chosen[0]["id"] == f"{make_key(ordered[0]).hex()[:12]}-0"
    next_size = len(ordered[len(chosen)].encode())
    assert sum(len(row["text"].encode()) for row in chosen) + next_size > 4000
    monkeypatch.setattr(heldout_step, "_CANDIDATES", 1)
    few = prepare(corpus_data, small_tokenizer, Layout(tmp_path / "few"), workers=1)
    assert hash_store(few.directory) == hash_store(prepared.directory)


def test_no_source_moves_another_ones_documents(corpus_data, small_tokenizer, tmp_path: Path, with_source):
    prepared = prepare(corpus_data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    path = Path(corpus_data.sources["b"].path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[::-1][:40]))
    fewer = prepare(corpus_data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert fewer.heldout_path("a").read_bytes() == prepared.heldout_path("a").read_bytes()
