"""Where the documents of a prepared store begin and end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.data.corpus.token_borders import begins_in, find_borders
from workbench.data.corpus.token_files import describe
from workbench.data.corpus.token_shards import TokenShards
from workbench.data.store import Prepared

_BLOCK = 1 << 22
"""Tokens that are looked at together."""


def find_documents(prepared: Prepared, source: str) -> Iterator[NDArray[np.int64]]:
    """Yield first token and end of a source's documents in order, some at a time: (documents, 2).

    Documents that are held out of token files made elsewhere are left out.

    Raises
    ------
    ValueError
        Nothing tells the documents of a token file apart.
    """
    tokens, facts = prepared.sources[source], prepared.manifest["sources"][source]
    if not isinstance(tokens, TokenShards):
        return _by_first_token(tokens, prepared.bos_id)
    if "excluded" in facts:
        refuse_windows(prepared.manifest, source)
        return _trainable(tokens, _of_referenced(prepared, source, tokens))
    return _of_shards(tokens)


def refuse_windows(manifest: Mapping[str, Any], source: str) -> None:
    """Refuse token files whose documents nothing tells apart.

    Raises
    ------
    ValueError
        They are cut every 2,048 tokens.
    """
    windows = manifest["sources"][source].get("borders", {}).get("window")
    if windows:
        raise ValueError(
            f"data.packing='best_fit': nothing tells the documents in token files of source {source!r} apart, which are cut "
            f"into {windows:,} pieces of equal length: set data.packing=concatenate"
        )


def begin_with_bos(manifest: Mapping[str, Any], source: str) -> bool:
    """Whether each document of a source begins with the beginning-of-sequence token, as all do that were prepared of texts."""
    facts = manifest["sources"][source]
    return "excluded" not in facts or facts["documents_with_bos"] == facts["read"]


def _by_first_token(tokens: NDArray[np.unsignedinteger], bos_id: int) -> Iterator[NDArray[np.int64]]:
    begin = np.zeros(1, np.int64)
    for place in range(0, len(tokens), _BLOCK):
        found = np.flatnonzero(tokens[place : place + _BLOCK] == bos_id) + place
        begins = np.concatenate([begin, found[found > 0]])
        yield _pairs(begins)
        begin = begins[-1:]
    yield _pairs(np.append(begin, len(tokens)))


def _of_shards(tokens: TokenShards) -> Iterator[NDArray[np.int64]]:
    for shard in range(len(tokens.paths)):
        offsets = tokens.document_offsets(shard)
        for place in range(0, len(offsets) - 1, _BLOCK):
            yield _pairs(offsets[place : place + _BLOCK + 1] + tokens.begins[shard])


def _of_referenced(prepared: Prepared, source: str, tokens: TokenShards) -> Iterator[NDArray[np.int64]]:
    dtype = prepared.manifest["config"]["data"]["sources"][source]["token_dtype"]
    for number, path in enumerate(tokens.paths):
        file = describe(Path(path), dtype)
        own = TokenShards([file.path], np.dtype(file.dtype), [file.tokens], offset_bytes=[file.offset_bytes])
        borders = find_borders(file, own, prepared.bos_id, prepared.eos_id)
        for place in range(0, len(own), _BLOCK):
            begins = begins_in(borders, own, place, min(place + _BLOCK, len(own)))
            yield _pairs(begins + tokens.begins[number])


def _trainable(tokens: TokenShards, documents: Iterator[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
    """Leave out documents with a token that no training may see."""
    excluded = tokens.excluded[np.argsort(tokens.excluded[:, 0])]
    for found in documents:
        before = np.searchsorted(excluded[:, 0], found[:, 1])  # ranges that begin before each document's end
        reached = np.concatenate([[0], np.maximum.accumulate(excluded[:, 1])])[before]
        yield found[reached <= found[:, 0]]


def _pairs(borders: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([borders[:-1], borders[1:]], 1).astype(np.int64)
