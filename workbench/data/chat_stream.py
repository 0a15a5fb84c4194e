"""The stream of packed conversations: sequence `i` is a pure function of (store, seed, i).

With N packed sequences, sequence i of the stream is `shuffle_e(i mod N)`, where e = i // N is the epoch and `shuffle_e` a
permutation of range(N) of its own for every epoch. There is no state: to resume is to ask for the next index.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workbench.data.chat_store import ChatStore
from workbench.data.permutation import Permutation


class ChatBatch(NamedTuple):
    """Sequences of a stream, as `workbench.model.batch.Batch` has them; B sequences, T predicted tokens."""

    tokens: NDArray[np.int64]
    """Token ids, (B, T+1)."""
    weights: NDArray[np.float32]
    """1 where the target is the assistant's, else 0, (B, T)."""
    positions: NDArray[np.int64]
    """Position of each input in its conversation, (B, T)."""
    documents: NDArray[np.int64]
    """Number of each input's conversation in its sequence, (B, T)."""


@dataclass(frozen=True)
class ChatCounts:
    """What a stretch of a stream drew; padding is not counted."""

    drawn_tokens: int
    """Tokens of conversations, repetitions included."""
    distinct_tokens: int
    """Different ones among them."""
    drawn_assistant_tokens: int
    """Tokens that have loss, repetitions included."""
    distinct_assistant_tokens: int
    """Different ones among them."""
    epochs: float
    """Drawn over available sequences."""
    max_repeats: int
    """How often the most repeated sequence was drawn."""


class ChatStream:
    """Packed conversations by index.

    Parameters
    ----------
    store
        Prepared conversations.
    seed
        Seed of the order.
    max_epochs
        Most times a sequence may be seen; None allows any repetition.
    """

    def __init__(self, store: ChatStore, seed: int, max_epochs: float | None = None) -> None:
        self.store, self.seed, self.max_epochs = store, seed, max_epochs
        self._epochs: dict[int, Permutation] = {}

    def batch(self, first: int, count: int) -> ChatBatch:
        """Sequences [first, first + count)."""
        T = self.store.context_tokens
        batch = ChatBatch(
            np.empty((count, T + 1), np.int64),
            np.empty((count, T), np.float32),
            np.empty((count, T), np.int64),
            np.empty((count, T), np.int64),
        )
        for row, sequence in enumerate(self.locate(np.arange(first, first + count)).tolist()):
            for whole, part in zip(batch, self.store.sequence(sequence), strict=True):
                whole[row] = part
        return batch

    def locate(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Packed sequences of the store (n,) that are sequences `indices` (n,) of the stream."""
        epochs, within = indices // self.store.sequences, indices % self.store.sequences
        found = np.empty_like(within)
        for epoch in {int(e) for e in epochs}:
            mine = epochs == epoch
            found[mine] = self._permutation(epoch)(within[mine])
        return found

    def _permutation(self, epoch: int) -> Permutation:
        if epoch not in self._epochs:
            key = f"{self.store.fingerprint}|{self.seed}|epoch {epoch}"
            self._epochs = {epoch: Permutation(self.store.sequences, key)}
        return self._epochs[epoch]

    def counts(self, sequences: int) -> ChatCounts:
        """Count what sequences [0, sequences) draw, exactly."""
        available = self.store.sequences
        epochs, rest = divmod(sequences, available)
        whole = self.store.sizes.sum(0)
        part = self.store.sizes[self._permutation(epochs)(np.arange(rest))].sum(0)
        drawn, distinct = (epochs * whole + part).tolist(), (whole if epochs else part).tolist()
        return ChatCounts(
            drawn_tokens=drawn[0],
            distinct_tokens=distinct[0],
            drawn_assistant_tokens=drawn[1],
            distinct_assistant_tokens=distinct[1],
            epochs=sequences / available,
            max_repeats=-(-sequences // available),
        )

    def check(self, sequences: int) -> None:
        """Refuse sequences [0, sequences) if they repeat conversations more than allowed.

        Raises
        ------
        ValueError
            Names the sequences needed and allowed.
        """
        if self.max_epochs is None:
            return
        allowed = int(Fraction(repr(self.max_epochs)) * self.store.sequences)
        if sequences > allowed:
            raise ValueError(
                f"training would take {sequences} sequences, but {self.store.sequences} are packed and "
                f"max_epochs={self.max_epochs}, so {allowed} at most: train on fewer, give it more conversations, or "
                "allow repetition with chat.max_epochs"
            )
