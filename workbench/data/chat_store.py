"""Prepared conversations: rendered, tokenized and packed once, named by their inputs, read through memory maps.

data/<fingerprint>/
  manifest.json        facts, counts by cause, checksums
  tokens.bin           token ids of all conversations in a row, little endian
  loss.bin             one byte a token: 1 where it is the assistant's
  sizes.bin            int64: tokens of each conversation, and how many of them are the assistant's
  order.bin            int64: conversations, sequence by sequence
  starts.bin           int64: place in `order.bin` of each sequence's first conversation, and the number of all
  heldout/chat.jsonl   {"prompt", "response", "prompt_tokens", "response_tokens"}: the last turn of held-out ones
  tokenizer/           the tokenizer, with the template as `chat_template.jinja`
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.config.schema import ChatDataConfig, to_dict
from workbench.data.chat_build import build_chat, tokenizer_files
from workbench.data.chat_templates import ChatTemplate
from workbench.data.conversations import find_files
from workbench.data.fingerprint import hash_file
from workbench.data.folders import PreparedFolder, make_folder, read_manifest
from workbench.data.packing import PackedSequence, lay_out
from workbench.data.python_questions import make_conversations, write_questions
from workbench.data.special_tokens import TEMPLATE_FILE
from workbench.study.files import write_atomically
from workbench.study.layout import Layout

RULES = 1
"""Version of the rules that make tokens of conversations; raise it with every change of them."""
_LABELS = ("name", "files", "max_epochs")
_YOUNGER = {"template_date": None, "begin": "bos"}
"""Settings that names did not have from the start, and the values that leave them out."""


@dataclass(frozen=True)
class ChatStore(PreparedFolder):
    """Opened conversations; sequences are filled with the beginning of sequence, and the tokenizer has their template."""

    @property
    def context_tokens(self) -> int:
        """Predicted tokens of a sequence."""
        return self.manifest["context_tokens"]

    @property
    def sequences(self) -> int:
        """Number of packed sequences."""
        return self.manifest["sequences"]

    @property
    def turn_end_id(self) -> int | None:
        """Id of the token that ends the assistant's turn, where it is a single one and another than `eos_id`."""
        if "turn_end_id" in self.manifest:
            return self.manifest["turn_end_id"]
        tokens, loss = self.conversation(0)  # made before the manifest said it
        return _template_of(self).turn_end_id({int(tokens[loss][-1])})

    @property
    def heldout_path(self) -> Path:
        """Held-out conversations."""
        return self.directory / "heldout" / "chat.jsonl"

    @cached_property
    def _tokens(self) -> NDArray[np.unsignedinteger]:
        return np.memmap(self.directory / "tokens.bin", np.dtype(self.manifest["dtype"]), "r")

    @cached_property
    def _loss(self) -> NDArray[np.bool_]:
        return np.memmap(self.directory / "loss.bin", np.bool_, "r")

    @cached_property
    def _conversations(self) -> NDArray[np.int64]:
        return np.fromfile(self.directory / "sizes.bin", "<i8").reshape(-1, 2)

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self._conversations[:, 0])])

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.fromfile(self.directory / "order.bin", "<i8")

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.fromfile(self.directory / "starts.bin", "<i8")

    def conversation(self, number: int) -> tuple[NDArray[np.unsignedinteger], NDArray[np.bool_]]:
        """Token ids and whether each has loss, both (tokens,), of a conversation in the order of the files."""
        here = slice(*self._begins[number : number + 2])
        return self._tokens[here], self._loss[here]

    def members(self, sequence: int) -> list[int]:
        """Conversations of a packed sequence."""
        return self._order[slice(*self._starts[sequence : sequence + 2])].tolist()

    def sequence(self, sequence: int) -> PackedSequence:
        """One packed sequence."""
        return lay_out([self.conversation(i) for i in self.members(sequence)], self.context_tokens, self.bos_id)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Tokens of each packed sequence, without padding, and how many are the assistant's, (sequences, 2)."""
        return np.add.reduceat(self._conversations[self._order], self._starts[:-1], axis=0)


