"""A stop that comes while a corpus ends: it is heeded, and the store is whole or goes on to be."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from workbench.data.corpus import pipeline
from workbench.data.corpus.pipeline import Stopped, build_corpus, building_folder
from workbench.data.fingerprint import data_fingerprint
from workbench.data.store import open_prepared, prepare, verify
from workbench.study.layout import Layout

STOPS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(name="whole")
def fixture_whole(corpus_data, small_tokenizer, tmp_path: Path, hash_store) -> dict[str, str]:
    """Hashes of the store that nobody stopped."""
    return hash_store(prepare(corpus_data, small_tokenizer, Layout(tmp_path / "whole"), workers=1).directory)


@pytest.mark.parametrize(
    ("number", "place", "after", "is_made"),
    [
        (signal.SIGINT, "data_fingerprint", False, False),  # the inputs are looked at again
        (signal.SIGTERM, "write_manifest", False, False),
        (signal.SIGINT, "write_manifest", True, False),
        (signal.SIGINT, "fsync", False, True),  # of the folder, before it gets its name: that is done to its end
        (signal.SIGTERM, "fsync", True, True),
        (signal.SIGTERM, "_do_all", True, False),  # between the last task and the end
        (signal.SIGTERM, "_finish", True, True),  # when all is done
    ],
)
def test_a_stop_at_the_end_is_heeded(
    corpus_data, small_tokenizer, tmp_path, hash_store, whole, monkeypatch, number, place, after, is_made
):
    directory = Layout(tmp_path / "stopped").data(data_fingerprint(corpus_data, small_tokenizer))
    original = getattr(pipeline, place)

    def stopped(*arguments):
        if not after:
            os.kill(os.getpid(), number)
        result = original(*arguments)
        if after:
            os.kill(os.getpid(), number)
        return result

    monkeypatch.setattr(pipeline, place, stopped)
    handlers = [signal.getsignal(each) for each in STOPS]
    said = (
        rf"^stopped; data {directory.name} is made, and"
        if is_made
        else r"^stopped .*what is done is kept in .*goes on$"
    )
    with pytest.raises(Stopped, match=said):
        build_corpus(directory, corpus_data, small_tokenizer, 1, lambda *_: None)
    assert [signal.getsignal(each) for each in STOPS] == handlers
    assert directory.exists() == is_made
    assert building_folder(directory).exists() != is_made
    monkeypatch.setattr(pipeline, place, original)
    build_corpus(directory, corpus_data, small_tokenizer, 1, lambda *_: None)
    verify(open_prepared(directory))
    assert hash_store(directory) == whole
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_a_stop_while_a_made_corpus_is_looked_for_is_heeded(corpus_data, small_tokenizer, tmp_path, monkeypatch):
    layout = Layout(tmp_path / "out")
    directory = prepare(corpus_data, small_tokenizer, layout, workers=1).directory
    original = pipeline.Interruptions.heeding

    class Interruptions(pipeline.Interruptions):
        def heeding(self, *numbers):
            self.ask(signal.SIGTERM, None)
            return original(self, *numbers)

    monkeypatch.setattr(pipeline, "Interruptions", Interruptions)
    with pytest.raises(Stopped, match="is made"):
        build_corpus(directory, corpus_data, small_tokenizer, 1, lambda *_: None)
    verify(open_prepared(directory))


def test_an_error_beside_a_stop_is_said_with_it(corpus_data, small_tokenizer, tmp_path, monkeypatch):
    directory = Layout(tmp_path / "out").data(data_fingerprint(corpus_data, small_tokenizer))

    def fail(corpus, workers, watch, interruptions):
        os.kill(os.getpid(), signal.SIGTERM)  # as a batch system stops the workers, too
        raise RuntimeError("a worker\nended by signal 15")

    monkeypatch.setattr(pipeline, "_do_all", fail)
    with pytest.raises(Stopped, match=r"goes on; it had met an error: a worker ended by signal 15$"):
        build_corpus(directory, corpus_data, small_tokenizer, 1, lambda *_: None)
