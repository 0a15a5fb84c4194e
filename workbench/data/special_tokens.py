"""What the files of a tokenizer that exists say of it: the tokens that begin and end a text, and its chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from workbench.config.schema import TokenizerConfig

BOS_NAMES = ("<s>", "<|begin_of_text|>", "<|startoftext|>", "<bos>", "[BOS]", "<|endoftext|>")
"""Common names, in the order in which they are looked for; the last resort."""
EOS_NAMES = ("</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "[EOS]")
"""Likewise."""


TEMPLATE_FILE = "chat_template.jinja"
"""Where a tokenizer's directory holds its chat template."""


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens that begin and end a text, and what named them."""

    bos: str
    """Put before every document."""
    bos_from: str
    """What named it, such as `tokenizer_config.json`."""
    eos: str | None
    """End of sequence; None where the tokenizer has none."""
    eos_from: str | None
    """What named it."""
    ordinary: tuple[str, ...] = ()
    """Those of them that are part of the vocabulary without being special, until they are made so."""

    def __str__(self) -> str:
        end = f"{self.eos!r} (from {self.eos_from})" if self.eos else "none"
        return f"beginning of sequence {self.bos!r} (from {self.bos_from}), end of sequence {end}"


OWN = SpecialTokens("<s>", "this BPE's own", "</s>", "this BPE's own")
"""Those of the BPE that is trained here: Llama 2's."""


class Vocabulary(NamedTuple):
    """What a tokenizer's file says of its tokens."""

    ids: dict[str, int]
    """Id of every token."""
    special: frozenset[str]
    """Tokens that text never becomes."""
    kind: str
    """`post-processor`, or `sentencepiece model`: what names `bos` and `eos` below."""
    bos: str | None
    """Token put before a text, where the file says so."""
    eos: str | None
    """Token put behind it."""


def find_file(path: Path) -> Path:
    """Tokenizer file of a path: itself, or the `tokenizer.json` or `tokenizer.model` in the folder.

    Raises
    ------
    ValueError
        There is none.
    """
    if path.is_dir():
        inside = [path / name for name in ("tokenizer.json", "tokenizer.model") if (path / name).is_file()]
        if not inside:
            raise ValueError(f"tokenizer.path={str(path)!r} holds neither tokenizer.json nor tokenizer.model")
        return inside[0]
    if not path.is_file():
        raise ValueError(f"tokenizer.path={str(path)!r} is not there")
    return path


def choose(config: TokenizerConfig) -> SpecialTokens:
    """Find the tokens that begin and end a text.

    The first that names one counts: the setting (`tokenizer.bos`, `tokenizer.eos`); `tokenizer_config.json` and
    `special_tokens_map.json` beside the tokenizer; the ids in `generation_config.json` and `config.json` there, where
    they are those of special tokens (a model's config may hold defaults that mean nothing); the tokenizer's own
    post-processor, or a sentencepiece model's own ids; a common name among its special tokens. A sentencepiece
    model that says it has none is believed.

    Raises
    ------
    ValueError
        There is no such file, none of these names a token that begins a text, one names what is no token, or the
        tokenizer puts another token before a text by itself.
    """
    if config.kind == "bpe":
        return OWN
    assert config.path is not None
    path = find_file(Path(config.path).expanduser())
    vocabulary = read_vocabulary(path)
    bos, bos_from = _find("bos", config.bos, path, vocabulary, BOS_NAMES)
    eos, eos_from = _find("eos", config.eos, path, vocabulary, EOS_NAMES)
    if bos is None or bos_from is None:
        raise ValueError(
            f"{path} names no token that begins a text: set tokenizer.bos (and tokenizer.eos, which may be the same) "
            f"to one of its special tokens, which are {', '.join(sorted(vocabulary.special)[:20]) or 'none'}"
        )
    if vocabulary.bos not in (None, bos):
        raise ValueError(
            f"{bos!r} (from {bos_from}) is to begin documents, but {path} puts {vocabulary.bos!r} before a text by "
            f"itself, so that evaluations would begin otherwise than training: set tokenizer.bos={vocabulary.bos!r}"
        )
    ordinary = tuple(sorted({token for token in (bos, eos) if token and token not in vocabulary.special}))
    return SpecialTokens(bos, bos_from, eos, eos_from, ordinary)


