"""What packing the documents of a corpus will take that is not made yet: time of one process, and disk of the index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.data.corpus.corpus_progress import name_time

PIECES_PER_SECOND = 1.9e6
"""Documents a second of one core that were found, packed and written with checksums, a tenth of them cut into several pieces
(docs/performance.md, "Packed documents")."""
TOKENS_PER_SECOND = 1.7e9
"""Tokens a second of the same measurement: where documents are found by their first tokens, all are read."""
PIECE_BYTES, SEQUENCE_BYTES = 12, 8
"""As `workbench.data.packed_index` has them: beginning and size of a piece, place of a sequence."""


@dataclass(frozen=True)
class PackingWork:
    """What is known of packed documents before there are any."""

    context_tokens: int
    """Tokens of a sequence."""
    sources: tuple[str, ...]
    """Those that are packed."""
    pieces: int | None
    """Pieces at most; None: not known."""
    seconds: float | None
    """Of one process."""
    disk_bytes: int | None
    """Of the index."""


def estimate_packing(
    context_tokens: int, sources: Sequence[str], documents: float | None, tokens: float | None
) -> PackingWork:
    """Estimate packing from the numbers of documents and tokens; None where one of them is not known.

    A document of L tokens is at most 1 + L / context pieces, and padding adds few sequences.
    """
    if documents is None or tokens is None:
        return PackingWork(context_tokens, tuple(sources), None, None, None)
    pieces, sequences = round(documents + tokens / context_tokens), -(-tokens // context_tokens)
    seconds = max(pieces / PIECES_PER_SECOND, tokens / TOKENS_PER_SECOND)
    disk = PIECE_BYTES * pieces + SEQUENCE_BYTES * (sequences + len(sources))
    return PackingWork(context_tokens, tuple(sources), pieces, seconds, round(disk))


def describe_packing(work: PackingWork) -> str:
    """Say in a few words what packing will take, after what the corpus takes."""
    what = f"packing {', '.join(work.sources)} into {work.context_tokens:,} tokens"
    if work.seconds is None or work.disk_bytes is None:
        return f"{what}: not estimated, since the documents of the data that were measured were not counted"
    size = f"{work.disk_bytes / 1e9:.3g} GB" if work.disk_bytes >= 1e9 else f"{work.disk_bytes / 1e6:.3g} MB"
    return f"{what}: about {name_time(work.seconds)} of one process after that, and {size} of disk (by docs/performance.md)"
