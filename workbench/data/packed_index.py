"""Documents packed into sequences by best fit: which pieces of a prepared store share a sequence, found once and kept.

data/packed/<fingerprint>-<context>-<source>/
  manifest.json          counts of the source, checksums
  <source>.begins.bin    int64: first token of each piece in the source, sequence by sequence
  <source>.sizes.bin     int32: its tokens; negative where its document goes on behind it
  <source>.starts.bin    int64: place of each sequence's first piece, and the number of all

A folder without a source in its name, as earlier versions made them, has all sources of the store, and is read as well.

A document longer than the context is cut into pieces of it, of which the last keeps what is left; every other one is a
piece. Pieces are packed by best fit in blocks: the fewest whole documents in the store's order with at least
`PIECES_A_BLOCK` pieces, which is a function of the documents' lengths alone, so that neither shards nor processes change
it, and as much memory as a block takes is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.data.best_fit import best_fit_decreasing
from workbench.data.folders import MANIFEST, make_folder, read_manifest
from workbench.data.store import Prepared
from workbench.data.stored_documents import begin_with_bos, find_documents, refuse_windows

BEST_FIT = "best_fit"
PIECES_A_BLOCK = 1 << 18
"""With 2^14 there is three times the padding and more, with 2^20 hardly less (docs/performance.md). What is trained on
depends on it, as ids of stages do not: it stays as it is."""


@dataclass(frozen=True)
class PackedSource:
    """The packed sequences of one source."""

    begins: NDArray[np.int64]
    """First token of each piece in the source, (pieces,)."""
    sizes: NDArray[np.int32]
    """Its tokens, negative where its document goes on behind it, (pieces,)."""
    starts: NDArray[np.int64]
    """Place of each sequence's first piece, and the number of all, (sequences + 1,)."""
    bos_id: int
    """Fills what is left of a sequence."""
    begins_with_bos: bool
    """Whether each document does: what follows a document's last token is then `bos_id`, and a target."""
    padded_share: float
    """Positions that are filled, of those of all sequences."""

    @property
    def sequences(self) -> int:
        """Number of packed sequences."""
        return len(self.starts) - 1


def packing_folder(prepared: Prepared, context_tokens: int, source: str) -> Path:
    """Folder of a source's packed sequences of a context, beside the store."""
    return prepared.directory.parent / "packed" / f"{prepared.fingerprint}-{context_tokens}-{source}"


def _made_folder(prepared: Prepared, context_tokens: int, source: str) -> Path | None:
    """Folder in which a source is packed, also one of an earlier version; None where there is none yet."""
    own = packing_folder(prepared, context_tokens, source)
    of_all = own.with_name(f"{prepared.fingerprint}-{context_tokens}")
    return next((folder for folder in (own, of_all) if (folder / MANIFEST).is_file()), None)


def is_packed(prepared: Prepared, context_tokens: int, sources: Collection[str] | None = None) -> bool:
    """Whether the sequences of a context have been packed, of some sources; None is all of the store's."""
    return all(_made_folder(prepared, context_tokens, name) for name in _names(prepared, sources))


def _names(prepared: Prepared, sources: Collection[str] | None) -> list[str]:
    return list(prepared.sources) if sources is None else sorted(sources)


