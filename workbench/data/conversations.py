"""Conversations of files: a system prompt perhaps, then turns of the user and the assistant.

A record of another shape than the field map says is an error with its file and line (parquet: row). A conversation
that cannot be learned from is dropped, and counted by its cause.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.config.schema import ChatDataConfig, SourceConfig
from workbench.data import counts
from workbench.data.counts import Drop, no_drop
from workbench.data.inputs import find_inputs
from workbench.data.readers import MISSING, check_utf8, kind_of, look_up, names_in, read_records

ROLES = ("system", "user", "assistant")
_OTHER_NAMES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names of roles."""


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str
    """Its text, without white space around it."""


@dataclass(frozen=True)
class Conversation:
    """Turns in order: a system prompt or none, then user and assistant in turn; the last is the assistant's."""

    messages: tuple[Message, ...]
    """The turns."""
    where: str = ""
    """File and line, for messages."""

    @property
    def key(self) -> str:
        """SHA-256 (hexadecimal) of the first turn of the user: equal for answers to the same question."""
        first = next(m.content for m in self.messages if m.role == "user")
        return hashlib.sha256(" ".join(first.split()).encode()).hexdigest()

    @property
    def digest(self) -> bytes:
        """Hash of all turns, equal for exact duplicates."""
        parts = "\0".join(f"{m.role}\0{m.content}" for m in self.messages)
        return hashlib.sha256(parts.encode()).digest()


def find_files(config: ChatDataConfig) -> list[Path]:
    """Files of conversations, in the order of the setting and sorted within one of its entries.

    Raises
    ------
    ValueError
        An entry stands for no file, or two entries for the same one.
    """
    found = [path for entry in config.files for path in find_inputs(SourceConfig(config.kind, path=entry)).paths]
    twice = next((path for i, path in enumerate(found) if path.resolve() in {p.resolve() for p in found[:i]}), None)
    if twice is not None:
        raise ValueError(f"chat.files={config.files!r} names {twice} twice")
    return found


def read_conversations(config: ChatDataConfig, drop: Drop = no_drop) -> Iterator[Conversation]:
    """Yield the conversations of all files in order.

    An unanswered last turn of the user is left out. Conversations without a system prompt get
    `config.system_prompt`, if that is set.

    Parameters
    ----------
    config
        Files and field map.
    drop
        Told `chat` and the cause of every conversation that is dropped.

    Raises
    ------
    ValueError
        A file is missing or damaged, or a record is not what `config.fields` says.
    """
    for path in find_files(config):
        for where, record in read_records(config.kind, path):
            messages = _messages(record, config.fields, where)
            if config.system_prompt and not any(role == "system" for role, _ in messages):
                messages.insert(0, ("system", config.system_prompt.strip()))
            while messages and messages[-1][0] == "user":
                messages.pop()
            cause = why_dropped(messages)
            if cause is None:
                yield Conversation(tuple(Message(role, content) for role, content in messages), where)
            else:
                drop("chat", cause)


def why_dropped(messages: list[tuple[str, str]]) -> str | None:
    """Cause for which a conversation of (role, content) is dropped; None for one that can be learned from."""
    roles = [role for role, _ in messages]
    if not set(roles) <= set(ROLES):
        return counts.UNKNOWN_ROLE
    if "assistant" not in roles:
        return counts.NO_ASSISTANT
    if not all(content for _, content in messages):
        return counts.EMPTY_TURN
    turns = roles[1:] if roles[0] == "system" else roles
    in_order = all(role == ("user", "assistant")[i % 2] for i, role in enumerate(turns))
    return None if in_order else counts.ROLE_ORDER


def _messages(record: Any, fields: dict[str, str], where: str) -> list[tuple[str, str]]:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: {kind_of(record)}, not an object with the field {next(iter(fields.values()))!r}")
    if "messages" in fields:
        return _list_of_turns(_required(record, fields["messages"], where), fields["messages"], where)
    columns = {part: _column(record, name, part, where) for part, name in fields.items()}
    question = "\n\n".join(filter(None, (columns["instruction"], columns.get("input", ""))))
    system = [("system", columns["system"])] if columns.get("system") else []
    return [*system, ("user", question), ("assistant", columns["response"])]


def _required(record: dict[str, Any], name: str, where: str) -> Any:
    value = look_up(record, name)
    if value is MISSING:
        raise ValueError(f"{where}: no field {name!r} (there: {names_in(record) or 'nothing'}); set chat.fields")
    return value


def _column(record: dict[str, Any], name: str, part: str, where: str) -> str:
    """Text of a column; what may be left out, or null, is then empty."""
    if part in ("input", "system") and look_up(record, name) in (MISSING, None):
        return ""
    return _text(_required(record, name, where), name, where)


def _list_of_turns(turns: Any, name: str, where: str) -> list[tuple[str, str]]:
    if not isinstance(turns, list):
        raise ValueError(f"{where}: field {name!r} is {kind_of(turns)}, not a list of messages; set chat.fields")
    return [_turn(turn, f"{name}[{i}]", where) for i, turn in enumerate(turns)]


def _turn(turn: Any, name: str, where: str) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise ValueError(f"{where}: {name} is {kind_of(turn)}, not an object with role and content (or from and value)")
    # A parquet file has every field in every row.
    keys = ("from", "value") if turn.get("role") is None and "from" in turn else ("role", "content")
    role, content = (_required(turn, key, f"{where}: {name}") for key in keys)
    if not isinstance(role, str):
        raise ValueError(f"{where}: {name}.{keys[0]} is {kind_of(role)}, not a role ({', '.join(ROLES)})")
    return _OTHER_NAMES.get(role, role), _text(content, f"{name}.{keys[1]}", where)


def _text(value: Any, name: str, where: str) -> str:
    """Text without white space around it; null is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{where}: field {name!r} is {kind_of(value)}, not text")
    check_utf8(value, name, where)
    return value.strip()