def write_chat_template(store: ChatStore, directory: Path) -> None:
    """Write the template that conversations were rendered by into a directory that has the store's tokenizer.

    With it, `apply_chat_template` of `transformers` gives the very ids that are trained on, the beginning of sequence
    and a date included.
    """
    (directory / TEMPLATE_FILE).write_text(_template_of(store).with_beginning, encoding="utf-8")


def _template_of(store: ChatStore) -> ChatTemplate:
    begin = store.manifest["config"]["chat"].get("begin", _YOUNGER["begin"])
    return _read_template(store.tokenizer_dir, begin)


@cache  # reading a tokenizer takes longer than writing a small checkpoint
def _read_template(tokenizer_dir: Path, begin: str) -> ChatTemplate:
    return ChatTemplate("tokenizer", tokenizer_dir, begin=begin)


def chat_fingerprint(config: ChatDataConfig, tokenizer_dir: Path, context_tokens: int) -> str:
    """16 hexadecimal digits that name the prepared conversations, with files and tokenizer as they are now.

    The name, the files' places and `max_epochs` are not in it.

    Raises
    ------
    ValueError
        A file is missing, or there is no tokenizer.
    """
    if not (tokenizer_dir / "tokenizer.json").is_file():
        raise ValueError(f"{tokenizer_dir} has no tokenizer.json: not a Hugging Face tokenizer directory")
    described = {
        "chat_rules": RULES,
        **_rules(config),
        "files": [hash_file(path) for path in find_files(config)],
        "tokenizer": {name: hash_file(path) for name, path in tokenizer_files(tokenizer_dir)},
        "context_tokens": context_tokens,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _rules(config: ChatDataConfig) -> dict[str, Any]:
    """Give the settings that decide which tokens conversations become."""
    kept = {name: value for name, value in to_dict(config).items() if name not in _LABELS}
    return {name: value for name, value in kept.items() if name not in _YOUNGER or value != _YOUNGER[name]}


def prepare_chat(config: ChatDataConfig, tokenizer_dir: Path, context_tokens: int, layout: Layout) -> ChatStore:
    """Make the store of these conversations, or open it where it exists.

    Parameters
    ----------
    config
        What to read and how to render it.
    tokenizer_dir
        A Hugging Face tokenizer directory, such as that of the model to be tuned.
    context_tokens
        Predicted tokens of a sequence.
    layout
        The store is made at `layout.data(fingerprint)`, complete or not at all.

    Raises
    ------
    ValueError
        A file is missing, malformed or changed while it was read, the template does not suit the tokenizer, or no
        conversation is left to train on.
    """
    fingerprint = chat_fingerprint(config, tokenizer_dir, context_tokens)
    directory = layout.data(fingerprint)

    def write(partial: Path) -> dict[str, Any]:
        facts = build_chat(config, tokenizer_dir, context_tokens, partial)
        if chat_fingerprint(config, tokenizer_dir, context_tokens) != fingerprint:
            raise ValueError(f"the inputs of conversations {config.name!r} changed while they were read: prepare again")
        return {"format": 1, "kind": "chat", **facts, "config": {"chat": to_dict(config)}}

    make_folder(directory, write)
    return open_chat(directory)


def open_chat(directory: Path) -> ChatStore:
    """Open prepared conversations.

    Raises
    ------
    ValueError
        There are none, the folder has other files than were written, or it holds data of another kind.
    """
    manifest = read_manifest(directory)
    if manifest.get("kind") != "chat":
        raise ValueError(f"{directory} holds prepared documents, not conversations")
    return ChatStore(directory, manifest)


def files_fingerprint(config: ChatDataConfig) -> str:
    """16 hexadecimal digits that name the content of the conversations' files, before any tokenizer is known.

    Raises
    ------
    ValueError
        A file is missing.
    """
    if config.kind == "python_questions":
        hashes = [hashlib.sha256(json.dumps(list(make_conversations())).encode()).hexdigest()]
    else:
        hashes = [hash_file(path) for path in find_files(config)]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]


