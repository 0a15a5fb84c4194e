"""Documents that nearly repeat a held-out one go, with and without a search for near duplicates among the others."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from tests.data.corpus.test_pipeline import heldout_texts, stored_texts
from workbench.config.schema import CorpusConfig
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.data.corpus.near_duplicate_groups import write_pairs
from workbench.data.fingerprint import data_fingerprint, heldout_fingerprint
from workbench.data.store import prepare, verify
from workbench.study.layout import Layout

NEAR = NearDuplicates(bands=24, rows=6)


def changed(data, **settings):
    return dataclasses.replace(data, corpus=dataclasses.replace(data.corpus, **settings))


def test_near_duplicates_of_held_out_documents_go_and_no_other(corpus_data, small_tokenizer, tmp_path):
    layout = Layout(tmp_path / "outputs")
    held = heldout_texts(prepare(corpus_data, small_tokenizer, layout, workers=1), "a")
    first = sorted((tmp_path / "a").iterdir())[0]
    planted = [text.replace(" ", " changed ", 1) for text in held[:3]]
    twins = [
        f"{text} and {' '.join(text.split()[::-1])}"
        for text in stored_texts(prepare(corpus_data, small_tokenizer, layout, workers=1), "b")[:2]
    ]
    twins += [f"{text} besides" for text in twins]
    first.write_text(json.dumps({"text": planted[0]}) + "\n" + first.read_text())
    with (tmp_path / "b.jsonl").open("a") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in [*planted[1:], *twins])

    stores = {}
    for name, near in (("kept", None), ("dropped", NEAR)):
        data = changed(corpus_data, near_duplicates=near, heldout_near_duplicates=NEAR)
        stores[name] = store = prepare(data, small_tokenizer, layout, workers=1)
        verify(store)
        assert heldout_texts(store, "a") == held
        found = store.manifest["sources"]
        assert (found["a"]["dropped"]["near_heldout"], found["b"]["dropped"]["near_heldout"]) == (1, 2)
        assert found["b"]["dropped"].get("near_duplicate", 0) == (0 if near is None else 2)
        assert all(facts["read"] == facts["kept"] + sum(facts["dropped"].values()) for facts in found.values())
        lines = {line for text in planted for line in text.split("\n")}
        assert not lines & {
            line for source in "ab" for text in stored_texts(store, source) for line in text.split("\n")
        }
    assert stores["kept"].heldout_fingerprint == stores["dropped"].heldout_fingerprint


def test_documents_that_are_left_out_are_in_no_pair(tmp_path):
    bands = tmp_path / "bands.npy"
    np.save(bands, np.array([[5], [5], [7], [5], [7]], np.uint64))
    every = np.fromfile(write_pairs(0, [bands], tmp_path / "all", 1 << 26), "<i8").reshape(-1, 2)
    assert sorted(every.tolist()) == [[0, 1], [0, 3], [2, 4]]
    left = write_pairs(0, [bands], tmp_path / "left", 1 << 26, None, [np.array([0, 4])])
    assert np.fromfile(left, "<i8").reshape(-1, 2).tolist() == [[1, 3]]


def test_the_setting_names_the_data_and_no_held_out_document(corpus_data, small_tokenizer):
    asked = changed(corpus_data, heldout_near_duplicates=NEAR)
    assert data_fingerprint(asked, small_tokenizer) != data_fingerprint(corpus_data, small_tokenizer)
    assert heldout_fingerprint(asked, small_tokenizer) == heldout_fingerprint(corpus_data, small_tokenizer)


def test_a_check_of_the_true_similarity_is_refused():
    with pytest.raises(ValueError, match=r"data\.corpus\.heldout_near_duplicates\.verify=True is not there"):
        CorpusConfig(heldout_near_duplicates=dataclasses.replace(NEAR, verify=True))
