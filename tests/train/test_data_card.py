"""The card of an exported checkpoint names its data: what is known, and that the rest is not."""

import json

import pytest

from workbench.train.data_card import data_card

MANIFEST = {
    "data_fingerprint": "0123456789abcdef",
    "tokens": 300_000,
    "counts": {"web": {"drawn_tokens": 300_000, "distinct_tokens": 150_000, "epochs": 2.0, "max_repeats": 2}},
}


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "outputs" / "stages" / "ab" / "checkpoints" / "step_00000010"
    folder.mkdir(parents=True)
    return folder


def prepare(checkpoint, contamination=None, unchecked=(), **source):
    """Write the facts of a store beside a checkpoint."""
    store = checkpoint.parents[3] / "data" / "0123456789abcdef"
    store.mkdir(parents=True)
    facts = {"documents": 1200, "tokens": 150_000, "bytes": 600_000, "read": 1200, "dropped": {}}
    config = {"kind": "jsonl", "path": "/home/me/web|x.jsonl", **source}
    manifest = {"fingerprint": store.name, "format": 3, "tokenizer": {"vocab_size": 300}, "sources": {"web": facts}}
    manifest["config"] = {"data": {"name": "made", "sources": {"web": config}, "overlap_lines": 5}}
    (store / "manifest.json").write_text(json.dumps(manifest))
    if contamination is not None:
        found = {"settings": {}, "unchecked_sources": list(unchecked), "tasks": contamination}
        (store / "contamination.json").write_text(json.dumps(found))


def test_sources_and_tokens(checkpoint):
    prepare(checkpoint)
    text = data_card(checkpoint, MANIFEST)
    assert "| web | jsonl web\\|x.jsonl | 300,000 | 150,000 | 150,000 | 1,200 |" in text
    assert "Tokens trained on since the start of the chain: 300,000." in text
    assert text.endswith("Overlap with evaluation tasks:\n\nNot checked.\n")


def test_the_padding_of_packed_documents(checkpoint):
    prepare(checkpoint)
    assert "Padding" not in data_card(checkpoint, MANIFEST)
    web = {**MANIFEST["counts"]["web"], "padded_share": 0.01234}
    card = data_card(checkpoint, {**MANIFEST, "counts": {"web": web, "plain": {**web, "padded_share": 0.0}}})
    assert "Padding without loss, counted among the tokens drawn: 1.234% of web.\n" in card


def test_a_data_set_of_the_hub_is_named_with_its_commit(checkpoint):
    prepare(checkpoint, kind="huggingface", path="some/set", revision="abc")
    assert "| web | some/set at abc |" in data_card(checkpoint, MANIFEST)


def test_overlap_by_task(checkpoint):
    tasks = {
        "quiz": {"documents": 100, "checkable": 80, "dirty": [3, 4], "training_documents": {"cut": 5}},
        "short": {"documents": 1000, "checkable": 0, "dirty": []},
    }
    prepare(checkpoint, tasks)
    text = data_card(checkpoint, MANIFEST)
    assert "| quiz | 100 | 80 | 2 (2.5%) | 5 cut |" in text
    assert "| short | 1,000 | 0 | not checked | none |" in text
    assert "| with text in what was read | training documents |" in text
    assert "before any was cut out and before caps" in text


def test_sources_that_were_not_checked_are_named(checkpoint):
    prepare(checkpoint, {"quiz": {"documents": 10, "checkable": 10, "dirty": []}}, unchecked=["web"])
    text = data_card(checkpoint, MANIFEST)
    assert "| quiz | 10 | 10 | 0 (0.0%) | none |" in text
    assert "\n\nNot checked in the token files of web.\n" in text


def test_without_the_prepared_data_the_checkpoint_alone_is_told(checkpoint, tmp_path):
    for path in (checkpoint, tmp_path):
        text = data_card(path, MANIFEST)
        assert "| web | unknown | 300,000 | 150,000 | unknown | unknown |" in text
        assert "Not checked." in text


def test_data_of_the_stages_before_it_are_named_too(checkpoint):
    """As after a continued training on another mixture: its overlap counts as well."""
    prepare(checkpoint, {"quiz": {"documents": 10, "checkable": 10, "dirty": [3]}})
    stages = {"ab": ("fedcba9876543210", {"stage": "cd", "tokens": 5}), "cd": ("0123456789abcdef", None)}
    for stage, (data, parent) in stages.items():
        folder = checkpoint.parents[2] / stage
        folder.mkdir(exist_ok=True)
        (folder / "stage.yaml").write_text(json.dumps({"stage": {"data_fingerprint": data, "parent": parent}}))
    text = data_card(checkpoint, {**MANIFEST, "data_fingerprint": "fedcba9876543210"})
    own, earlier = text.split("A stage before it was trained on other data.")
    assert "`fedcba9876543210`" in own
    assert "Not checked." in own
    assert "| web | jsonl web\\|x.jsonl | unknown | unknown | 150,000 | 1,200 |" in earlier
    assert "| quiz | 10 | 10 | 1 (10.0%) | none |" in earlier


def test_conversations_are_not_taken_for_documents(checkpoint):
    store = checkpoint.parents[3] / "data" / "0123456789abcdef"
    store.mkdir(parents=True)
    (store / "manifest.json").write_text(json.dumps({"format": 1, "kind": "chat", "config": {"chat": {}}}))
    assert "| web | unknown |" in data_card(checkpoint, MANIFEST)
