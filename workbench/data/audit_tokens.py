"""What an audit sees in a file of token ids: ids within the vocabulary, and where documents begin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workbench.data.audit_check import Check, judge
from workbench.data.audit_files import TokenFile

_CHUNK = 1 << 22
"""Tokens at a time."""


@dataclass(frozen=True)
class Scan:
    """What a file of token ids holds."""

    tokens: int
    """Its tokens."""
    begins: NDArray[np.int64]
    """(documents,) Where the token stands that begins a document."""
    too_large: int
    """Ids outside the vocabulary."""
    first_too_large: int | None
    """Where the first of them stands."""


def scan(path: Path, dtype: np.dtype, bos_id: int, vocab_size: int) -> Scan:
    """Read a file of token ids once, some megabytes at a time."""
    begins, tokens, too_large, first = [np.empty(0, np.int64)], 0, 0, None
    with path.open("rb") as file:
        while len(ids := np.frombuffer(_whole(file.read(_CHUNK * dtype.itemsize), dtype), dtype)):
            begins.append(np.flatnonzero(ids == bos_id) + tokens)
            outside = np.flatnonzero(ids >= vocab_size)
            if len(outside) and first is None:
                first = tokens + int(outside[0])
            too_large += len(outside)
            tokens += len(ids)
    return Scan(tokens, np.concatenate(begins), too_large, first)


def _whole(data: bytes, dtype: np.dtype) -> bytes:
    """Leave out a part of a token at a file's end."""
    return data[: len(data) - len(data) % dtype.itemsize]


def check_ids(scans: list[tuple[TokenFile, Scan]], vocab_size: int) -> Check:
    """Name ids outside the vocabulary."""
    wrong = [
        f"{file.name}: {found.too_large:,} ids are not below {vocab_size:,}, the first at token {found.first_too_large:,}"
        for file, found in scans
        if found.too_large
    ]
    tokens = sum(found.tokens for _, found in scans)
    return judge("ids", f"{tokens:,} tokens of {len(scans):,} files against a vocabulary of {vocab_size:,}", wrong)


def check_begins(scans: list[tuple[TokenFile, Scan]], of: int) -> Check:
    """Compare where documents begin with the counts and, where there are any, the offsets."""
    wrong: list[str] = []
    for file, found in scans:
        if found.tokens and (not len(found.begins) or found.begins[0] != 0):
            wrong.append(f"{file.name} does not begin with the token that begins a document")
        if len(found.begins) != file.facts["documents"]:
            wrong.append(
                f"{file.name} holds {len(found.begins):,} documents by their first tokens, the manifest says "
                f"{file.facts['documents']:,}"
            )
        elif (text := _unlike_offsets(file, found)) is not None:
            wrong.append(f"{file.name}: {text}")
    documents = sum(len(found.begins) for _, found in scans)
    return judge("first tokens", f"{documents:,} documents of {len(scans):,} of {of:,} files", wrong)


def _unlike_offsets(file: TokenFile, found: Scan) -> str | None:
    if file.offsets is None:
        return None
    try:
        offsets = np.load(file.offsets, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None  # named by the check of the offsets
    begins = np.asarray(offsets[:-1])
    if np.array_equal(begins, found.begins):
        return None
    if begins.shape != found.begins.shape:
        return "other documents by its offsets than by their first tokens"
    at = int(np.argmax(begins != found.begins))
    return f"document {at:,} begins at token {found.begins[at]:,}, its offset is {begins[at]:,}"
