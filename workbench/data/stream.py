"""The training stream: sequence `i` is a pure function of (store, config, i).

Sequence i belongs to the source the mixture assigns it, as that source's j-th. With M windows
available, it is window `base(shuffle_e(j mod M))`, where e = j // M is the epoch, `shuffle_e` a
permutation of range(M) of its own for every epoch, and `base` one fixed permutation of all windows
of the store: a smaller unique-token budget is the beginning of a larger one. Window p holds tokens
[p x context, p x context + context + 1) of the source's store; windows that touch a token that is held out (token
files made elsewhere) are left out, and the others counted. There is no state: to resume is to
ask for the next index, and R ranks that take rows r, r + R, ... of a batch see one global order.

With `packing: best_fit` the sequences packed of documents (`workbench.data.packed_index`) take the place of windows; base,
epochs and budgets are the same. What a batch then has besides its tokens, `workbench.data.packed_rows` lays out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from workbench.config.schema import StreamConfig, StreamSource
from workbench.data.corpus.token_shards import TokenShards
from workbench.data.mixture import Mixture, drawn_sources
from workbench.data.packed_index import BEST_FIT, PackedSource, is_packed, open_packing
from workbench.data.packed_rows import lay_out_pieces
from workbench.data.permutation import Permutation
from workbench.data.store import Prepared


class TokenStore(Protocol):
    """What a stream needs of a prepared store; a protocol so that tests can stream from plain arrays."""

    @property
    def fingerprint(self) -> str:
        """Names the store."""
        ...

    @property
    def sources(self) -> Mapping[str, NDArray[np.unsignedinteger] | TokenShards]:
        """Token ids by source, each (tokens,)."""
        ...


class StreamBatch(NamedTuple):
    """Sequences of a stream, as `workbench.model.batch.Batch` has them; B sequences, T predicted tokens."""

    tokens: NDArray[np.int64]
    """Token ids, (B, T+1)."""
    sources: NDArray[np.int64]
    """Index of each sequence's source into `source_names`, (B,)."""
    weights: NDArray[np.float32] | None = None
    """1 where a target is one, and 0 in the padding, (B, T); None where documents are concatenated, and all are."""
    positions: NDArray[np.int64] | None = None
    """Position of each input in its piece of a document, (B, T); None where documents are concatenated."""
    documents: NDArray[np.int64] | None = None
    """Number of each input's piece in its sequence, (B, T); None where documents are concatenated."""


@dataclass(frozen=True)
class SourceCounts:
    """What a stretch of a stream drew from one source; the padding of packed sequences counts as tokens do."""

    drawn_tokens: int
    """Positions drawn, repetitions included."""
    distinct_tokens: int
    """Different ones among them."""
    epochs: float
    """Drawn over available."""
    max_repeats: int
    """How often the most repeated sequence was drawn."""
    padded_share: float = 0.0
    """Padding among the positions of all sequences of the source, of which a whole epoch has just this share."""


