"""What a prepared store holds, read back, and data that differ in one source."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from workbench.config.schema import (
    DataConfig,
)
from workbench.data.tokenizer import load_saved


def training_texts(prepared, source: str) -> list[str]:
    """Documents of the finished store, decoded from its token ids."""
    tokens = prepared.sources[source]
    tokenizer = load_saved(prepared.tokenizer_dir)
    parts = np.split(tokens, np.flatnonzero(tokens == prepared.bos_id))[1:]
    return [tokenizer.decode(part[1:].tolist()) for part in parts]


def heldout_texts(prepared, source: str) -> list[str]:
    with prepared.heldout_path(source).open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def replace_source(data: DataConfig, name: str, **changes) -> DataConfig:
    source = dataclasses.replace(data.sources[name], **changes)
    return dataclasses.replace(data, sources={**data.sources, name: source})


def digests(prepared) -> dict[str, str]:
    return {name: facts["sha256"] for name, facts in prepared.manifest["files"].items()}
