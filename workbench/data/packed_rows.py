"""A packed sequence as the model is trained on it.

Each token of the pieces is an input once, and its target is what follows it in its document. Where a document ends, what
follows is the token that begins the next one, as in the store: a target too, by which a model learns where texts end.
Where that is not so, the target is none: before a piece from the middle of a document, behind documents that do not begin
with the beginning-of-sequence token (they end with a token of their own), and in the padding.

Shapes: T predicted tokens a sequence, of T + 1 tokens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workbench.data.corpus.token_shards import TokenShards
from workbench.data.packed_index import PackedSource
from workbench.data.packing import PackedSequence


def lay_out_pieces(
    packed: PackedSource, tokens: NDArray[np.unsignedinteger] | TokenShards, sequence: int, T: int
) -> PackedSequence:
    """Put the pieces of a packed sequence one behind the other; positions are those in each piece, or in the padding.

    Parameters
    ----------
    packed, tokens
        The source's packed sequences, and its tokens.
    sequence
        Number of a packed sequence.
    T
        Predicted tokens.
    """
    pieces = slice(*packed.starts[sequence : sequence + 2].tolist())
    begins, sizes = packed.begins[pieces], packed.sizes[pieces]
    lengths = np.abs(sizes).astype(np.int64)
    row, weights = np.full(T + 1, packed.bos_id, np.int64), np.zeros(T, np.float32)
    place = 0
    for begin, size in zip(begins.tolist(), lengths.tolist(), strict=True):
        row[place : place + size] = tokens[begin : begin + size]
        place += size
    weights[:place] = 1
    if sizes[-1] < 0:  # a piece of T tokens, whose document goes on
        row[T] = tokens[int(begins[-1]) + T : int(begins[-1]) + T + 1][0]
    else:
        firsts = np.cumsum(lengths)  # places behind each piece, where the next one or the padding begins
        weights[firsts - 1] = (row[firsts] == packed.bos_id) & packed.begins_with_bos
    all_lengths = np.append(lengths, T - place)
    behind = np.cumsum(all_lengths) - all_lengths
    return PackedSequence(
        row,
        weights,
        np.arange(T) - np.repeat(behind, all_lengths),
        np.repeat(np.arange(len(all_lengths)), all_lengths),
    )
