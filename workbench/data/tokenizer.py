"""Text to token ids: a byte-level BPE of our own, or a tokenizer that exists, always with a beginning-of-sequence token.

Either becomes a Hugging Face tokenizer directory that `AutoTokenizer` loads offline.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from workbench.config.schema import TokenizerConfig
from workbench.data.special_tokens import OWN, TEMPLATE_FILE, SpecialTokens, choose, find_file

# Llama 2's, with Llama 2's ids.
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")


@dataclass(frozen=True)
class TokenizerFacts:
    """What the store needs to know of a tokenizer."""

    vocab_size: int
    """Number of ids."""
    bos_id: int
    """Put before every document."""
    eos_id: int | None
    """End of sequence, where there is one."""
    special: SpecialTokens = OWN
    """The two as text, and what named them."""


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE: every text can be encoded, and decodes to itself.

    Digits are single, as in Llama 2; words split as in GPT-2, so that indentation is few tokens. It adds no
    beginning-of-sequence token by itself: lm-eval puts one before every text whose likelihood it sums, and with a
    second one the text would pay for predicting it (7 nats a document, 0.015 bits per byte on held-out prose).

    Raises
    ------
    ValueError
        The texts are too few for that many ids.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(
            f"tokenizer.vocab_size={vocab_size}, but the training text gave {tokenizer.get_vocab_size()} ids: "
            "lower it, or raise tokenizer.train_bytes"
        )
    return tokenizer


def load_file(path: Path) -> Tokenizer:
    """Tokenizer of a `tokenizer.json`, a sentencepiece `tokenizer.model`, or a folder with one of them.

    Raises
    ------
    ValueError
        There is no such file, or it is neither.
    """
    path = find_file(path)
    try:
        return Tokenizer.from_file(str(path)) if path.suffix == ".json" else _convert_sentencepiece(path)
    except Exception as error:
        raise ValueError(f"tokenizer.path={str(path)!r} is not a tokenizer: {error}") from error


# Texts on which a converted sentencepiece model must give the ids that sentencepiece itself gives.
_PROBES = (
    "The quick brown fox, 2026: 3.14159!",
    "  two leading, two  inside, two trailing  ",
    "def f(x):\n    return {x: 'y'}\n\n\n\tif not x:\r\n",
    "naïve Übergröße 东京 🙂 \u200b \ufb01 ﬁ",
)


def _convert_sentencepiece(path: Path) -> Tokenizer:
    """Byte-fallback BPE of a sentencepiece model such as Llama 2's, checked against sentencepiece."""
    import sentencepiece

    model: Any = sentencepiece.SentencePieceProcessor()
    model.Load(str(path))
    ids = range(model.GetPieceSize())
    pieces = [model.IdToPiece(i) for i in ids]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    plain = [i for i in ids if not (model.IsControl(i) or model.IsUnknown(i) or model.IsByte(i))]
    merges: list[tuple[str, str]] = []
    for i in sorted(plain, key=lambda i: (-model.GetScore(i), i)):
        halves = ((pieces[i][:cut], pieces[i][cut:]) for cut in range(1, len(pieces[i])))
        known = [(a, b) for a, b in halves if a in vocabulary and b in vocabulary]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=pieces[model.unk_id()], fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # type: ignore[assignment]
    tokenizer.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(pieces[i], normalized=False, special=True) for i in ids if model.IsControl(i) or model.IsUnknown(i)]
    )
    bos = model.bos_id()
    if bos >= 0:
        tokenizer.post_processor = _bos_first(pieces[bos], bos)
    for probe in _PROBES:
        if tokenizer.encode(probe, add_special_tokens=False).ids != model.Encode(probe):
            raise ValueError(f"as byte-fallback BPE it does not reproduce sentencepiece on {probe!r}")
    return tokenizer


def _bos_first(bos: str, bos_id: int) -> Any:
    """Post-processor that puts the beginning-of-sequence token first, as Llama's."""
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, bos_id)]
    )


