"""Token files that a store refers to by path and hash: described, found again, and refused where they have changed.

The store holds no copy of them. A file that is where it was, with its size and time of modification, is the one that was
read; one with another time is hashed again (once, see `workbench.data.fingerprint.hash_file`); every other is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.config.schema import StreamConfig
from workbench.data.corpus.token_files import TokenFile
from workbench.data.corpus.token_shards import TokenShards
from workbench.data.fingerprint import hash_file
from workbench.data.inputs import show
from workbench.study.files import sha256


def describe_referenced(file: TokenFile) -> dict[str, Any]:
    """Facts of a token file for the manifest; what was not measured is None."""
    path = file.path.absolute()
    stat = path.stat()
    return {
        "file": str(path),
        "tokens": file.tokens,
        "documents": None,
        "bytes": None,
        "format": file.format,
        "dtype": file.dtype,
        "offset_bytes": file.offset_bytes,
        "file_bytes": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "sha256": hash_file(path),
    }


def open_referenced(directory: Path, facts: Mapping[str, Any]) -> TokenShards:
    """Open the files of a source as one array, with what of it is held out.

    Parameters
    ----------
    directory
        The store.
    facts
        The source's, in its manifest.
    """
    shards = facts["shards"]
    files = [Path(shard["file"]) for shard in shards]
    counts, offsets = [shard["tokens"] for shard in shards], [shard["offset_bytes"] for shard in shards]
    begins = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    ranges = np.concatenate([np.load(directory / name) for name in facts["excluded"]])
    excluded = ranges[:, 1:] + begins[ranges[:, 0]][:, None]
    return TokenShards(files, np.dtype(shards[0]["dtype"]), counts, offset_bytes=offsets, excluded=excluded)


def refuse_changed(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a store one of whose token files is not what was read.

    Raises
    ------
    ValueError
        A file is missing, or has other contents than when the store was made.
    """
    for source, file in _referenced(manifest):
        path = Path(file["file"])
        again = f"delete {directory} and prepare again with data.sources.{source}.path"
        if not path.is_file():
            raise ValueError(
                f"token file {show(path)} of source {source!r} is not there any more: put it back, or {again} set to where "
                "it is now (the same files give the same data and stages)"
            )
        stat = path.stat()
        is_same = stat.st_size == file["file_bytes"]
        if is_same and stat.st_mtime_ns != file["modified_ns"]:
            is_same = hash_file(path) == file["sha256"]
        if not is_same:
            raise ValueError(
                f"token file {show(path)} of source {source!r} has changed since it was prepared: put the file back whose "
                f"SHA-256 is {file['sha256']}, or {again} (changed files are other data, with stages of their own)"
            )


def verify_referenced(manifest: Mapping[str, Any]) -> None:
    """Compare every token file that a store refers to with its checksum, reading it whole.

    Raises
    ------
    ValueError
        A file differs from what was read.
    """
    for source, file in _referenced(manifest):
        path = Path(file["file"])
        if sha256(path) != file["sha256"]:
            raise ValueError(f"token file {show(path)} of source {source!r} has changed since it was prepared")


def refuse_mask(manifest: Mapping[str, Any], stream: StreamConfig) -> None:
    """Refuse a stream that confines attention to documents, of token files whose documents training cannot tell apart.

    Raises
    ------
    ValueError
        Of a source in it some documents do not begin with the beginning-of-sequence token.
    """
    sources = set(stream.sources) & {source for source, _ in _referenced(manifest)}
    masked = stream.document_mask and stream.packing == "concatenate"  # packed sequences know their documents
    for name in sorted(sources) if masked else ():
        facts = manifest["sources"][name]
        if facts["documents_with_bos"] < facts["read"]:
            raise ValueError(
                f"data.document_mask=True: of the {facts['read']:,} documents in the token files of source {name!r}, "
                f"{facts['documents_with_bos']:,} begin with {manifest['tokenizer']['special']['bos']!r}, by which documents "
                "are told apart: set data.document_mask=false"
            )


def _referenced(manifest: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield source and facts of each file that a store refers to."""
    for name, facts in manifest["sources"].items():
        if "excluded" in facts:
            yield from ((name, file) for file in facts["shards"])
