"""The tokens that begin and end a text are those that a tokenizer's own files name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from workbench.config.schema import TokenizerConfig
from workbench.data import fingerprint
from workbench.data import tokenizer as tokenizers
from workbench.data.special_tokens import OWN, choose

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def write_tokenizer(
    folder: Path,
    special: list[str],
    *,
    ordinary: list[str] | None = None,
    begin: str | None = None,
    files: dict[str, dict[str, Any]] | None = None,
) -> Path:
    """Byte-level BPE without merges; `ordinary` are entries of the vocabulary that only look special."""
    names = [*ALPHABET, *(ordinary or [])]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    level = processors.ByteLevel(trim_offsets=False)
    tokenizer.post_processor = level
    if begin:
        template = processors.TemplateProcessing(f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))])
        tokenizer.post_processor = processors.Sequence([level, template])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in (files or {}).items():
        (folder / name).write_text(json.dumps(content))
    return folder


def config_of(folder: Path, **changes: Any) -> TokenizerConfig:
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    return TokenizerConfig("file", max(vocabulary.values()) + 1, str(folder), **changes)


def chosen(folder: Path, **changes: Any) -> tuple[str, str | None]:
    special = choose(config_of(folder, **changes))
    return special.bos, special.eos


def saved(folder: Path, out: Path, **changes: Any) -> tokenizers.TokenizerFacts:
    config = config_of(folder, **changes)
    return tokenizers.save(tokenizers.make_tokenizer(config, []), out, choose(config))


LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
LLAMA3_FILES = {
    "tokenizer_config.json": {"bos_token": {"content": "<|begin_of_text|>", "special": True}, "eos_token": "<|eot_id|>"}
}


def test_tokenizer_config_counts_before_names_that_look_special(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, LLAMA3, ordinary=["<s>", "</s>"], begin="<|begin_of_text|>", files=LLAMA3_FILES)
    special = choose(config_of(folder))
    assert (special.bos, special.eos) == ("<|begin_of_text|>", "<|eot_id|>")
    assert (special.bos_from, special.eos_from) == ("tokenizer_config.json", "tokenizer_config.json")
    assert str(special) == (
        "beginning of sequence '<|begin_of_text|>' (from tokenizer_config.json), "
        "end of sequence '<|eot_id|>' (from tokenizer_config.json)"
    )


def test_the_post_processor_counts_before_names(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, [*LLAMA3, "<s>"], ordinary=["</s>"], begin="<|begin_of_text|>")
    assert chosen(folder) == ("<|begin_of_text|>", "<|end_of_text|>")
    assert choose(config_of(folder)).bos_from == "post-processor"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({"type": "RobertaProcessing", "cls": ["<b>", 1], "sep": ["<e>", 2], "trim_offsets": True}, ("<b>", "<e>")),
        ({"type": "BertProcessing", "cls": ["<b>", 1], "sep": ["<e>", 2]}, ("<b>", "<e>")),
        (None, None),
    ],
)
def test_every_kind_of_post_processor_is_read(tmp_path: Path, kind: dict[str, Any] | None, expected: Any) -> None:
    folder = write_tokenizer(tmp_path, ["<b>", "<e>"])
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": kind}))
    if expected:
        assert chosen(folder) == expected
    else:
        with pytest.raises(ValueError, match="names no token that begins a text"):
            chosen(folder)


def test_ordinary_vocabulary_is_never_taken_by_its_name(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, ["<|endoftext|>"], ordinary=["<s>", "</s>"])
    assert chosen(folder) == ("<|endoftext|>", "<|endoftext|>")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"special_tokens_map.json": {"bos_token": "<b>", "eos_token": {"content": "<e>"}}}, ("<b>", "<e>")),
        ({"config.json": {"bos_token_id": len(ALPHABET), "eos_token_id": len(ALPHABET) + 1}}, ("<b>", "<e>")),
        # Llama's default ids: in this vocabulary bytes, not special.
        ({"config.json": {"bos_token_id": 1, "eos_token_id": 2}}, ("<|endoftext|>", "<|endoftext|>")),
        # Qwen's: no token begins a text by the config, so the list of names is asked.
        ({"tokenizer_config.json": {"bos_token": None, "eos_token": "<e>"}}, ("<|endoftext|>", "<e>")),
        ({"generation_config.json": {"eos_token_id": [256, 257]}}, ("<|endoftext|>", "<|endoftext|>")),
    ],
)
def test_files_beside_the_tokenizer(tmp_path: Path, files: dict[str, Any], expected: tuple[str, str]) -> None:
    folder = write_tokenizer(tmp_path, ["<b>", "<e>", "<|endoftext|>"], files=files)
    assert chosen(folder) == expected


def test_settings_count_before_all(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "in", LLAMA3, ordinary=["<x>"], files=LLAMA3_FILES)
    assert chosen(folder, bos="<|end_of_text|>") == ("<|end_of_text|>", "<|eot_id|>")
    assert choose(config_of(folder, bos="<x>")).bos_from == "tokenizer.bos"
    facts = saved(folder, tmp_path / "out", bos="<x>", eos="<|end_of_text|>")
    assert (facts.bos_id, facts.eos_id) == (256, 258)
    # It becomes special: its text stays text.
    tokens = tokenizers.encode_documents(tokenizers.load_saved(tmp_path / "out"), ["a<x>b"], facts, np.dtype("<u2"))
    assert (tokens == 256).tolist() == [True] + [False] * 5


def test_transformers_agrees_on_the_choice(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = write_tokenizer(tmp_path / "in", LLAMA3, ordinary=["<s>"], begin=LLAMA3[0], files=LLAMA3_FILES)
    facts = saved(folder, tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (theirs.bos_token_id, theirs.eos_token_id) == (facts.bos_id, facts.eos_id)
    assert theirs("ab").input_ids[0] == facts.bos_id
    assert theirs.unk_token is None


@pytest.mark.parametrize(
    ("special", "files", "changes", "message"),
    [
        (["<x>"], {}, {}, r"names no token that begins a text: set tokenizer\.bos \(and tokenizer\.eos.* are <x>$"),
        ([], {}, {}, "which are none$"),
        (["<s>"], {}, {"bos": "<b>"}, r"^tokenizer\.bos names '<b>', which is no token of .*: set tokenizer\.bos"),
        (
            ["<s>"],
            {"tokenizer_config.json": {"eos_token": "<e>"}},
            {},
            "^tokenizer_config.json names '<e>', which is no",
        ),
        (["<s>"], {"tokenizer_config.json": ["<s>"]}, {}, "tokenizer_config.json holds no JSON object"),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_one_line(tmp_path: Path, special, files, changes, message) -> None:
    folder = write_tokenizer(tmp_path, special, files=files)
    with pytest.raises(ValueError, match=message) as caught:
        choose(config_of(folder, **changes))
    assert "\n" not in str(caught.value)


def test_a_damaged_file_beside_the_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, ["<s>"])
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is no JSON"):
        choose(config_of(folder))


def test_another_token_than_the_post_processor_puts_first_is_refused(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, LLAMA3, begin="<|begin_of_text|>")
    with pytest.raises(ValueError, match=r"puts '<\|begin_of_text\|>' before a text by itself"):
        choose(config_of(folder, bos="<|end_of_text|>"))


def test_a_text_that_becomes_the_first_token_is_refused(tmp_path: Path) -> None:
    vocabulary = {"<unk>": 0, "<s>": 1, "a": 2}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(tmp_path / "tokenizer.json"))
    facts = saved(tmp_path, tmp_path / "out", bos="<s>")
    tokenizer = tokenizers.load_saved(tmp_path / "out")
    assert tokenizers.encode_documents(tokenizer, ["a a"], facts, np.dtype("<u2")).tolist() == [1, 2, 2]
    with pytest.raises(ValueError, match=r"makes '<s>' of a document's own text \('a <s> a'\.\.\.\)"):
        tokenizers.encode_documents(tokenizer, ["a <s> a"], facts, np.dtype("<u2"))


def test_settings_are_for_files_alone() -> None:
    assert choose(TokenizerConfig()) == OWN
    for changes in ({"bos": "<s>"}, {"eos": "</s>"}, {"kind": "file", "path": "x", "bos": ""}):
        with pytest.raises(ValueError, match=r"tokenizer\.(bos|eos)='.*': name a token of a tokenizer.kind='file'"):
            TokenizerConfig(**changes)  # type: ignore[arg-type]


def test_the_choice_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, ["<unk>", "<s>", "</s>"])

    def described(**changes: Any) -> dict[str, Any]:
        return fingerprint._describe_tokenizer(dataclasses.replace(config_of(folder), **changes))

    first = described()
    assert (first["bos"], first["eos"]) == ("<s>", "</s>")
    assert described(bos="<s>", eos="</s>") == first
    assert described(path=str(folder / "tokenizer.json")) == first
    assert described(eos="<unk>") == first | {"eos": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<unk>"}))
    assert described() == first | {"eos": "<unk>"}


def test_our_own_tokenizers_fingerprint_is_as_it_was() -> None:
    assert fingerprint._describe_tokenizer(TokenizerConfig()) == {
        "kind": "bpe",
        "vocab_size": 4096,
        "train_bytes": 8_000_000,
    }
