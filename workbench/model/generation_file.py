"""Which ids end what a model writes, as `generation_config.json` says it: read by `generate` of transformers and by vLLM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GENERATION_CONFIG = "generation_config.json"


def write_generation_config(directory: Path, bos_id: int | None, eos_id: int | None, stop_ids: Sequence[int]) -> None:
    """Write the file: a single id where nothing but the end of sequence ends a text, else a list that it begins.

    Parameters
    ----------
    directory
        Where the file goes.
    bos_id, eos_id
        Ids of the tokens that begin and end a text, if there are any.
    stop_ids
        Further ids after which nothing is written, such as what ends a turn of a conversation.
    """
    more = [one for one in dict.fromkeys(stop_ids) if one != eos_id]
    ends = [*([] if eos_id is None else [eos_id]), *more] if more else eos_id
    values = {"bos_token_id": bos_id, "eos_token_id": ends}
    (directory / GENERATION_CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_stop_ids(directory: Path) -> list[int]:
    """Ids that end what a checkpoint's model writes, where its files list several; else none.

    As in transformers, `config.json` counts where the other file does not say. A single one is no news: the tokenizer names
    the end of sequence, and a config's may be a default that means nothing.

    Raises
    ------
    ValueError
        The file is no JSON, or lists what is no id.
    """
    for name in (GENERATION_CONFIG, "config.json"):
        path = directory / name
        found = _read(path).get("eos_token_id")
        if isinstance(found, list) and not all(type(one) is int and one >= 0 for one in found):
            raise ValueError(f"{path}: eos_token_id={found!r} is no list of ids")
        if found is not None:
            return found if isinstance(found, list) else []
    return []


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return values if isinstance(values, dict) else {}
