"""Which conversations share a sequence, and a sequence as the model is trained on it.

Shapes: T predicted tokens a sequence, of T + 1 tokens.

References
----------
Best-fit decreasing: Ding et al., "Fewer Truncations Improve Language Modeling", arXiv:2404.10830, section 3.1.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workbench.data.chat_templates import ChatTokens


class Packing(NamedTuple):
    """Conversations by sequence."""

    order: NDArray[np.int64]
    """Every conversation once, sequence by sequence, (conversations,)."""
    starts: NDArray[np.int64]
    """Place in `order` of each sequence's first, and the number of all, (sequences + 1,)."""


class PackedSequence(NamedTuple):
    """One sequence, as `workbench.model.batch.Batch` has it."""

    tokens: NDArray[np.int64]
    """Token ids, (T+1,)."""
    weights: NDArray[np.float32]
    """1 where the target is the assistant's, else 0, (T,)."""
    positions: NDArray[np.int64]
    """Position of each input in its conversation, or in the padding, (T,)."""
    documents: NDArray[np.int64]
    """Number of each input's conversation in the sequence, from 0; that of the padding comes last, (T,)."""


def pack(lengths: Sequence[int], room: int, packing: str) -> Packing:
    """Distribute conversations among sequences; the result depends on the arguments alone.

    Parameters
    ----------
    lengths
        Tokens of each conversation.
    room
        Tokens of a sequence.
    packing
        `best_fit`: from the longest to the shortest (of equal ones the first first), each goes where the least room is
        left behind it; `none`: each has a sequence of its own, in order.

    Raises
    ------
    ValueError
        A conversation is longer than a sequence.
    """
    if lengths and max(lengths) > room:
        raise ValueError(f"a conversation of {max(lengths)} tokens does not fit into a sequence of {room}")
    if packing == "none":
        return Packing(np.arange(len(lengths)), np.arange(len(lengths) + 1))
    sequences = _best_fit(lengths, room)
    starts = np.cumsum([0, *map(len, sequences)])
    order = np.array([i for sequence in sequences for i in sequence], np.int64)
    return Packing(order, starts.astype(np.int64))


def _best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    sequences: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # sequences with so much room left
    rooms: list[int] = []  # its keys, sorted
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect_left(rooms, lengths[i])
        if place == len(rooms):
            number, left = len(sequences), room
            sequences.append([])
        else:
            left = rooms[place]
            number = by_room[left].pop()
            if not by_room[left]:
                del by_room[left], rooms[place]
        sequences[number].append(i)
        left -= lengths[i]
        if left:
            if left not in by_room:
                insort(rooms, left)
            by_room.setdefault(left, []).append(number)
    return sequences


def shorten(chat: ChatTokens, room: int) -> ChatTokens | None:
    """Conversation up to the last turn of the assistant that ends within `room` tokens; None if none does."""
    fitting = [end for end in chat.ends if end <= room]
    if not fitting:
        return None
    end = fitting[-1]
    return ChatTokens(chat.tokens[:end], chat.loss[:end], tuple(fitting))


def lay_out(
    conversations: Sequence[tuple[NDArray[np.integer], NDArray[np.bool_]]], T: int, fill: int
) -> PackedSequence:
    """Put conversations one behind the other into a sequence of T + 1 tokens.

    A conversation's first token is predicted from nothing, and the padding has no weight and is a document of its own.

    Parameters
    ----------
    conversations
        Token ids and whether each has loss, each of shape (tokens,); at most T + 1 tokens together.
    T
        Predicted tokens.
    fill
        Token id of the padding.
    """
    tokens, positions = np.full(T + 1, fill, np.int64), np.zeros(T + 1, np.int64)
    weights, documents = np.zeros(T + 1, np.float32), np.zeros(T + 1, np.int64)
    start = 0
    for number, (ids, loss) in enumerate(conversations):
        here = slice(start, start + len(ids))
        tokens[here], positions[here], documents[here] = ids, np.arange(len(ids)), number
        weights[here] = loss
        weights[start] = 0
        start += len(ids)
    positions[start:], documents[start:] = np.arange(T + 1 - start), len(conversations)
    return PackedSequence(tokens, weights[1:], positions[:-1], documents[:-1])
