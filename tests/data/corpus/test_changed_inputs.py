"""Inputs of a corpus that are damaged, change while they are read, or are others elsewhere: said, and nothing good is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.config.schema import (
    CorpusConfig,
    DataConfig,
    SourceConfig,
)
from workbench.data import python_texts
from workbench.data.corpus import task_loop
from workbench.data.corpus.full_disk import NoSpaceError
from workbench.data.corpus.pipeline import build_corpus, building_folder
from workbench.data.fingerprint import data_fingerprint
from workbench.data.store import Prepared, prepare
from workbench.study.layout import Layout


@pytest.fixture
def store(corpus_data, small_tokenizer, tmp_path) -> Prepared:
    return prepare(corpus_data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)


def test_damaged_input_is_named_and_destroys_nothing(corpus_data, small_tokenizer, tmp_path, store, hash_store):
    path = Path(corpus_data.sources["b"].path)
    whole = path.read_bytes()
    lines = whole.split(b"\n")
    lines[50] = b"{damaged"
    path.write_bytes(b"\n".join(lines))
    for workers in (1, 2):
        layout = Layout(tmp_path / f"damaged{workers}")
        with pytest.raises(ValueError, match=r"b\.jsonl, line 51 is not JSON"):
            prepare(corpus_data, small_tokenizer, layout, workers=workers)
        root = building_folder(layout.data(data_fingerprint(corpus_data, small_tokenizer)))
        assert list((root / "records" / "read").iterdir())
        assert not list((root / "claims").iterdir())
        assert not list((root / "scratch").iterdir())
    path.write_bytes(whole)
    mended = prepare(corpus_data, small_tokenizer, Layout(tmp_path / "damaged1"), workers=1)
    assert hash_store(mended.directory) == hash_store(store.directory)


def test_inputs_that_change_while_they_are_read_are_refused(corpus_data, small_tokenizer, tmp_path):
    path = Path(corpus_data.sources["b"].path)

    def change(text: str, done: int, total: int | None) -> None:
        path.write_bytes(path.read_bytes().replace(b"token", b"taken"))

    layout = Layout(tmp_path / "outputs")
    with pytest.raises(ValueError, match=r"changed while they were read: prepare again; .* in .*\.changed: delete it"):
        prepare(corpus_data, small_tokenizer, layout, workers=1, progress=change)
    (left,) = (tmp_path / "outputs" / "data").iterdir()  # under a name by which no command goes on with it
    assert left.name.endswith(".changed")
    assert list((left / "records").rglob("*.json"))


def test_inputs_that_change_twice_leave_two_folders(corpus_data, small_tokenizer, tmp_path):
    path = Path(corpus_data.sources["b"].path)
    whole = path.read_bytes()
    for _ in range(2):
        path.write_bytes(whole)
        with pytest.raises(ValueError, match="changed while they were read"):
            prepare(
                corpus_data,
                small_tokenizer,
                Layout(tmp_path / "outputs"),
                workers=1,
                progress=lambda *_: path.write_bytes(whole.replace(b"token", b"taken")) and None,
            )
    assert {place.suffix for place in (tmp_path / "outputs" / "data").iterdir()} == {".changed", ".changed2"}


def test_a_host_with_other_packages_neither_finishes_nor_deletes(small_tokenizer, tmp_path, monkeypatch):
    files = python_texts.list_files()[::200]
    monkeypatch.setattr(python_texts, "list_files", lambda: files)
    sources = {"code": SourceConfig("python_code", heldout_bytes=3000)}
    data = DataConfig("python", sources, corpus=CorpusConfig(shard_bytes=500_000))
    layout = Layout(tmp_path)
    directory = layout.data(data_fingerprint(data, small_tokenizer))
    root = building_folder(directory)

    def build(on_done) -> None:
        build_corpus(directory, data, small_tokenizer, 1, lambda *_: None, on_done)

    with monkeypatch.context() as patched:

        def leave(corpus) -> None:
            """Go to another host when all is done but the end."""
            patched.setattr(python_texts, "list_files", lambda: files[1:])
            patched.setattr(python_texts, "describe_corpus", lambda: [["python", "other"]])

        with pytest.raises(
            ValueError, match=r"packages .* on host .* are not those .* what is done is kept in .*building"
        ):
            build(leave)
    assert list((root / "records").rglob("*.json"))
    build(None)
    assert (directory / "manifest.json").is_file()


def test_a_command_in_another_folder_goes_on(corpus_data, small_tokenizer, tmp_path, monkeypatch, with_source, store):
    """Paths of a config are relative to where a command starts, those of the plan are not."""
    monkeypatch.chdir(tmp_path)
    here = with_source(with_source(corpus_data, "a", path="a"), "b", path="b.jsonl")
    with monkeypatch.context() as patched:
        patched.setattr(task_loop, "free_bytes", lambda folder: 0)
        with pytest.raises(NoSpaceError):
            prepare(here, small_tokenizer, Layout(tmp_path / "again"), workers=1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = with_source(with_source(corpus_data, "a", path="../a"), "b", path="../b.jsonl")
    assert prepare(there, small_tokenizer, Layout(tmp_path / "again"), workers=1).fingerprint == store.fingerprint


def test_sources_without_text_are_refused(corpus_data, small_tokenizer, tmp_path):
    Path(corpus_data.sources["b"].path).write_text('{"text": "short"}\n')
    with pytest.raises(ValueError, match=r"source 'b' has no training text .* dropped are 1 too short"):
        prepare(corpus_data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
