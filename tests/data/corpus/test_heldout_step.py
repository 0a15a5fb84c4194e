"""Held-out documents: those with the smallest keys, whatever the shards."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.config.schema import to_dict
from workbench.data.corpus import heldout_step
from workbench.data.corpus.document_files import make_key
from workbench.data.store import prepare
from workbench.data.store_summary import describe_heldout, ignored_percent
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


def _links(count: int, words: int) -> list[str]:
    """Documents of few and long words."""
    return [" ".join(f"{make_key(f'{i} {k}').hex()}" for k in range(words)) for i in range(count)]


def _write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_what_has_too_few_words_to_be_found_elsewhere_is_not_held_out(
    corpus_data, small_tokenizer, tmp_path: Path, with_source
):
    few, enough = _links(40, 7), _links(40, 9)
    data = with_source(corpus_data, "b", path=_write(tmp_path / "links.jsonl", few + enough))
    prepared = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    chosen = [json.loads(line)["text"] for line in prepared.heldout_path("b").read_text().splitlines()]
    ordered = sorted(few + enough, key=make_key)
    assert chosen == [text for text in ordered if text in enough][: len(chosen)]
    (last, *_) = [text for text in ordered[ordered.index(chosen[-1]) + 1 :] if text in enough]
    passed = sum(text in few for text in ordered[: ordered.index(last)])
    assert passed
    assert prepared.manifest["sources"]["b"]["heldout_passed_over"] == {"few_words": passed, "no_room": 1}
    assert f"  b: looked at and not held out are {passed} too few words, 1 no room left" in describe_heldout(prepared)
    assert prepared.manifest["overlap_left"]["b"]["share"] == 0, "documents of fewer words than a passage are measured"


def test_a_percentage_that_chooses_nothing_is_said(corpus_data):
    data = replace(corpus_data, heldout_percent=7.5)
    [line] = ignored_percent(to_dict(data))
    sizes = ", ".join(f"{source.heldout_bytes:,} of {name}" for name, source in data.sources.items())
    assert line.startswith("data.heldout_percent=7.5 chooses nothing in a corpus")
    assert line.endswith(f"data.sources.*.heldout_bytes are {sizes}")
    assert ignored_percent(to_dict(replace(data, corpus=None))) == []
    assert ignored_percent(to_dict(replace(data, heldout_percent=2.0))) == []


def test_a_source_of_few_words_has_nothing_to_hold_out(corpus_data, small_tokenizer, tmp_path: Path, with_source):
    data = with_source(corpus_data, "b", path=_write(tmp_path / "links.jsonl", _links(40, 7)))
    expected = "those looked at are 40 too few words: lower data.corpus.overlap_min_words=8, raise data.sources.b."
    with pytest.raises(ValueError, match=re.escape(expected)):
        prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
