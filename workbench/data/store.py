"""The prepared token store: made once, named by its inputs, read through memory maps.

data/<fingerprint>/
  manifest.json            facts, checksums, the overlap with held-out text that is left
  tokens_<source>.bin      token ids, little endian, the beginning-of-sequence token before each document
  heldout/<source>.jsonl   {"id", "text"}
  tokenizer/               a Hugging Face tokenizer directory

A corpus (`data.corpus`) has `tokens/<source>/<shard>.bin` instead, many files a source (`workbench.data.corpus`), and refers
to token files that were made elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.config.schema import DataConfig, TokenizerConfig, to_dict
from workbench.data.build import Progress, build, heldout_file, token_file
from workbench.data.corpus.corpus_manifest import FORMAT
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.corpus_speeds import remember
from workbench.data.corpus.pipeline import build_corpus
from workbench.data.corpus.referenced_tokens import open_referenced, refuse_changed, verify_referenced
from workbench.data.corpus.token_shards import TokenShards
from workbench.data.fingerprint import data_fingerprint, heldout_fingerprint
from workbench.data.folders import PreparedFolder, make_folder, read_manifest, verify_files
from workbench.data.hub import pin_revisions
from workbench.study.cores import usable_cores
from workbench.study.layout import Layout

__all__ = [
    "Prepared",
    "data_fingerprint",
    "heldout_fingerprint",
    "heldout_sizes",
    "open_prepared",
    "prepare",
]

Tokens = NDArray[np.unsignedinteger] | TokenShards
"""Token ids of a source: `len`, and slices."""


@dataclass(frozen=True)
class Prepared(PreparedFolder):
    """An opened token store."""

    @property
    def heldout_fingerprint(self) -> str:
        """Names the held-out documents."""
        return self.manifest["heldout_fingerprint"]

    @property
    def sources(self) -> dict[str, Tokens]:
        """Token ids by source, of shape (tokens,): read-only memory maps, or those of a corpus's files in a row."""
        return self._memory_maps

    @cached_property
    def _memory_maps(self) -> dict[str, Tokens]:
        dtype = np.dtype(self.manifest["dtype"])
        if self.manifest["format"] == FORMAT:
            return {
                name: open_referenced(self.directory, facts)
                if "excluded" in facts
                else TokenShards(
                    [self.directory / shard["file"] for shard in facts["shards"]],
                    dtype,
                    [shard["tokens"] for shard in facts["shards"]],
                )
                for name, facts in self.manifest["sources"].items()
            }
        return {name: np.memmap(token_file(self.directory, name), dtype, "r") for name in self.manifest["sources"]}

    @property
    def heldout_dir(self) -> Path:
        """Folder of `<source>.jsonl`."""
        return self.directory / "heldout"

    def heldout_path(self, source: str) -> Path:
        """Held-out documents of a source."""
        return heldout_file(self.directory, source)


def prepare(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    layout: Layout,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Make the token store of these configs, or open it where it exists.

    Parameters
    ----------
    data, tokenizer
        What to read and how to cut it into tokens.
    layout
        The store is made at `layout.data(fingerprint)`, complete or not at all.
    workers
        Processes; None takes one a core. The result does not depend on it.
    progress
        Called now and then with what is being done.

    Raises
    ------
    ValueError
        An input is missing or unreadable or changed while it was read, a source is empty, or the vocabulary does
        not fit.
    RuntimeError
        More than a tenth of some held-out document occurs in the training text all the same.
    workbench.data.corpus.full_disk.NoSpaceError, workbench.data.corpus.pipeline.Stopped
        See `workbench.data.corpus.pipeline.build_corpus`.
    """
    data = pin_revisions(data)
    fingerprint = data_fingerprint(data, tokenizer)
    directory = layout.data(fingerprint)
    if data.corpus is not None:
        workers = workers or usable_cores()

        def remember_speed(corpus: Corpus) -> None:
            if workers > 1:  # one worker is this process, in which a tokenizer has several threads
                remember(layout.root, corpus)

        build_corpus(directory, data, tokenizer, workers, progress or (lambda *_: None), remember_speed)
        return open_prepared(directory)

    def write(partial: Path) -> dict[str, Any]:
        facts = build(data, tokenizer, partial, workers or usable_cores(), progress or (lambda *_: None))
        _refuse_leak(facts)
        if data_fingerprint(data, tokenizer) != fingerprint:
            raise ValueError(f"the inputs of data {data.name!r} changed while they were read: prepare again")
        return {
            "format": 2,
            "heldout_fingerprint": heldout_fingerprint(data, tokenizer),
            **facts,
            "config": {"data": to_dict(data), "tokenizer": to_dict(tokenizer)},
        }

    make_folder(directory, write)
    return open_prepared(directory)


def open_prepared(directory: Path) -> Prepared:
    """Open a store.

    Raises
    ------
    ValueError
        There is none, it is of an unknown format or holds conversations, it is another than its folder's name says, a file
        is missing or of another size than was written, or a token file that it refers to is missing or has changed.
    """
    manifest = read_manifest(directory)
    if manifest.get("kind") is not None:
        held = {"chat": "conversations", "packed": "places of packed documents"}[manifest["kind"]]
        raise ValueError(f"{directory} holds {held}, not prepared documents")
    refuse_changed(directory, manifest)
    return Prepared(directory, manifest)


def verify(prepared: Prepared) -> None:
    """Compare every file with its checksum.

    Raises
    ------
    ValueError
        A file differs from what was written.
    """
    verify_files(prepared.directory, prepared.manifest)
    verify_referenced(prepared.manifest)


def heldout_sizes(prepared: Prepared) -> dict[str, dict[str, int]]:
    """By source, bytes of the held-out text: `bytes`, and compressed `gzip_bytes` and `xz_bytes` (both at level 9)."""
    return prepared.manifest["heldout_sizes"]


def _refuse_leak(facts: dict[str, Any]) -> None:
    for name, left in facts["overlap_left"].items():
        if left["worst_document"] > 0.1:
            raise RuntimeError(
                f"a held-out document of {name!r} has {left['worst_document']:.0%} of its bytes in training text "
                "after cutting: a bug, the store is not kept"
            )
