"""The steps of a corpus as phases of tasks: the tasks of one are independent, and the next begins when all are done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.data.corpus import (
    contamination_step,
    duplicates_step,
    heldout_step,
    read_step,
    summary_step,
    token_step,
    tokenizer_step,
)
from workbench.data.corpus.corpus_plan import Corpus

_ONE_TASK = "all"
_SMALL_BYTES = 1_000_000
"""Disk for what is small: held-out texts, counts."""
_TOKENIZER_BYTES = 10_000_000
_INDEX_BYTES = 20_000_000


@dataclass(frozen=True)
class Phase:
    """Tasks that may be done in any order and at the same time."""

    name: str
    """First part of its tasks' names."""
    doing: str
    """What is done, for people."""
    names: Callable[[Corpus], list[str]]
    """Second part of its tasks' names."""
    do: Callable[[Corpus, str, Path], dict[str, Any]]
    """Does a task in a folder of its own, and gives what is recorded."""
    needs: Callable[[Corpus, str], int]
    """Disk that a task takes, in bytes, estimated from above."""
    by_bytes: bool = True
    """Whether its progress is counted in bytes of input."""

    def tasks(self, corpus: Corpus) -> list[str]:
        """Names of its tasks."""
        return [f"{self.name}/{name}" for name in self.names(corpus)]


def _all_shards(corpus: Corpus) -> list[str]:
    return [shard.name for shard in corpus.shards]


def _capped_shards(corpus: Corpus) -> list[str]:
    return [shard.name for shard in corpus.shards if corpus.source(shard).max_bytes is not None]


def _one(corpus: Corpus) -> list[str]:
    return [_ONE_TASK]


def _needs_little(corpus: Corpus, name: str) -> int:
    return _SMALL_BYTES


def _needs_tokenizer(corpus: Corpus, name: str) -> int:
    return _TOKENIZER_BYTES


def _needs_to_read(corpus: Corpus, name: str) -> int:
    """Texts, packed again: at most about what the input has, as it lies there, and hashes."""
    return corpus.by_name[name].bytes + _SMALL_BYTES


def _needs_to_sort(corpus: Corpus, name: str) -> int:
    return 32 * _documents(corpus) // len(duplicates_step.name_buckets(corpus)) + _SMALL_BYTES  # two shards and rows


def _needs_to_pair(corpus: Corpus, name: str) -> int:
    return 16 * _documents(corpus) + _SMALL_BYTES


def _needs_to_join(corpus: Corpus, name: str) -> int:
    return 48 * _documents(corpus) + _SMALL_BYTES  # a row in each of two lists, the first of its group, and copies


def _needs_to_index(corpus: Corpus, name: str) -> int:
    return _INDEX_BYTES


def _documents(corpus: Corpus) -> int:
    return corpus.folder.read_record("heldout/all").facts["documents"]


def _needs_to_encode(corpus: Corpus, name: str) -> int:
    """Two bytes of text a token, where most tokenizers take three and more, and the places of documents."""
    facts = corpus.folder.read_record(f"read/{name}").facts
    return facts["bytes"] // 2 * tokenizer_step.read_facts(corpus)[1].itemsize + 8 * facts["kept"] + _SMALL_BYTES


PHASES = (
    Phase("read", "reading", _all_shards, read_step.read, _needs_to_read),
    Phase("heldout", "choosing held-out documents", _one, heldout_step.hold_out, _needs_little, False),
    Phase(
        "exact",
        "finding exact duplicates",
        duplicates_step.name_buckets,
        duplicates_step.find_exact,
        _needs_to_sort,
        False,
    ),
    Phase(
        "near", "finding near duplicates", duplicates_step.name_bands, duplicates_step.find_near, _needs_to_pair, False
    ),
    Phase("duplicates", "joining duplicates", _one, duplicates_step.join, _needs_to_join, False),
    Phase(
        "benchmarks",
        "indexing benchmark texts",
        contamination_step.name_one,
        contamination_step.index,
        _needs_to_index,
        False,
    ),
    Phase(
        "passages",
        "looking for benchmark texts",
        contamination_step.name_shards,
        contamination_step.count,
        _needs_to_index,
    ),
    Phase("common", "adding up", contamination_step.name_one, contamination_step.add_up, _needs_to_index, False),
    Phase("tokenizer", "making the tokenizer", _one, tokenizer_step.make, _needs_tokenizer, False),
    Phase("room", "measuring what the caps take", _capped_shards, token_step.measure, _needs_little),
    Phase("caps", "dividing the caps", _one, token_step.divide, _needs_little, False),
    Phase("tokens", "writing tokens", _all_shards, token_step.write, _needs_to_encode),
    Phase("summary", "summing up", _one, summary_step.summarise, _needs_little, False),
)
"""In the order in which they are done."""
