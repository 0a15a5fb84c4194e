"""What an audit finds in packed documents: the index beside the store, against the documents that the token files hold.

Written apart from what packs (`workbench.data.packed_index`), in one pass over the index and bounded memory. A piece is its first
token, its size and whether its document goes on behind it; pieces are compared with those that the documents should have as sums of
hashes in `_BINS` ranges of tokens, so that one that is missing, doubled, or outside its document makes the sums of its range differ
(two different sets of pieces give the same sums with a probability of 2^-64).

Of token files that the store only refers to, documents are not known. Their pieces must lie one behind the other and leave out just
what is held out: where the places at which pieces and held-out ranges begin are those at which others end, but for the first token
and the last, they cover every token once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.data import audit_files
from workbench.data.audit_check import Check, judge
from workbench.data.audit_files import TokenFile
from workbench.data.audit_tokens import Scan
from workbench.data.folders import MANIFEST
from workbench.study.files import sha256

_CHUNK = 1 << 20
"""Pieces, or sequences, at a time."""
_BINS = 1 << 12
"""Ranges of tokens in which sums are kept."""
_FILES = {"begins": "<i8", "sizes": "<i4", "starts": "<i8"}

Scans = Sequence[tuple[TokenFile, Scan]]
Array = NDArray[Any]


def packed_folders(directory: Path, fingerprint: str) -> list[Path]:
    """List the folders of a store's packed documents, which lie beside it."""
    found = (directory.parent / "packed").glob(f"{fingerprint}-*")
    return sorted(folder for folder in found if (folder / MANIFEST).is_file())


def check_packing(
    directory: Path, manifest: Mapping[str, Any], files: Sequence[TokenFile], scans: Scans
) -> Iterator[Check]:
    """Check every index beside a store.

    Parameters
    ----------
    directory, manifest
        The store.
    files
        All its token files.
    scans
        Those that were read, with where documents begin in them.
    """
    for folder in packed_folders(directory, str(manifest["fingerprint"])):
        try:
            packed = audit_files.read_json(folder / MANIFEST)
            yield from _check_folder(folder, packed, directory, manifest, files, scans)
        except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            yield judge(f"packed {_short(folder)}", "it cannot be read", [f"{type(error).__name__}: {error}"])


def _short(folder: Path) -> str:
    """Context and source, without the store's fingerprint."""
    return folder.name.partition("-")[2]


def _check_folder(
    folder: Path,
    packed: Mapping[str, Any],
    directory: Path,
    manifest: Mapping[str, Any],
    files: Sequence[TokenFile],
    scans: Scans,
) -> Iterator[Check]:
    context, wrong = int(packed["context_tokens"]), list[str]()
    if packed["fingerprint"] != folder.name:
        wrong.append(f"the manifest is of {packed['fingerprint']}, the folder is {folder.name}")
    if folder.name.split("-")[1] != str(context):
        wrong.append(f"the manifest says sequences of {context:,} tokens")
    wrong += _wrong_files(folder, packed["files"])
    size = sum(facts["bytes"] for facts in packed["files"].values())
    found = f"{len(packed['files']):,} files, {size:,} bytes hashed"
    yield judge(f"packed {_short(folder)}: files", found, wrong)
    for source, facts in packed["sources"].items():
        yield _check_source(folder, source, facts, context, directory, manifest, files, scans)


def _wrong_files(folder: Path, listed: Mapping[str, Any]) -> list[str]:
    wrong = [
        f"{path.name} is not in the manifest"
        for path in sorted(folder.iterdir())
        if path.name not in (*listed, MANIFEST)
    ]
    for name, facts in listed.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != facts["bytes"]:
            wrong.append(f"{name} has {path.stat().st_size:,} bytes, the manifest says {facts['bytes']:,}")
        elif sha256(path) != facts["sha256"]:
            wrong.append(f"{name} is not what its checksum says")
    return wrong


