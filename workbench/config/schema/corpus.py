"""Configuration of corpora: data built in shards by a pipeline that can be killed anywhere and go on."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.plain import check_at_least


@dataclass(frozen=True)
class CorpusConfig:
    """How a corpus is cut into shards, and what is taken out of it."""

    shard_bytes: int = 256_000_000
    """Most input of one shard, in bytes as they lie on disk. A shard is the unit of work: what is lost when a process
    is killed. Packed files and texts are never cut, so that a shard of one large file may have more."""
    exact_duplicates: bool = True
    """Whether of documents that are equal but for white space only the first is kept, over all sources."""

    def __post_init__(self) -> None:
        """Refuse shards of nothing."""
        check_at_least("data.corpus.shard_bytes", self.shard_bytes, 1)
