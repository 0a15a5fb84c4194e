"""Best-fit decreasing for millions of lengths: what has one length is placed by whole groups of sequences at a time.

From the longest to the shortest, each length goes where the least room is left behind it. While lengths stay the same, a
sequence that was the best for one is the best for the next as well, until another does not fit: with room r it takes
r // length of them in a row. All sequences with the same room are alike, so that one step fills as many of them as are
needed. The steps are as many as there are pairs of a length and a room that meet: some times the number of different
lengths, however many there are of each.

References
----------
Best-fit decreasing: Ding et al., "Fewer Truncations Improve Language Modeling", arXiv:2404.10830, section 3.1.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray

from workbench.data.packing import Packing


def best_fit_decreasing(lengths: NDArray[np.int64], room: int) -> Packing:
    """Distribute lengths among sequences of `room`; in a sequence they keep their order.

    The rooms that are left are those of `workbench.data.packing.pack`; which of equal lengths lie together may differ.

    Parameters
    ----------
    lengths
        (n,), each from 1 to `room`.
    room
        Of a sequence.
    """
    assert not len(lengths) or (lengths.min() > 0 and lengths.max() <= room)
    decreasing = np.argsort(-lengths, kind="stable")
    values, counts = np.unique(-lengths, return_counts=True)
    placed, sequences = np.empty(len(lengths), np.int64), _Sequences(room)
    first = 0
    for length, count in zip((-values).tolist(), counts.tolist(), strict=True):
        end = first + count
        while first < end:
            filled = sequences.fill(length, end - first)
            placed[decreasing[first : first + len(filled)]] = filled
            first += len(filled)
    order = np.argsort(placed, kind="stable")
    sizes = np.bincount(placed, minlength=sequences.count)
    return Packing(order, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


class _Sequences:
    """Sequences by the room that is left in them."""

    def __init__(self, room: int) -> None:
        self.count, self._room = 0, room
        self._by_room: dict[int, list[NDArray[np.int64]]] = {}
        self._rooms: list[int] = []  # its keys, sorted

    def fill(self, length: int, count: int) -> NDArray[np.int64]:
        """Place lengths, `count` or fewer, where the least room is left that they fit into: the sequence of each."""
        place = bisect_left(self._rooms, length)
        room = self._rooms[place] if place < len(self._rooms) else self._room
        each = room // length
        wanted = -(-count // each)
        taken = self._take(room, wanted) if place < len(self._rooms) else self._open(wanted)
        filled = np.repeat(taken, each)[:count]
        whole, rest = divmod(len(filled), each)
        self._add(room - each * length, taken[:whole])
        self._add(room - rest * length, taken[whole:])
        return filled

    def _open(self, wanted: int) -> NDArray[np.int64]:
        self.count += wanted
        return np.arange(self.count - wanted, self.count)

    def _take(self, room: int, wanted: int) -> NDArray[np.int64]:
        """Take sequences of a room, `wanted` or fewer."""
        kept = self._by_room[room]
        last = kept.pop()
        if len(last) > wanted:
            kept.append(last[wanted:])
            last = last[:wanted]
        if not kept:
            del self._by_room[room], self._rooms[bisect_left(self._rooms, room)]
        return last

    def _add(self, room: int, sequences: NDArray[np.int64]) -> None:
        if not room or not len(sequences):
            return
        if room not in self._by_room:
            insort(self._rooms, room)
        self._by_room.setdefault(room, []).append(sequences)