def conversations_name(config: ChatDataConfig, files: str, context_tokens: int, template: str | None = None) -> str:
    """16 hexadecimal digits that name packed conversations but for their tokenizer: rules, files, context and template.

    Parameters
    ----------
    config, context_tokens
        As `prepare_chat`.
    files
        The result of `files_fingerprint`.
    template
        Text of the tokenizer's own template, where `config` asks for that.
    """
    described = {"chat_rules": RULES, **_rules(config), "files": files, "context_tokens": context_tokens}
    if template is not None:
        described["tokenizer_template"] = template
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def prepare_named(
    config: ChatDataConfig,
    files: str,
    data_fingerprint: str,
    context_tokens: int,
    layout: Layout,
    say: Callable[[str], None],
    template: str | None = None,
) -> ChatStore:
    """Prepare conversations with the tokenizer of prepared data, to be found by `find_named`.

    Parameters
    ----------
    config, context_tokens
        As `prepare_chat`.
    files
        The result of `files_fingerprint` when the study was planned.
    data_fingerprint
        Prepared data, whose tokenizer is taken.
    layout
        The outputs.
    say
        Told what is prepared.
    template
        As `conversations_name`. Prepared data, which is not named by it, may hold another, or none.

    Raises
    ------
    ValueError
        As `prepare_chat`, or the files have changed since.
    """
    name = conversations_name(config, files, context_tokens, template)
    found = find_named(name, data_fingerprint, layout)
    if found is not None:
        return found
    if files_fingerprint(config) != files:
        raise ValueError(f"the files of conversations {config.name!r} have changed since this was planned: plan again")
    say(f"preparing conversations {config.name} ...")
    pointer = _pointer(name, data_fingerprint, layout)
    pointer.parent.mkdir(parents=True, exist_ok=True)
    with _with_template(layout.data(data_fingerprint) / "tokenizer", template) as tokenizer:
        store = prepare_chat(_with_files(config, pointer.parent), tokenizer, context_tokens, layout)
    write_atomically(pointer, json.dumps({"fingerprint": store.fingerprint}))
    facts = store.manifest
    say(f"{config.name}: {facts['conversations']:,} conversations in {store.sequences:,} sequences of {context_tokens}")
    return store


def _with_files(config: ChatDataConfig, folder: Path) -> ChatDataConfig:
    """Write the conversations that this project makes itself into a file."""
    if config.kind != "python_questions":
        return config
    write_questions(folder / "python_questions.jsonl")
    return replace(config, kind="jsonl", files=[str(folder / "python_questions.jsonl")])


@contextmanager
def _with_template(tokenizer_dir: Path, template: str | None) -> Iterator[Path]:
    """Give a tokenizer's directory that holds this template, for as long as it is needed."""
    if template is None:
        yield tokenizer_dir
        return
    with TemporaryDirectory() as folder:
        for name, path in tokenizer_files(tokenizer_dir):
            shutil.copyfile(path, Path(folder) / name)
        (Path(folder) / TEMPLATE_FILE).write_text(template, encoding="utf-8")
        yield Path(folder)


def find_named(name: str, data_fingerprint: str, layout: Layout) -> ChatStore | None:
    """Conversations that `prepare_named` prepared; None where it has not."""
    pointer = _pointer(name, data_fingerprint, layout)
    if not pointer.exists():
        return None
    return open_chat(layout.data(json.loads(pointer.read_text(encoding="utf-8"))["fingerprint"]))


def _pointer(name: str, data_fingerprint: str, layout: Layout) -> Path:
    return layout.data("conversations") / f"{data_fingerprint}-{name}.json"
