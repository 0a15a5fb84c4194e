"""What a tokenizer's files name beside its ids goes into the store and into checkpoints, and no text is cut otherwise."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.data.test_special_tokens import saved, write_tokenizer
from workbench.data.carried_tokens import NAMED_FILE, Carried, read_carried, write_carried, write_named

SPECIAL = ["<s>", "</s>", "<pad>", "<|im_end|>"]
MORE = {
    "pad_token": {"content": "<pad>", "special": True},
    "mask_token": "<mask>",
    "cls_token": "a",
    "extra_special_tokens": ["<|im_end|>", "<gone>"],
    "chat_template": "{{ messages[0].content }}",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "source", SPECIAL, files={"tokenizer_config.json": {"bos_token": "<s>", **MORE}})


def test_special_tokens_are_carried_and_ordinary_ones_are_not(source: Path) -> None:
    named = {"pad_token": "<pad>", "extra_special_tokens": ["<|im_end|>"]}
    assert read_carried(source) == Carried(named, MORE["chat_template"])


def test_a_store_keeps_them_beside_files_that_stay_as_they_were(source: Path, tmp_path: Path) -> None:
    saved(source, tmp_path / "store")
    before = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    assert "pad_token" not in json.loads(before["tokenizer_config.json"])
    write_named(source, tmp_path / "store")
    after = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    assert {**before, NAMED_FILE: after[NAMED_FILE]} == after
    assert read_carried(tmp_path / "store").named == read_carried(source).named


def test_a_checkpoint_has_them_and_what_it_says_itself_stays(source: Path, tmp_path: Path) -> None:
    saved(source, tmp_path / "checkpoint")
    texts = ["a <s> b <pad>", "<|im_end|>", "plain"]
    plain = [
        PreTrainedTokenizerFast.from_pretrained(tmp_path / "checkpoint", split_special_tokens=True).encode(text)
        for text in texts
    ]
    write_carried(read_carried(source), tmp_path / "checkpoint")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "checkpoint", split_special_tokens=True)
    assert (tokenizer.bos_token, tokenizer.pad_token) == ("<s>", "<pad>")
    assert tokenizer.chat_template == MORE["chat_template"]
    assert [tokenizer.encode(text) for text in texts] == plain
    (tmp_path / "checkpoint" / "chat_template.jinja").write_text("its own")
    write_carried(read_carried(source), tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "chat_template.jinja").read_text() == "its own"


def test_marks_of_a_carried_template_become_tokens(source: Path, tmp_path: Path) -> None:
    """As in the tokenizer that it came with; texts are still scored as text."""
    saved(source, tmp_path / "checkpoint")
    write_carried(Carried({}, "{{ messages[0].content }}<|im_end|>"), tmp_path / "checkpoint")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "checkpoint")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], return_dict=False)
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_nothing_to_carry_changes_no_file(tmp_path: Path) -> None:
    source = write_tokenizer(tmp_path / "source", ["<s>", "</s>"])
    saved(source, tmp_path / "store")
    before = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    write_named(source, tmp_path / "store")
    write_carried(read_carried(source), tmp_path / "store")
    assert {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()} == before
