from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.config.schema import TokenizerConfig
from workbench.data import tokenizer as tokenizers
from workbench.data.special_tokens import choose

TEXTS = ["plain words", "  def f(x):\n\treturn x[0]  \n\n", "naïve 东京 🙂 \x00\x7f", "<s> and </s> are text", "12345"]


@pytest.fixture(scope="module")
def sample() -> list[str]:
    return Path(np.__file__).with_name("matlib.py").read_text().split("\n\n") * 3


def test_every_text_decodes_to_itself(sample, tmp_path: Path):
    facts = tokenizers.save(tokenizers.train_bpe(sample, 400), tmp_path)
    tokenizer = tokenizers.load_saved(tmp_path)
    assert facts == tokenizers.TokenizerFacts(400, 1, 2)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_training_again_gives_the_same_file(sample, tmp_path: Path):
    for name in ("1", "2"):
        tokenizers.save(tokenizers.train_bpe(iter(sample), 400), tmp_path / name)
    files = [p.name for p in (tmp_path / "1").iterdir()]
    assert all((tmp_path / "1" / f).read_bytes() == (tmp_path / "2" / f).read_bytes() for f in files)


def test_too_little_text_for_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"vocab_size=4096, but the training text gave \d+ ids"):
        tokenizers.train_bpe(["few words"], 4096)


def test_documents_begin_with_bos_and_nothing_else_is_one(sample, tmp_path: Path):
    facts = tokenizers.save(tokenizers.train_bpe(sample, 400), tmp_path)
    tokens = tokenizers.encode_documents(tokenizers.load_saved(tmp_path), TEXTS, facts, np.dtype("<u2"))
    assert tokens.dtype == np.dtype("<u2")
    assert tokens[0] == facts.bos_id
    assert (tokens == facts.bos_id).sum() == len(TEXTS)
    assert tokens.max() < 400
    parts = np.split(tokens, np.flatnonzero(tokens == facts.bos_id))[1:]
    assert [tokenizers.load_saved(tmp_path).decode(part[1:].tolist()) for part in parts] == TEXTS


def test_an_id_outside_the_vocabulary_is_refused(sample, tmp_path: Path):
    tokenizers.save(tokenizers.train_bpe(sample, 400), tmp_path)
    tokenizer = tokenizers.load_saved(tmp_path)
    with pytest.raises(ValueError, match="outside its vocabulary of 50"):
        tokenizers.encode_documents(tokenizer, TEXTS, tokenizers.TokenizerFacts(50, 1, 2), np.dtype("<u2"))


def test_transformers_loads_the_directory_and_agrees(sample, tmp_path: Path):
    from transformers import AutoTokenizer

    facts = tokenizers.save(tokenizers.train_bpe(sample, 400), tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, len(theirs)) == (facts.bos_id, facts.eos_id, 400)
    ours = tokenizers.load_saved(tmp_path)
    for text in TEXTS:
        assert theirs(text).input_ids == ours.encode(text, add_special_tokens=False).ids


def train_sentencepiece(folder: Path, sample: list[str], **changes: Any) -> Path:
    """Small, with Llama 2's settings."""
    import sentencepiece

    (folder / "text.txt").write_text("\n".join(sample))
    sentencepiece.SentencePieceTrainer.Train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
        **changes,
    )
    return folder / "tokenizer.model"


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory, sample) -> Path:
    return train_sentencepiece(tmp_path_factory.mktemp("sentencepiece"), sample)


def test_a_sentencepiece_models_own_ids_are_taken(sample, tmp_path: Path):
    path = train_sentencepiece(tmp_path, sample, unk_id=0, bos_id=1, eos_id=-1)
    special = choose(TokenizerConfig("file", 700, str(path)))
    assert (special.bos, special.bos_from, special.eos) == ("<s>", "sentencepiece model", None)


def test_a_sentencepiece_model_that_begins_no_text_is_believed(sample, tmp_path: Path):
    path = train_sentencepiece(tmp_path, sample, unk_id=0, bos_id=-1, eos_id=1)
    with pytest.raises(ValueError, match=r"names no token that begins a text: set tokenizer\.bos.* </s>, <unk>"):
        choose(TokenizerConfig("file", 700, str(path)))
    special = choose(TokenizerConfig("file", 700, str(path), bos="</s>"))
    assert (special.bos, special.bos_from, special.eos) == ("</s>", "tokenizer.bos", "</s>")


def test_a_sentencepiece_model_gives_sentencepieces_ids(sentencepiece_model: Path, sample, tmp_path: Path):
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    config = TokenizerConfig("file", 700, str(sentencepiece_model))
    facts = tokenizers.save(tokenizers.make_tokenizer(config, []), tmp_path)
    assert facts == tokenizers.TokenizerFacts(700, 1, 2)
    tokenizer = tokenizers.load_saved(tmp_path)
    for text in [*TEXTS[:3], TEXTS[4], *sample]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == reference.Encode(text)
        assert tokenizer.decode(ids) == text


def test_a_tokenizer_json_is_taken_as_it_is(sample, tmp_path: Path):
    tokenizers.save(tokenizers.train_bpe(sample, 400), tmp_path / "first")
    path = tmp_path / "first" / "tokenizer.json"
    config = TokenizerConfig("file", 400, str(path))
    tokenizers.save(tokenizers.make_tokenizer(config, []), tmp_path / "second")
    assert json.loads(path.read_text()) == json.loads((tmp_path / "second" / "tokenizer.json").read_text())


def test_wrong_tokenizer_files_are_refused(sample, sentencepiece_model: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"vocab_size=32000, but .* has 700 ids"):
        tokenizers.make_tokenizer(TokenizerConfig("file", 32000, str(sentencepiece_model)), [])
    with pytest.raises(ValueError, match="is not there"):
        tokenizers.make_tokenizer(TokenizerConfig("file", 400, str(tmp_path / "none.json")), [])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer"):
        tokenizers.make_tokenizer(TokenizerConfig("file", 400, str(tmp_path)), [])


def test_a_template_is_one_file_more_and_nothing_else(sample, tmp_path: Path):
    tokenizer = tokenizers.train_bpe(sample, 300)
    for name, template in (("without", None), ("with", "{{ bos_token }}")):
        tokenizers.save(tokenizer, tmp_path / name, template=template)
    plain, more = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("without", "with")
    )
    assert more == plain | {"chat_template.jinja": b"{{ bos_token }}"}
