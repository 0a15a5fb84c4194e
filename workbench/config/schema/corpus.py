"""Configuration of corpora: data built in shards by a pipeline that can be killed anywhere and go on."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.plain import check_at_least


@dataclass(frozen=True)
class CorpusConfig:
    """How a corpus is cut into shards."""

    shard_bytes: int = 256_000_000
    """Most input of one shard, in bytes as they lie on disk."""

    def __post_init__(self) -> None:
        """Refuse shards of nothing."""
        check_at_least("data.corpus.shard_bytes", self.shard_bytes, 1)