def _check_source(
    folder: Path,
    source: str,
    facts: Mapping[str, Any],
    context: int,
    directory: Path,
    manifest: Mapping[str, Any],
    files: Sequence[TokenFile],
    scans: Scans,
) -> Check:
    stored = manifest["sources"][source]
    begins, sizes, starts = (_open(folder / f"{source}.{name}.bin", dtype) for name, dtype in _FILES.items())
    name = f"packed {_short(folder)}: {source}"
    pieces, sequences = len(begins), max(len(starts) - 1, 0)
    size = f"{pieces:,} pieces in {sequences:,} sequences of {context:,}"
    if len(sizes) != pieces:
        return judge(name, size, [f"{pieces:,} beginnings and {len(sizes):,} sizes of pieces"])
    wrong = _wrong_starts(starts, pieces, context)
    wrong = wrong or _wrong_lengths(sizes, starts, context)
    total = sum(int(np.abs(part.astype(np.int64)).sum()) for part in _parts(sizes))
    counted = {"pieces": pieces, "sequences": sequences, "tokens": total, "padded": sequences * context - total}
    wrong += [
        f"{what}: {value:,}, the manifest says {facts[what]:,}"
        for what, value in counted.items()
        if facts[what] != value
    ]
    if source in audit_files.elsewhere(manifest):
        wrong += _wrong_cover(directory, stored, begins, sizes, context)
        where = "each token of the files elsewhere once but for what is held out (where their documents end is not known here)"
        known = stored["documents"]
    else:
        mine = [file for file in files if file.source == source]
        read = [(file, found) for file, found in scans if file.source == source]
        wrong += _compare(begins, sizes, context, mine, read)
        if len(read) == len(mine):
            wrong += _wrong_cuts(facts, context, read)
        known = sum(int(file.facts["documents"]) for file in mine)
        where = f"against the documents of {len(read):,} of {len(mine):,} token files"
    if facts["documents"] != known:
        wrong.append(f"documents: {known:,} by the store, the manifest says {facts['documents']:,}")
    return judge(name, f"{size}, {total:,} tokens, {counted['padded']:,} padded; {where}", wrong)


def _open(path: Path, dtype: str) -> Array:
    """Map a file of numbers; what is behind the last whole one is left out, as the files' sizes tell."""
    count = path.stat().st_size // np.dtype(dtype).itemsize if path.is_file() else 0
    return np.memmap(path, dtype, "r", shape=(count,)) if count else np.empty(0, dtype)


def _parts(values: Array, size: int = _CHUNK) -> Iterator[Array]:
    for place in range(0, len(values), size):
        yield np.asarray(values[place : place + size])


def _wrong_starts(starts: Array, pieces: int, context: int) -> list[str]:
    """Say where starts do not ascend from 0 to the number of pieces, by at least one and no more than tokens fit."""
    if not len(starts) or starts[0] != 0 or starts[-1] != pieces:
        ends = f"from {starts[0]:,} to {starts[-1]:,}" if len(starts) else "nowhere"
        return [f"sequences go {ends}, the pieces from 0 to {pieces:,}"]
    for place in range(0, len(starts) - 1, _CHUNK):
        steps = np.diff(starts[place : place + _CHUNK + 1])
        odd = np.flatnonzero((steps < 1) | (steps > context))
        if len(odd):
            return [f"sequence {place + int(odd[0]):,} has {int(steps[odd[0]]):,} pieces"]
    return []


def _wrong_lengths(sizes: Array, starts: Array, context: int) -> list[str]:
    """Say how many sequences are longer than the context, and how many pieces have no token."""
    long, empty, first, place = 0, 0, None, 0
    while place < len(starts) - 1:
        until = int(np.searchsorted(starts, starts[place] + max(_CHUNK, context), "right")) - 1
        here = np.abs(np.asarray(sizes[starts[place] : starts[until]]).astype(np.int64))
        lengths = np.add.reduceat(here, np.asarray(starts[place:until]) - starts[place])
        over = np.flatnonzero(lengths > context)
        first = place + int(over[0]) if len(over) and first is None else first
        long, empty, place = long + len(over), empty + int((here == 0).sum()), until
    wrong = [f"{long:,} sequences are longer than {context:,} tokens, the first is {first:,}"] if long else []
    return wrong + ([f"{empty:,} pieces have no token"] if empty else [])


def _compare(begins: Array, sizes: Array, context: int, files: Sequence[TokenFile], scans: Scans) -> list[str]:
    """Say where pieces are not those of the documents in the files that were read, of all files of a source."""
    ends = np.cumsum([0, *(int(file.facts["tokens"]) for file in files)], dtype=np.int64)
    found = {file.name: scan for file, scan in scans}
    read = [i for i, file in enumerate(files) if file.name in found]
    wanted, given = _Sums(int(ends[-1])), _Sums(int(ends[-1]))
    for i in read:
        for part in _expected(found[files[i].name], context):
            wanted.add(part[0] + ends[i], part[1])
    outside = 0
    for place in range(0, len(begins), _CHUNK):
        first, size = (np.asarray(values[place : place + _CHUNK]).astype(np.int64) for values in (begins, sizes))
        inside = (first >= 0) & (first + np.abs(size) <= ends[-1])
        outside += int((~inside).sum())
        of_file = np.searchsorted(ends, first, "right") - 1
        looked = inside & np.isin(of_file, read)
        given.add(first[looked], size[looked])
    wrong = [f"{outside:,} pieces reach beyond the source's {int(ends[-1]):,} tokens"] if outside else []
    return [*wrong, *given.unlike(wanted)]


