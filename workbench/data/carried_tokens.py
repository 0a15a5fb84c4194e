"""What a tokenizer's files say beside its ids, and what a model that goes on with it keeps: named tokens, chat template.

Neither is part of a data set's fingerprint, since no text is cut by them: a store keeps them beside its tokenizer, and
every checkpoint has those of the one before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.config.schema import TokenizerConfig
from workbench.data.special_tokens import TEMPLATE_FILE, find_file, own_template, read_object, read_vocabulary

NAMED_FILE = "named_tokens.json"
"""Where a store's tokenizer has them."""
_NAMES = ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class Carried:
    """What goes with a tokenizer from checkpoint to checkpoint."""

    named: dict[str, Any] = field(default_factory=dict)
    """Fields of `tokenizer_config.json` that name special tokens, but for those that begin and end a text."""
    template: str | None = None
    """Chat template, as Jinja."""


def read_carried(path: Path) -> Carried:
    """Read it from a tokenizer's file, a folder that has one, a checkpoint, or a store's tokenizer.

    A token that is not special in the tokenizer's own file is left out: naming it would change how text is cut.

    Raises
    ------
    ValueError
        There is no tokenizer, or a file beside it is no JSON.
    """
    file = find_file(path)
    special = read_vocabulary(file).special
    named: dict[str, Any] = {}
    for name in ("special_tokens_map.json", _CONFIG, NAMED_FILE):
        named |= _named(read_object(file.with_name(name)), special)
    return Carried(named, own_template(TokenizerConfig(kind="file", path=str(path))))


def _named(values: Mapping[str, Any], special: frozenset[str]) -> dict[str, Any]:
    found: dict[str, Any] = {name: text for name in _NAMES if (text := _text(values.get(name))) in special}
    for name in _LISTS:
        tokens = values.get(name)
        if isinstance(tokens, list):
            kept: Any = [text for token in tokens if (text := _text(token)) in special]
        elif isinstance(tokens, dict):
            kept = {key: text for key, token in tokens.items() if (text := _text(token)) in special}
        else:
            continue
        found |= {name: kept} if kept else {}
    return found


def _text(token: Any) -> str | None:
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def write_named(source: Path, directory: Path) -> None:
    """Keep the named tokens of a tokenizer from files beside a store's, where no fingerprint of conversations reads them.

    Raises
    ------
    ValueError
        As `read_carried`.
    """
    named = read_carried(source).named
    known = read_object(directory / _CONFIG)
    if further := {name: token for name, token in named.items() if name not in known}:
        (directory / NAMED_FILE).write_text(json.dumps(further, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_carried(carried: Carried, directory: Path) -> None:
    """Add it to a checkpoint's tokenizer; what its files say already stays, such as the template of a fine-tuning."""
    path = directory / _CONFIG
    if not path.is_file():
        return
    values = json.loads(path.read_text(encoding="utf-8"))
    added: dict[str, Any] = {name: token for name, token in carried.named.items() if name not in values}
    template = directory / TEMPLATE_FILE
    if carried.template is not None and not template.exists() and "chat_template" not in values:
        template.write_text(carried.template, encoding="utf-8")
        # The marks of the template must become tokens; with True they would be read as text.
        values["split_special_tokens"] = added["split_special_tokens"] = False
    if added:
        path.write_text(json.dumps({**added, **values}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