class _Source:
    """Windows or packed sequences of one source in their shuffled order."""

    def __init__(
        self,
        name: str,
        tokens: NDArray[np.unsignedinteger] | TokenShards,
        config: StreamSource,
        stream: StreamConfig,
        packed: PackedSource | None,
    ) -> None:
        context = stream.context_tokens
        self.packed = packed
        self._left_out = np.empty(0, np.int64) if packed else _touched(tokens, context)
        stored = packed.sequences if packed else (len(tokens) - 1) // context - len(self._left_out)
        if stored < 1:
            beside = f" and {len(self._left_out)} sequences with held-out ones" if len(self._left_out) else ""
            raise ValueError(
                f"source {name!r} has {len(tokens)} tokens{beside}, less than one sequence of {context} + 1"
            )
        wanted = stored if config.unique_tokens is None else config.unique_tokens // context
        if wanted < 1:
            raise ValueError(
                f"source {name!r}: unique_tokens={config.unique_tokens} is less than a context of {context}"
            )
        self.name, self.tokens, self.config, self.context = name, tokens, config, context
        self.stored, self.wanted = stored, wanted
        self.windows = min(stored, wanted)
        self._key = f"{stream.seed}|{name}"
        self._base = Permutation(stored, f"{self._key}|base")
        self._epochs: dict[int, Permutation] = {}

    def locate(self, ordinals: NDArray[np.int64]) -> NDArray[np.int64]:
        """Windows (n,) of the source's draws `ordinals` (n,)."""
        epochs, within = ordinals // self.windows, ordinals % self.windows
        found = np.empty_like(within)
        for epoch in {int(e) for e in epochs}:
            if epoch not in self._epochs:
                self._epochs = {epoch: Permutation(self.windows, f"{self._key}|epoch {epoch}")}
            mine = epochs == epoch
            found[mine] = self._epochs[epoch](within[mine])
        return self._allowed(self._base(found))

    def _allowed(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Windows (n,) that are left, by their place among these (n,)."""
        if not len(self._left_out):
            return ranks
        before = self._left_out - np.arange(len(self._left_out))  # windows left before each that is left out
        return ranks + np.searchsorted(before, ranks, "right")

    def read(self, windows: NDArray[np.int64], batch: StreamBatch, rows: NDArray[np.int64]) -> None:
        """Put `windows` (n,), or packed sequences, into `rows` (n,) of a batch."""
        starts, length, into = windows * self.context, self.context + 1, batch.tokens
        if self.packed is not None:
            for row, sequence in zip(rows.tolist(), windows.tolist(), strict=True):
                laid_out = lay_out_pieces(self.packed, self.tokens, sequence, self.context)
                into[row] = laid_out.tokens
                for whole, part in zip(batch[2:], laid_out[1:], strict=True):
                    assert whole is not None
                    whole[row] = part
            return
        if isinstance(self.tokens, TokenShards):
            into[rows] = self.tokens.windows(starts, length)
            return
        for row, first in zip(rows.tolist(), starts.tolist(), strict=True):
            into[row] = self.tokens[first : first + length]

    @property
    def most_draws(self) -> int | None:
        """Sequences that may be drawn; None is without bound."""
        if self.config.max_epochs is None:
            return None
        return int(Fraction(repr(self.config.max_epochs)) * self.windows)


def _touched(tokens: NDArray[np.unsignedinteger] | TokenShards, context: int) -> NDArray[np.int64]:
    """Windows that have a held-out token, as an input or as the last target, ascending."""
    ranges = tokens.excluded if isinstance(tokens, TokenShards) else np.empty((0, 2), np.int64)
    windows = (len(tokens) - 1) // context
    found = [np.arange(max(-(-(b - context) // context), 0), (e - 1) // context + 1) for b, e in ranges.tolist()]
    touched = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
    return touched[touched < windows]


def is_packed_for(prepared: Prepared, config: StreamConfig) -> bool:
    """Whether a stream's sequences are there to be drawn: packed, where documents are to be packed."""
    return config.packing != BEST_FIT or is_packed(prepared, config.context_tokens, drawn_sources(config.mixture))


class Stream:
    """Training sequences by index."""

    def __init__(
        self, prepared: TokenStore, config: StreamConfig, packing: Mapping[str, PackedSource] | None = None
    ) -> None:
        """Open the stream over a prepared store.

        Parameters
        ----------
        prepared, config
            The store, and what of it is drawn.
        packing
            Packed sequences by source, for `packing: best_fit`; None opens those beside the store.

        Raises
        ------
        ValueError
            The store is another than the config names, lacks a source, holds less than one window of it, or its documents
            are to be packed and are not yet.
        """
        if config.data_fingerprint != prepared.fingerprint:
            raise ValueError(f"the stream is of data {config.data_fingerprint}, the store is {prepared.fingerprint}")
        missing = sorted(set(config.sources) - set(prepared.sources))
        if missing:
            raise ValueError(f"source {missing[0]!r} is not in the store, which has {', '.join(prepared.sources)}")
        self.config = config
        # Sorted, so that a config read back from YAML or JSON with its keys in another order is the same stream.
        self.source_names = tuple(sorted(config.sources))
        self._mixture = Mixture(config.mixture, self.source_names)
        packed: dict[str, PackedSource | None] = dict.fromkeys(self.source_names)
        if config.packing == BEST_FIT:
            drawn = drawn_sources(config.mixture)
            if packing is None:
                assert isinstance(prepared, Prepared), "what is packed lies beside a prepared store"
                packing = open_packing(prepared, config.context_tokens, drawn)
            packed = {name: packing[name] for name in drawn}
        # None where documents are to be packed and nothing is drawn, so that nothing was packed.
        self._sources = [
            _Source(n, prepared.sources[n], config.sources[n], config, packed[n]) if n in packed else None
            for n in self.source_names
        ]

    def draw(self, start: int, count: int) -> StreamBatch:
        """Sequences [start, start + count), with what is beside the tokens where they are packed."""
        index, windows = self.windows(start, count)
        T = self.config.context_tokens
        batch = StreamBatch(np.empty((count, T + 1), np.int64), index)
        if self.config.packing == BEST_FIT:
            shape = (count, T)
            batch = batch._replace(
                weights=np.empty(shape, np.float32),
                positions=np.empty(shape, np.int64),
                documents=np.empty(shape, np.int64),
            )
        for k, source in enumerate(self._sources):
            rows = np.flatnonzero(index == k)
            if source is not None and len(rows):
                source.read(windows[rows], batch, rows)
        return batch

    def batch(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens int64 (count, context + 1) of sequences [start, start + count), and the source index (count,) of each."""
        drawn = self.draw(start, count)
        return drawn.tokens, drawn.sources

    def windows(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source index (count,) and window or packed sequence (count,) of sequences [start, start + count)."""
        index, ordinals = self._mixture.assign(start, count)
        windows = np.empty(count, np.int64)
        for k, source in enumerate(self._sources):
            mine = index == k
            if source is not None and mine.any():
                windows[mine] = source.locate(ordinals[mine])
        return index, windows

    def sequence(self, i: int) -> tuple[NDArray[np.int64], int]:
        """Tokens int64 (context + 1,) of sequence `i`, and its source's index into `source_names`."""
        tokens, index = self.batch(i, 1)
        return tokens[0], int(index[0])

    def counts(self, stop: int) -> dict[str, SourceCounts]:
        """Count what sequences [0, stop) draw from each source, exactly."""
        context = self.config.context_tokens
        return {
            name: SourceCounts(0, 0, 0.0, 0)
            if source is None
            else SourceCounts(
                drawn_tokens=drawn * context,
                distinct_tokens=min(drawn, source.windows) * context,
                epochs=drawn / source.windows,
                max_repeats=-(-drawn // source.windows),
                padded_share=source.packed.padded_share if source.packed else 0.0,
            )
            for name, source, drawn in zip(self.source_names, self._sources, self._mixture.counts(stop), strict=True)
        }

    def shortages(self) -> dict[str, tuple[int, int]]:
        """Distinct tokens asked for and there, of each source whose `unique_tokens` exceed what the store has."""
        context = self.config.context_tokens
        return {s.name: (s.wanted * context, s.stored * context) for s in self._sources if s and s.wanted > s.stored}

    def check(self, stop: int) -> None:
        """Refuse sequences [0, stop) if they repeat a source more than allowed.

        Raises
        ------
        ValueError
            Names the source, the tokens needed and the tokens allowed.
        """
        context = self.config.context_tokens
        for source, drawn in zip(self._sources, self._mixture.counts(stop), strict=True):
            allowed = None if source is None else source.most_draws
            if source is not None and allowed is not None and drawn > allowed:
                raise ValueError(
                    f"source {source.name!r} would give {drawn * context} tokens, but has {source.windows * context} "
                    f"distinct ones and max_epochs={source.config.max_epochs}, so {allowed * context} at most: "
                    f"train on fewer tokens, give it more text (or a larger max_bytes or unique_tokens, where they are "
                    f"set), or allow repetition with data.sources.{source.name}.max_epochs"
                )
