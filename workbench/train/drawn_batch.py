"""From what a stream gives to what a model is trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from workbench.data.stream import StreamBatch
from workbench.model.batch import Batch, documents_at_most, pieces_at_most


def make_batch(
    drawn: StreamBatch,
    to_device: Callable[[np.ndarray], torch.Tensor],
    bos_id: int,
    *,
    document_mask: bool,
    bounded: bool = False,
) -> Batch:
    """Send sequences to the device, with the weights that padding needs and, where asked for, the documents.

    Parameters
    ----------
    drawn
        Of a stream.
    to_device
        Sends an array.
    bos_id
        Begins documents.
    document_mask
        Whether attention is confined to documents. In packed sequences each piece of a document is one of its own.
    bounded
        Whether to say how many documents a sequence has at most, as kernels want that take documents by their borders.
    """
    tokens_BT1 = to_device(drawn.tokens)
    if drawn.weights is None or drawn.positions is None or drawn.documents is None:
        if not document_mask:
            return Batch(tokens_BT1)
        return Batch.by_document(
            tokens_BT1, bos_id, at_most=documents_at_most(drawn.tokens, bos_id) if bounded else None
        )
    weights_BT = to_device(drawn.weights)
    if not document_mask:
        return Batch(tokens_BT1, weights_BT)
    at_most = pieces_at_most(drawn.documents) if bounded else None
    positions_BT, documents_BT = to_device(drawn.positions), to_device(drawn.documents)
    return Batch(tokens_BT1, weights_BT, positions_BT, documents_BT, documents_at_most=at_most)
