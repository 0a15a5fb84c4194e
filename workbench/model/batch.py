"""What a model is trained on in one pass: tokens, how much each target counts, and where documents begin.

Shapes: B sequences, T predicted tokens a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Batch(NamedTuple):
    """Sequences of one token more than are predicted: each token but the first is a target."""

    tokens: Tensor
    """Token ids, int64 (B, T+1)."""
    weights: Tensor | None = None
    """How much each target counts, fp32 (B, T); None counts all alike, as pretraining does."""
    positions: Tensor | None = None
    """Position of each input in its document, int64 (B, T); None counts from the sequence's beginning."""
    documents: Tensor | None = None
    """Number of each input's document, int64 (B, T), to which attention is confined; None lets it see all before."""
    taught_ids: Tensor | None = None
    """A teacher's most probable ids of each target, int32 (B, T, k), where they were kept."""
    taught_log_q: Tensor | None = None
    """Logarithms of their probabilities, fp16 (B, T, k)."""
    documents_at_most: int | None = None
    """Documents of a sequence, at most, where the host knows it; None is one for each token."""

    @classmethod
    def by_document(
        cls, tokens_BT1: Tensor, bos_id: int, weights_BT: Tensor | None = None, at_most: int | None = None
    ) -> Batch:
        """Confine attention to documents, each of which begins with `bos_id`.

        What comes before the first one in a sequence is the end of a document that began elsewhere, and one of its own.
        """
        inputs_BT = tokens_BT1[:, :-1]
        begins = inputs_BT == bos_id
        place = torch.arange(inputs_BT.shape[1], device=inputs_BT.device).expand_as(inputs_BT)
        start = torch.where(begins, place, 0).cummax(dim=1).values
        return cls(tokens_BT1, weights_BT, place - start, begins.cumsum(dim=1), documents_at_most=at_most)

    def split(self, sequences: int) -> Iterator[Batch]:
        """Yield pieces of so many sequences, the last with what is left."""
        for start in range(0, len(self.tokens), sequences):
            rows = slice(start, start + sequences)
            parts = [part[rows] if isinstance(part, Tensor) else None for part in self[1:-1]]
            yield Batch(self.tokens[rows], *parts, documents_at_most=self.documents_at_most)

    @property
    def targets(self) -> Tensor | int:
        """Sum of the targets' weights, an fp64 scalar on their device; a plain number where all count alike."""
        if self.weights is None:
            return self.tokens.shape[0] * (self.tokens.shape[1] - 1)
        return self.weights.double().sum()


def documents_at_most(tokens_BT1: np.ndarray, bos_id: int) -> int:
    """Bound the documents of a sequence, each of which begins with `bos_id`, in all sequences of a batch."""
    return _bound(1 + int((tokens_BT1[:, :-1] == bos_id).sum(axis=1).max()))


def pieces_at_most(documents_BT: np.ndarray) -> int:
    """Bound the documents of a sequence in all sequences of a batch; those of one document lie together."""
    return _bound(1 + int((documents_BT[:, 1:] != documents_BT[:, :-1]).sum(axis=1).max()))


def _bound(most: int) -> int:
    """Round up to a power of four, so that few bounds occur, each of which is compiled for."""
    return 4 ** math.ceil(math.log(most, 4))
