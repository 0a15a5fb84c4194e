"""The held-out documents: chosen first, by content alone, so that no cap and no tokenizer moves them."""

from __future__ import annotations

import gzip
import hashlib
import lzma
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from workbench.config.schema import DataConfig
from workbench.data import counts
from workbench.data.counts import Found
from workbench.data.overlap import HeldoutRuns
from workbench.data.sources import Group

DOCUMENTS_A_FILE = 2
"""Documents of one source taken from one file at most."""


@dataclass(frozen=True)
class HeldoutDocument:
    """One held-out document."""

    id: str
    """Beginning of its file's content hash, and a number."""
    text: str
    """The text that is scored."""


@dataclass
class Heldout:
    """All held-out documents, and what training must lose because of them."""

    documents: dict[str, list[HeldoutDocument]]
    """By source."""
    runs: HeldoutRuns
    """Their runs of lines."""
    dropped: set[int] = field(default_factory=set)
    """`hash_text` of the documents they were taken from, uncut."""
    passed_over: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By source, documents of the split that were looked at and not chosen, by cause."""

    def texts(self) -> dict[str, list[str]]:
        """Texts by source."""
        return {name: [d.text for d in documents] for name, documents in self.documents.items()}


def is_heldout(key: str, percent: float) -> bool:
    """Whether the file with content hash `key` (hexadecimal) is held out, a share of `percent` of all."""
    return int(key[:16], 16) % 1_000_000 < round(percent * 10_000)


def hash_text(text: str) -> int:
    """64-bit hash of a text with white space folded, equal for exact duplicates."""
    return int.from_bytes(hashlib.blake2b(" ".join(text.split()).encode(), digest_size=8).digest(), "little")


def collect_heldout(data: DataConfig, groups: Iterable[Group]) -> Heldout:
    """Choose held-out documents in the order of the sources' items until each source's `heldout_bytes` is met.

    A document that shares a run of lines with one chosen before is passed over, so that documents are
    independent as far as that goes.

    Raises
    ------
    ValueError
        A source that wants held-out text has none.
    """
    heldout = Heldout({name: [] for name in data.sources}, HeldoutRuns(data.overlap_lines))
    for group in groups:
        room = {name: config.heldout_bytes for name, config in zip(group.names, group.configs, strict=True)}
        for item in group.items():
            wanted = [name for name in group.names if room[name] >= data.min_document_bytes]
            if not wanted:
                break
            if is_heldout(item.key, data.heldout_percent):
                _choose_of_file(heldout, room, group.documents(item, wanted), item.key, data)
        for name, config in zip(group.names, group.configs, strict=True):
            if config.heldout_bytes and not heldout.documents[name]:
                passed = heldout.passed_over[name]
                raise ValueError(
                    f"source {name!r} has no held-out document{counts.name_counts(passed, ': the split has ')}: raise "
                    f"data.heldout_percent={data.heldout_percent}, or go without "
                    f"(data.sources.{name}.heldout_bytes=0 evaluation=none)"
                )
    return heldout


def _choose_of_file(heldout: Heldout, room: dict[str, int], found: list[Found], key: str, data: DataConfig) -> None:
    """Choose among the documents of one file: the first few of each source that are long enough."""
    tried: Counter[str] = Counter()
    for source, text, dropped in found:
        cause = dropped or counts.why_too_short(text, data.min_document_bytes)
        if cause is None and tried[source] == DOCUMENTS_A_FILE:
            cause = counts.FILE_IS_USED
        if cause is None:
            tried[source] += 1
            cause = _choose(heldout, room, source, key, text, data)
        if cause is not None:
            heldout.passed_over[source][cause] += 1


def _choose(heldout: Heldout, room: dict[str, int], source: str, key: str, text: str, data: DataConfig) -> str | None:
    """Hold a document out, or give the cause why not."""
    chosen, touched = excerpt(text, data.heldout_document_bytes, int(key[16:32], 16))
    min_bytes = data.min_document_bytes
    size = len(chosen.encode())
    if size < min_bytes:
        return counts.TOO_SHORT
    if room[source] < min_bytes:
        return counts.NO_ROOM
    if heldout.runs.shares_any(touched):
        return counts.SHARED_LINES
    if size > room[source]:
        room[source] = 0
        return counts.NO_ROOM
    room[source] -= size
    number = len(heldout.documents[source])
    heldout.documents[source].append(HeldoutDocument(f"{key[:12]}-{number}", chosen))
    heldout.runs.add(chosen)
    heldout.runs.add(touched)
    heldout.dropped.add(hash_text(text))
    return None


def excerpt(text: str, limit: int, choice: int) -> tuple[str, str]:
    """At most `limit` bytes of a text, from a paragraph that `choice` picks, and the whole lines it touches.

    The cut lies at a line's end, or inside the line after a space where lines are longer than that.
    """
    if len(text.encode()) <= limit:
        return text, text
    lines = text.split("\n")
    sizes = [len(line.encode()) + 1 for line in lines]
    rest = sum(sizes)
    starts = []
    for i, size in enumerate(sizes):
        if lines[i].strip() and rest >= limit // 2 and (i == 0 or not lines[i - 1].strip()):
            starts.append(i)
        rest -= size
    first = starts[choice % len(starts)] if starts else 0
    stop, used = first, 0
    while stop < len(lines) and used + sizes[stop] <= limit + 1:
        used += sizes[stop]
        stop += 1
    chosen = "\n".join(lines[first:stop])
    if used < limit // 2 and stop < len(lines):
        part = lines[stop].encode()[: limit - used].decode(errors="ignore").rpartition(" ")[0]
        chosen = "\n".join([*lines[first:stop], part])
        stop += 1
    return chosen.strip("\n"), "\n".join(lines[first:stop]).strip("\n")


def compressed_sizes(texts: list[str]) -> dict[str, int]:
    """Bytes of the texts in a row, plain and as `gzip -9` and `xz -9` write them."""
    raw = "".join(texts).encode()
    return {
        "bytes": len(raw),
        "gzip_bytes": len(gzip.compress(raw, 9, mtime=0)),
        "xz_bytes": len(lzma.compress(raw, preset=9)),
    }
