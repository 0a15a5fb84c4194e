"""Configuration of corpora: data built in shards by a pipeline that can be killed anywhere and go on."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.plain import check_at_least
from workbench.config.schema.contamination_config import Contamination
from workbench.config.schema.near_duplicates import NearDuplicates


@dataclass(frozen=True)
class CorpusConfig:
    """How a corpus is cut into shards, and what is taken out of it."""

    shard_bytes: int = 256_000_000
    """Most input of one shard, in bytes as they lie on disk. A shard is the unit of work: what is lost when a process
    is killed. Packed files and texts are never cut, so that a shard of one large file may have more."""
    exact_duplicates: bool = True
    """Whether of documents that are equal but for white space only the first is kept, over all sources."""
    near_duplicates: NearDuplicates | None = None
    """Of documents that are nearly equal only the first is kept, over all sources; None keeps them. `{}` takes FineWeb's
    settings."""
    heldout_near_duplicates: NearDuplicates | None = None
    """Documents that nearly repeat a held-out one are dropped, whatever `near_duplicates` does with the others; None drops none
    for that. Settings of `near_duplicates`, but for `verify`."""
    contamination: Contamination | None = None
    """Benchmark texts that training documents must not hold; None looks for none."""
    overlap_words: int = 13
    """Every passage of this many words that occurs in a held-out document is removed from training text, after the runs of
    `data.overlap_lines` lines (what it costs: docs/corpora.md)."""
    overlap_min_words: int = 8
    """Held-out documents of fewer than `overlap_words` words, but this many, are looked for as a whole. Those of fewer
    are not chosen: they could not be found in training text."""

    language_sample: int | None = None
    """Documents of each source without a `language` field whose language is detected for the report, those with the smallest
    hashes; None: of none. Needs the library py3langid. It changes no text."""

    def __post_init__(self) -> None:
        """Refuse shards of nothing, and passages that are none."""
        check_at_least("data.corpus.shard_bytes", self.shard_bytes, 1)
        check_at_least("data.corpus.overlap_min_words", self.overlap_min_words, 1)
        check_at_least("data.corpus.language_sample", self.language_sample, 1)
        if self.heldout_near_duplicates is not None and self.heldout_near_duplicates.verify:
            raise ValueError(
                "data.corpus.heldout_near_duplicates.verify=True is not there: documents that share a band with a held-out one "
                "go unread; leave it out"
            )
        if self.overlap_min_words > self.overlap_words:
            raise ValueError(
                f"data.corpus.overlap_min_words={self.overlap_min_words} is more than overlap_words={self.overlap_words}: "
                "a shorter passage than that is looked for only where a held-out document has no more"
            )
