"""Held-out conversations as lm-eval documents: what comes before the last answer, rendered by the template, and it.

The task file beside this module names these functions with `!function`. lm-eval calls `load_responses` with the metadata,
which carries `conversations_dir`, the folder of the held-out `chat.jsonl` (`workbench.data.chat_store`).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets


def load_responses(conversations_dir: str, **_: Any) -> datasets.DatasetDict:
    """Prompts and responses in the order of their hashes, and their token ids as they are trained on.

    A row has `id`, `prompt`, `response`, `prompt_tokens` and `response_tokens`; the ids are what is scored.
    """
    with (Path(conversations_dir) / "chat.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    found = [{"id": _key(row), **row} for row in rows]
    if not found:
        raise ValueError("no conversations are held out: raise chat.heldout_percent")
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(sorted(found, key=lambda row: row["id"]))})


def bits_per_byte(document: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """Log-likelihood of the response in nats, and its UTF-8 bytes, which lm-eval sums up to bits per byte."""
    [(loglikelihood, _)] = results
    return {"bits_per_byte": (loglikelihood, len(document["response"].encode("utf-8")))}


def _key(row: dict[str, Any]) -> str:
    return hashlib.sha256(f"{row['prompt']}\0{row['response']}".encode()).hexdigest()[:16]