def _wrong_cuts(facts: Mapping[str, Any], context: int, scans: Scans) -> list[str]:
    """Compare the documents that are said to be cut, in packed sequences and in windows, with those of all files of a source."""
    cut = {"cut": 0, "cut_in_windows": 0}
    before = 0
    for _, scan in scans:
        begins, ends = scan.begins + before, np.append(scan.begins[1:], scan.tokens) + before
        cut["cut"] += int((ends - begins > context).sum())
        cut["cut_in_windows"] += int((begins // context != (ends - 1) // context).sum())
        before += scan.tokens
    return [
        f"{what}: {value:,} documents, the manifest says {facts[what]:,}"
        for what, value in cut.items()
        if facts[what] != value
    ]


def _expected(scan: Scan, context: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield first tokens and sizes of the pieces that a file's documents should have, some documents at a time."""
    ends = np.append(scan.begins[1:], scan.tokens)
    for place in range(0, len(scan.begins), _CHUNK >> 3):
        begin, end = scan.begins[place : place + (_CHUNK >> 3)], ends[place : place + (_CHUNK >> 3)]
        while len(begin):
            left = end - begin
            goes_on = left > context
            yield begin, np.where(goes_on, -context, left)
            begin, end = begin[goes_on] + context, end[goes_on]


class _Sums:
    """Numbers of pieces and sums of their hashes, by ranges of tokens."""

    def __init__(self, tokens: int) -> None:
        self._width = max(1, -(-tokens // _BINS))
        self._counts = np.zeros(_BINS + 1, np.int64)
        self._hashes = np.zeros(_BINS + 1, np.uint64)

    def add(self, begins: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Add pieces."""
        place = begins // self._width
        self._counts += np.bincount(place, minlength=_BINS + 1)
        hashes = _mix(begins.astype(np.uint64) ^ _mix(sizes.astype(np.uint64)))
        np.add.at(self._hashes, place, hashes)

    def unlike(self, wanted: _Sums) -> list[str]:
        """Say where the pieces are not those that are wanted."""
        odd = np.flatnonzero((self._counts != wanted._counts) | (self._hashes != wanted._hashes))
        return [
            f"tokens {place * self._width:,} to {(place + 1) * self._width:,}: {int(self._counts[place]):,} pieces that are "
            f"not the {int(wanted._counts[place]):,} of the documents there"
            for place in odd.tolist()
        ]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash numbers (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators": SplitMix64)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def _wrong_cover(directory: Path, facts: Mapping[str, Any], begins: Array, sizes: Array, context: int) -> list[str]:
    """Say whether pieces and held-out ranges cover the tokens of files elsewhere once, and pieces that go on are whole."""
    total = sum(int(shard["tokens"]) for shard in facts["shards"])
    firsts = np.cumsum([0, *(int(shard["tokens"]) for shard in facts["shards"])], dtype=np.int64)
    covered, places = 0, _Sums(total + 1)
    wanted, cut, outside = _Sums(total + 1), 0, 0

    def take(begin: NDArray[np.int64], end: NDArray[np.int64]) -> None:
        places.add(begin, np.zeros_like(begin))
        wanted.add(end, np.zeros_like(end))

    for place in range(0, len(begins), _CHUNK):
        begin, size = (np.asarray(values[place : place + _CHUNK]).astype(np.int64) for values in (begins, sizes))
        cut += int((size < -context).sum() + ((size < 0) & (size > -context)).sum())
        inside = (begin >= 0) & (begin + np.abs(size) <= total)
        outside += int((~inside).sum())
        take(begin[inside], (begin + np.abs(size))[inside])
        covered += int(np.abs(size[inside]).sum())
    for name in facts["excluded"]:
        ranges = np.load(directory / name, mmap_mode="r", allow_pickle=False)
        for part in _parts(ranges):
            take(part[:, 1] + firsts[part[:, 0]], part[:, 2] + firsts[part[:, 0]])
            covered += int((part[:, 2] - part[:, 1]).sum())
    places.add(np.array([total]), np.zeros(1, np.int64))
    wanted.add(np.array([0]), np.zeros(1, np.int64))
    wrong = [f"{outside:,} pieces reach beyond the source's {total:,} tokens"] if outside else []
    wrong += [f"{cut:,} pieces of documents that go on are not as long as a sequence"] if cut else []
    if covered != total or places.unlike(wanted):
        wrong.append(f"pieces and held-out ranges ({covered:,} tokens) do not cover each of the {total:,} tokens once")
    return wrong