def own_template(config: TokenizerConfig) -> str | None:
    """Chat template that the files of a tokenizer hold; None where they hold none, or where it is trained here.

    `chat_template.jinja` counts before the `chat_template` of `tokenizer_config.json`, of which a list gives the one
    named `default`, as in `transformers`.

    Raises
    ------
    ValueError
        There is no such tokenizer, or one of the files cannot be read.
    """
    if config.kind == "bpe":
        return None
    assert config.path is not None
    path = find_file(Path(config.path).expanduser())
    alone = path.with_name(TEMPLATE_FILE)
    if alone.is_file():
        return alone.read_text(encoding="utf-8") or None
    found = read_object(path.with_name("tokenizer_config.json")).get("chat_template")
    if isinstance(found, list):
        found = {named.get("name"): named.get("template") for named in found}.get("default")
    return found if isinstance(found, str) and found else None


def read_vocabulary(path: Path) -> Vocabulary:
    """Tokens of a `tokenizer.json` or a sentencepiece model, remembered by size and modification time.

    Raises
    ------
    ValueError
        It is neither.
    """
    stat = path.stat()
    return _read_vocabulary(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _read_vocabulary(path: Path, size: int, modified: int) -> Vocabulary:
    try:
        return _read_json(path) if path.suffix == ".json" else _read_sentencepiece(path)
    except Exception as error:
        raise ValueError(f"tokenizer.path={str(path)!r} is not a tokenizer: {error!r}") from error


def _read_json(path: Path) -> Vocabulary:
    parsed = json.loads(path.read_text(encoding="utf-8"))
    vocab = parsed["model"]["vocab"]
    # A unigram model lists pairs of piece and score.
    ids = dict(vocab) if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
    added = parsed.get("added_tokens") or []
    ids |= {token["content"]: token["id"] for token in added}
    special = frozenset(token["content"] for token in added if token["special"])
    return Vocabulary(ids, special, "post-processor", *_template_ends(parsed.get("post_processor")))


def _template_ends(processor: dict[str, Any] | None) -> tuple[str | None, str | None]:
    """Tokens that a post-processor puts before and behind a text."""
    kind = processor["type"] if processor else None
    if processor is None or kind not in {"Sequence", "TemplateProcessing", "BertProcessing", "RobertaProcessing"}:
        return None, None
    if kind == "Sequence":
        found = [_template_ends(part) for part in processor["processors"]]
        return tuple(next((e[i] for e in found if e[i]), None) for i in (0, 1))  # type: ignore[return-value]
    if kind != "TemplateProcessing":
        return processor["cls"][0], processor["sep"][0]
    pieces = processor["single"]
    text = next(i for i, piece in enumerate(pieces) if "Sequence" in piece)
    names = [[piece["SpecialToken"]["id"] for piece in part] for part in (pieces[:text], pieces[text + 1 :])]
    first, last = ([processor["special_tokens"][name]["tokens"][0] for name in part] for part in names)
    return first[0] if first else None, last[-1] if last else None


def _read_sentencepiece(path: Path) -> Vocabulary:
    import sentencepiece

    model: Any = sentencepiece.SentencePieceProcessor()
    model.Load(str(path))
    pieces = [model.IdToPiece(i) for i in range(model.GetPieceSize())]
    special = frozenset(p for i, p in enumerate(pieces) if model.IsControl(i) or model.IsUnknown(i))
    bos, eos = (pieces[i] if i >= 0 else None for i in (model.bos_id(), model.eos_id()))
    return Vocabulary({piece: i for i, piece in enumerate(pieces)}, special, "sentencepiece model", bos, eos)


def _find(
    role: str, setting: str | None, path: Path, vocabulary: Vocabulary, names: Sequence[str]
) -> tuple[str | None, str | None]:
    """Token of a role (`bos` or `eos`) and what named it."""
    for token, source in _named(role, setting, path, vocabulary):
        if token not in vocabulary.ids:
            raise ValueError(f"{source} names {token!r}, which is no token of {path}: set tokenizer.{role} to one")
        return token, source
    own = vocabulary.bos if role == "bos" else vocabulary.eos
    if own is not None or vocabulary.kind == "sentencepiece model":
        return own, vocabulary.kind if own is not None else None
    common = next((name for name in names if name in vocabulary.special), None)
    return common, "a common name among its special tokens" if common else None


def _named(role: str, setting: str | None, path: Path, vocabulary: Vocabulary) -> Iterator[tuple[str, str]]:
    """Tokens that a setting or a file beside the tokenizer names, the first that counts first."""
    if setting is not None:
        yield setting, f"tokenizer.{role}"
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = read_object(path.with_name(file)).get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token:
            yield token, file
    by_id = {vocabulary.ids[token]: token for token in vocabulary.special}
    for file in ("generation_config.json", "config.json"):
        number = read_object(path.with_name(file)).get(f"{role}_token_id")
        if isinstance(number, int) and number in by_id:
            yield by_id[number], file


def read_object(path: Path) -> dict[str, Any]:
    """Contents of a JSON file, empty where there is none."""
    if not path.is_file():
        return {}
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{path} holds no JSON object")
    return parsed
