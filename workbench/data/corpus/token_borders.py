"""Where documents begin in token files that were made elsewhere, and the keys by which documents are held out.

| rule | documents |
|---|---|
| `index` | those of Megatron's index |
| `begin` | begin at every beginning-of-sequence token |
| `end` | end behind every end-of-sequence token |
| `window` | 2,048 tokens each, where the first million tokens have neither token |

What stands before the first border is a document, and what stands behind the last one. A tokenizer with one token for both
ends a document by it, unless the file begins with it. The rule of a file depends on its index or its first million
tokens alone, and so on nothing that is cut into shards.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workbench.data.corpus.megatron_index import open_documents
from workbench.data.corpus.token_files import TokenFile
from workbench.data.corpus.token_shards import TokenShards

WINDOW = 2048
"""Tokens of a document where nothing tells documents apart: Llama's context."""
_HEAD = 1_000_000
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Borders:
    """How the documents of a file are told apart."""

    rule: str
    """`index`, `begin`, `end` or `window`."""
    token: int | None = None
    """The token of `begin` and `end`."""


def find_borders(file: TokenFile, tokens: TokenShards, bos_id: int, eos_id: int | None) -> Borders:
    """Choose the rule of a file.

    Parameters
    ----------
    file, tokens
        The file's facts, and itself, opened.
    bos_id, eos_id
        The tokenizer's tokens that begin and end a text.
    """
    if file.documents is not None:
        return Borders("index")
    head = tokens[0 : min(_HEAD, len(tokens))]
    if (head[1:] == bos_id).any() and (bos_id != eos_id or head[0] == bos_id):
        return Borders("begin", bos_id)
    if eos_id is not None and (head[:-1] == eos_id).any():
        return Borders("end", eos_id)
    return Borders("window")


def begins_in(borders: Borders, tokens: TokenShards, begin: int, end: int) -> NDArray[np.int64]:
    """First tokens of the documents that begin in a part of a file, and the end of the last one: (documents + 1,).

    Parameters
    ----------
    borders
        The file's rule.
    tokens
        The file, opened.
    begin, end
        The part, in tokens of the file. Documents belong to the part in which they begin.
    """
    count = len(tokens)
    if borders.rule == "index":
        known = open_documents(tokens.paths[0])
        first, last = known.count_before(begin), known.count_before(end)
        found = known.begins(first, last)
        following = int(known.begins(last, last + 1)[0]) if last <= len(known) else count
    elif borders.rule == "window":
        found = np.arange(-(-begin // WINDOW) * WINDOW, end, WINDOW, dtype=np.int64)
        following = min(-(-end // WINDOW) * WINDOW, count)
    else:
        found = _find(borders, tokens, begin, end)
        following = _next(borders, tokens, end)
    if begin == 0:
        found = np.concatenate([[0], found]).astype(np.int64)
    found = np.unique(found[found < count])  # documents without tokens begin where the next one does
    return np.concatenate([found, [following]]).astype(np.int64) if len(found) else np.empty(0, np.int64)


def _find(borders: Borders, tokens: TokenShards, begin: int, end: int) -> NDArray[np.int64]:
    """Find the first tokens of documents from `begin` to `end`, a block at a time."""
    shift = 1 if borders.rule == "end" else 0
    first, last = max(begin - shift, 0), max(end - shift, 0)
    found = [np.empty(0, np.int64)]
    for place in range(first, last, _BLOCK):
        block = tokens[place : min(place + _BLOCK, last)]
        found.append(np.flatnonzero(block == borders.token) + (place + shift))
    return np.concatenate(found)


def _next(borders: Borders, tokens: TokenShards, begin: int) -> int:
    """Find the first token of the next document from `begin` on, or the file's end."""
    for place in range(begin, len(tokens), _BLOCK):
        found = _find(borders, tokens, place, min(place + _BLOCK, len(tokens)))
        if len(found):
            return int(found[0])
    return len(tokens)


def document_keys(tokens: TokenShards, begins: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash documents by their tokens, whatever the file's format and type: (documents, 2).

    Parameters
    ----------
    tokens
        The file, opened; its ids are not negative.
    begins
        First tokens of neighbours, and the end of the last one: (documents + 1,).
    """
    hashes: list[bytes] = []
    place, block = 0, np.empty(0, "<u4")
    for begin, end in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        if end - begin > _BLOCK:
            hashes.append(_hash_long(tokens, begin, end))
            continue
        if end > place + len(block):
            place, block = begin, tokens[begin : min(begin + 4 * _BLOCK, int(begins[-1]))].astype("<u4")
        hashes.append(hashlib.blake2b(block[begin - place : end - place].data, digest_size=16).digest())
    return np.frombuffer(b"".join(hashes), ">u8").astype(np.uint64).reshape(-1, 2)


def _hash_long(tokens: TokenShards, begin: int, end: int) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for place in range(begin, end, _BLOCK):
        digest.update(tokens[place : min(place + _BLOCK, end)].astype("<u4").data)
    return digest.digest()
