"""Builds a store of conversations in an empty directory, in one pass over the files."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from workbench.config.schema import ChatDataConfig
from workbench.data import counts
from workbench.data.chat_templates import ChatTemplate, ChatTokens
from workbench.data.conversations import Conversation, read_conversations
from workbench.data.heldout import is_heldout
from workbench.data.packing import pack, shorten

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_CONVERSATIONS_A_CHUNK = 256


def tokenizer_files(folder: Path) -> list[tuple[str, Path]]:
    """Names and paths of those files in a tokenizer's directory that decide what it does."""
    return [(name, folder / name) for name in _TOKENIZER_FILES if (folder / name).is_file()]


def build_chat(config: ChatDataConfig, tokenizer_dir: Path, context_tokens: int, directory: Path) -> dict[str, Any]:
    """Write all files but the manifest into `directory`; the manifest's facts are returned.

    Raises
    ------
    ValueError
        A file is missing or malformed, the template does not suit the tokenizer, or no conversation is left.
    """
    template = ChatTemplate(config.template, tokenizer_dir, config.template_date, config.begin)
    _ = template.with_beginning  # refused before anything is read
    intake = _Intake(config, template, context_tokens + 1)
    dtype = "<u2" if template.vocab_size <= 65536 else "<u4"
    sizes: list[tuple[int, int]] = []
    heldout, last = 0, set[int]()
    (directory / "heldout").mkdir()
    with (
        (directory / "tokens.bin").open("wb") as tokens,
        (directory / "loss.bin").open("wb") as loss,
        (directory / "heldout" / "chat.jsonl").open("w", encoding="utf-8") as rows,
    ):
        for conversation, chat in intake.fitting():
            if is_heldout(conversation.key, config.heldout_percent):
                rows.write(_heldout_row(template, conversation, chat) + "\n")
                heldout += 1
            else:
                tokens.write(chat.tokens.astype(dtype).tobytes())
                loss.write(chat.loss.tobytes())
                sizes.append((len(chat.tokens), int(chat.loss.sum())))
                last.update(int(chat.tokens[end - 1]) for end in chat.ends)
        _sync(tokens, loss, rows)
    if not sizes:
        dropped = counts.name_counts(intake.dropped, "; dropped are ")
        raise ValueError(f"no conversation of {config.name!r} is left to train on: {heldout} held out{dropped}")
    packing = pack([size for size, _ in sizes], intake.room, config.packing)
    for name, array in (("sizes", np.array(sizes)), ("order", packing.order), ("starts", packing.starts)):
        _write_array(directory / f"{name}.bin", array)
    _write_tokenizer(template, tokenizer_dir, directory / "tokenizer")
    return {
        "context_tokens": context_tokens,
        "dtype": dtype,
        "tokenizer": {"vocab_size": template.vocab_size, "bos_id": template.bos_id, "eos_id": template.eos_id},
        "turn_end_id": template.turn_end_id(last),
        "read": intake.read,
        "dropped": dict(sorted(intake.dropped.items())),
        "truncated": intake.truncated,
        "heldout_conversations": heldout,
        "conversations": len(sizes),
        "tokens": sum(size for size, _ in sizes),
        "assistant_tokens": sum(assistant for _, assistant in sizes),
        "sequences": len(packing.starts) - 1,
    }


@dataclass
class _Intake:
    """What becomes of the conversations that are read."""

    config: ChatDataConfig
    template: ChatTemplate
    room: int
    """Tokens of a sequence."""
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    read: int = 0
    seen: set[bytes] = field(default_factory=set)

    def wanted(self) -> Iterator[Conversation]:
        """Yield the conversations of the files, each once, without those that hold a template's marks."""
        for conversation in read_conversations(self.config, self._drop):
            self.read += 1
            if conversation.digest in self.seen:
                self.dropped[counts.DUPLICATE] += 1
            elif self.template.has_marks(conversation):
                self.dropped[counts.MARKS] += 1
            else:
                self.seen.add(conversation.digest)
                yield conversation

    def _drop(self, _: str, cause: str) -> None:
        self.read += 1
        self.dropped[cause] += 1

    def fitting(self) -> Iterator[tuple[Conversation, ChatTokens]]:
        """Yield what is wanted and fits into a sequence, whole or cut, with its tokens."""
        wanted = self.wanted()
        while chunk := list(itertools.islice(wanted, _CONVERSATIONS_A_CHUNK)):
            for conversation, chat in zip(chunk, self.template.encode(chunk), strict=True):
                cut = self._cut(chat)
                if cut is None:
                    self.dropped[counts.TOO_LONG] += 1
                else:
                    self.truncated += len(chat.tokens) > self.room
                    yield conversation, cut

    def _cut(self, chat: ChatTokens) -> ChatTokens | None:
        if len(chat.tokens) <= self.room:
            return chat
        return shorten(chat, self.room) if self.config.too_long == "truncate" else None


def _heldout_row(template: ChatTemplate, conversation: Conversation, chat: ChatTokens) -> str:
    """Last turn of the assistant that is in `chat`, and all before it."""
    turns = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
    prompt, response = template.prompt_and_response(conversation.messages[: turns[len(chat.ends) - 1] + 1])
    end = chat.ends[-1]
    begin = end - int(np.argmin(chat.loss[:end][::-1]))
    row = {
        "prompt": prompt,
        "response": response,
        "prompt_tokens": chat.tokens[:begin].tolist(),
        "response_tokens": chat.tokens[begin:end].tolist(),
    }
    return json.dumps(row, ensure_ascii=False)


def _write_tokenizer(template: ChatTemplate, source: Path, target: Path) -> None:
    """Copy a tokenizer with the template in it, so that `apply_chat_template` gives the ids that are trained on."""
    target.mkdir()
    for name, path in tokenizer_files(source):
        (target / name).write_bytes(path.read_bytes())
    settings = target / "tokenizer_config.json"
    values = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    values.pop("chat_template", None)
    # The marks of the template must become tokens; with True they would be read as text.
    values["split_special_tokens"] = False
    settings.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (target / "chat_template.jinja").write_text(template.source, encoding="utf-8")


def _write_array(path: Path, array: NDArray[np.int64]) -> None:
    with path.open("wb") as file:
        file.write(array.astype("<i8").tobytes())
        _sync(file)


def _sync(*files: IO[Any]) -> None:
    for file in files:
        file.flush()
        os.fsync(file.fileno())