def make_packing(
    prepared: Prepared,
    context_tokens: int,
    sources: Collection[str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Pack a store's documents for a context, unless that is done; another process that does it is waited for.

    Parameters
    ----------
    prepared
        The store.
    context_tokens
        Predicted tokens of a sequence.
    sources
        Those that are drawn from; None packs all of the store's.
    say
        Told what is done.

    Raises
    ------
    ValueError
        Nothing tells the documents of one of these sources apart.
    """
    missing = [name for name in _names(prepared, sources) if _made_folder(prepared, context_tokens, name) is None]
    for name in missing:
        refuse_windows(prepared.manifest, name)
    if missing:
        say(f"packing the documents of {prepared.fingerprint} into sequences of {context_tokens} ...")
    for name in missing:

        def write(partial: Path, name: str = name) -> dict[str, Any]:
            facts = {name: _pack_source(prepared, name, context_tokens, partial)}
            for line in packing_lines(facts):
                say(line)
            return {"format": 1, "kind": "packed", "context_tokens": context_tokens, "sources": facts}

        make_folder(packing_folder(prepared, context_tokens, name), write)


def read_packing(
    prepared: Prepared, context_tokens: int, sources: Collection[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Give counts by source: `tokens`, `documents`, `pieces`, `sequences`, `padded` positions, and documents that are cut.

    Of some sources; None takes all of the store's. Of the documents, `cut` are longer than a sequence, and `cut_in_windows` are cut where the same documents are concatenated.

    Raises
    ------
    ValueError
        They have not been packed, or a file is missing or of another size than was written.
    """
    return {name: facts for name, (_, facts) in _read(prepared, context_tokens, sources).items()}


def _read(
    prepared: Prepared, context_tokens: int, sources: Collection[str] | None
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Folder and counts by source."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for name in _names(prepared, sources):
        folder = _made_folder(prepared, context_tokens, name)
        if folder is None:
            raise ValueError(
                f"the documents of source {name!r} of data {prepared.fingerprint} are not packed into sequences of "
                f"{context_tokens} yet: `workbench prepare` or `workbench run` does it"
            )
        found[name] = folder, read_manifest(folder)["sources"][name]
    return found


def open_packing(
    prepared: Prepared, context_tokens: int, sources: Collection[str] | None = None
) -> dict[str, PackedSource]:
    """Open packed sequences by source, as memory maps; None opens all of the store's.

    Raises
    ------
    ValueError
        As `read_packing`.
    """
    return {
        name: PackedSource(
            _map(folder / f"{name}.begins.bin", "<i8"),
            _map(folder / f"{name}.sizes.bin", "<i4"),
            _map(folder / f"{name}.starts.bin", "<i8"),
            prepared.bos_id,
            begin_with_bos(prepared.manifest, name),
            padded_share(facts, context_tokens),
        )
        for name, (folder, facts) in _read(prepared, context_tokens, sources).items()
    }


def _map(path: Path, dtype: str) -> NDArray[Any]:
    return np.asarray(np.memmap(path, dtype, "r"))  # a plain array over the map: its slices take a fraction of the time


def padded_share(facts: dict[str, Any], context_tokens: int) -> float:
    """Share of a source's positions that are filled."""
    return facts["padded"] / max(1, facts["sequences"] * context_tokens)


def packing_lines(sources: dict[str, dict[str, Any]]) -> list[str]:
    """Describe packed sources for people."""
    return [
        f"source {name!r}: no document to pack"
        if not facts["sequences"]
        else f"source {name!r}: {facts['documents']:,} documents in {facts['sequences']:,} packed sequences; padded "
        f"{facts['padded'] / (facts['padded'] + facts['tokens']):.3%} of the positions; documents cut "
        f"{facts['cut'] / facts['documents']:.2%}, {facts['cut_in_windows'] / facts['documents']:.2%} if they were concatenated"
        for name, facts in sources.items()
    ]


def _pack_source(prepared: Prepared, source: str, context_tokens: int, folder: Path) -> dict[str, Any]:
    with (
        (folder / f"{source}.begins.bin").open("wb") as begins,
        (folder / f"{source}.sizes.bin").open("wb") as sizes,
        (folder / f"{source}.starts.bin").open("wb") as starts,
    ):
        np.zeros(1, "<i8").tofile(starts)
        facts = {"tokens": 0, "documents": 0, "pieces": 0, "sequences": 0, "cut": 0, "cut_in_windows": 0}
        for documents in blocks(find_documents(prepared, source), context_tokens):
            packed = pack_block(documents, context_tokens)
            packed.begins.astype("<i8").tofile(begins)
            packed.sizes.astype("<i4").tofile(sizes)
            (packed.starts[1:] + facts["pieces"]).astype("<i8").tofile(starts)
            first, last = documents[:, 0], documents[:, 1] - 1
            facts["tokens"] += int((documents[:, 1] - first).sum())
            facts["documents"] += len(documents)
            facts["pieces"] += len(packed.begins)
            facts["sequences"] += len(packed.starts) - 1
            facts["cut"] += int((last - first >= context_tokens).sum())
            facts["cut_in_windows"] += int((first // context_tokens != last // context_tokens).sum())
    return {**facts, "padded": facts["sequences"] * context_tokens - facts["tokens"]}


@dataclass(frozen=True)
class PackedBlock:
    """Pieces of some documents by sequence; fields as in `PackedSource`."""

    begins: NDArray[np.int64]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]


def pack_block(documents: NDArray[np.int64], context_tokens: int) -> PackedBlock:
    """Cut what is longer than a sequence, and pack all pieces by best fit.

    Parameters
    ----------
    documents
        First token and end of each, (documents, 2).
    context_tokens
        Tokens of a sequence's inputs.
    """
    counts = _count_pieces(documents, context_tokens)
    document = np.repeat(np.arange(len(documents)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = documents[document, 0] + number * context_tokens
    left = documents[document, 1] - begins
    lengths = np.minimum(left, context_tokens)
    packing = best_fit_decreasing(lengths, context_tokens)
    sizes = np.where(left > context_tokens, -lengths, lengths)
    return PackedBlock(begins[packing.order], sizes[packing.order], packing.starts)


def blocks(
    documents: Iterator[NDArray[np.int64]], context_tokens: int, pieces: int = PIECES_A_BLOCK
) -> Iterator[NDArray[np.int64]]:
    """Divide documents, which come some at a time, into blocks of at least so many pieces: (documents, 2) each."""
    waiting: list[NDArray[np.int64]] = []
    missing = pieces
    for found in documents:
        found = found[found[:, 1] > found[:, 0]]
        while len(found):
            reached = np.cumsum(_count_pieces(found, context_tokens))
            end = int(np.searchsorted(reached, missing)) + 1
            waiting.append(found[:end])
            missing -= int(reached[min(end, len(found)) - 1])
            found = found[end:]
            if missing <= 0:
                yield np.concatenate(waiting)
                waiting, missing = [], pieces
    if waiting:
        yield np.concatenate(waiting)


def _count_pieces(documents: NDArray[np.int64], context_tokens: int) -> NDArray[np.int64]:
    return -(-(documents[:, 1] - documents[:, 0]) // context_tokens)