def make_tokenizer(config: TokenizerConfig, sample: Iterable[str]) -> Tokenizer:
    """Train on `sample`, or load `config.path`; the vocabulary's size is checked.

    Raises
    ------
    ValueError
        The file's vocabulary is not `config.vocab_size`, or it has no beginning-of-sequence token; see
        `workbench.data.special_tokens.choose`.
    """
    if config.kind == "bpe":
        return train_bpe(sample, config.vocab_size)
    tokenizer = _load_special(config)
    if count_ids(tokenizer) != config.vocab_size:
        raise ValueError(f"tokenizer.vocab_size={config.vocab_size}, but {config.path} has {count_ids(tokenizer)} ids")
    return tokenizer


def _load_special(config: TokenizerConfig) -> Tokenizer:
    assert config.path is not None
    tokenizer = load_file(Path(config.path).expanduser())
    # As `transformers` does: what begins or ends a text is special, so that text never becomes it.
    for token in choose(config).ordinary:
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
    return tokenizer


def count_ids(tokenizer: Tokenizer) -> int:
    """Count the ids that a model needs rows for: up to the largest one."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def sized(config: TokenizerConfig) -> TokenizerConfig:
    """Give the config of a tokenizer file the number of ids that the file has.

    Raises
    ------
    ValueError
        As `make_tokenizer`, but for the number.
    """
    return replace(config, vocab_size=count_ids(_load_special(config)))


def save(
    tokenizer: Tokenizer, directory: Path, special: SpecialTokens = OWN, template: str | None = None
) -> TokenizerFacts:
    """Write a Hugging Face tokenizer directory.

    Parameters
    ----------
    tokenizer
        What cuts text into tokens.
    directory
        Made where it does not exist.
    special
        The tokens that begin and end a text.
    template
        Its chat template, as Jinja; None writes none.
    """
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    names: dict[str, Any] = {"bos_token": special.bos}
    if special.eos:
        names["eos_token"] = special.eos
    if any(token.special and token.content == "<unk>" for token in tokenizer.get_added_tokens_decoder().values()):
        names["unk_token"] = "<unk>"
    settings = {
        **names,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # `<s>` in a text is text
        "model_max_length": 1_000_000_000,
    }
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(directory / "tokenizer.json"))
    for name, content in (("tokenizer_config.json", settings), ("special_tokens_map.json", names)):
        (directory / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if template is not None:
        (directory / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    return TokenizerFacts(
        vocab_size=count_ids(tokenizer),
        bos_id=vocabulary[special.bos],
        eos_id=vocabulary[special.eos] if special.eos else None,
        special=special,
    )


@lru_cache(maxsize=2)
def load_saved(directory: Path) -> Tokenizer:
    """Tokenizer of a directory that `save` wrote; kept for the process's life."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # `<s>` in a text is text, so a BOS id always begins a document
    return tokenizer


def encode_documents(
    tokenizer: Tokenizer, texts: list[str], facts: TokenizerFacts, dtype: np.dtype[Any]
) -> NDArray[np.unsignedinteger]:
    """Token ids of documents in a row, the beginning-of-sequence token before each; (tokens,) of `dtype`.

    Raises
    ------
    ValueError
        The tokenizer gave an id outside the vocabulary, or made a text's own characters the token that begins one.
    """
    parts: list[NDArray[np.int64]] = []
    bos = np.array([facts.bos_id], np.int64)
    for text, encoding in zip(texts, tokenizer.encode_batch_fast(texts, add_special_tokens=False), strict=True):
        ids = np.array(encoding.ids, np.int64)
        if (ids == facts.bos_id).any():
            raise ValueError(
                f"the tokenizer makes {facts.special.bos!r} of a document's own text ({text[:60]!r}...): documents "
                "could not be told apart; set tokenizer.bos to a token that no text becomes"
            )
        parts += (bos, ids)
    tokens = np.concatenate(parts) if parts else np.empty(0, np.int64)
    if len(tokens) and not 0 <= int(tokens.max()) < facts.vocab_size:
        raise ValueError(f"the tokenizer gave id {int(tokens.max())}, outside its vocabulary of {facts.vocab_size}")
    return tokens.astype(dtype)
