"""From what a stream gives to what a model is trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from workbench.data.stream import StreamBatch
from workbench.model.batch import Batch


def make_batch(
    drawn: StreamBatch, to_device: Callable[[np.ndarray], torch.Tensor], bos_id: int, *, document_mask: bool
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
    """
    tokens_BT1 = to_device(drawn.tokens)
    if drawn.weights is None or drawn.positions is None or drawn.documents is None:
        return Batch.by_document(tokens_BT1, bos_id) if document_mask else Batch(tokens_BT1)
    weights_BT = to_device(drawn.weights)
    if not document_mask:
        return Batch(tokens_BT1, weights_BT)
    return Batch(tokens_BT1, weights_BT, to_device(drawn.positions), to_device(drawn.documents))
