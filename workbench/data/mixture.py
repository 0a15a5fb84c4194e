"""Which source each sequence of a chain comes from: exact integer arithmetic, random access.

With w_k(t) the weight of source k at time t (in sequences), W_k(i) its integral from 0 to i and
c_k(i) the sequences drawn from it among the first i, sequence i goes to the source with the largest
deficit W_k(i + 1) - c_k(i), ties to the source named first. The deficits sum to one before each
draw, so the largest is positive and no source is ever a whole sequence ahead; what one is behind,
the others are ahead. Hence -(K - 1) < c_k(i) - W_k(i) < 1 at every prefix, for K sources, ramps
included. Any sequence is found without drawing those before it (`workbench.data.largest_deficit`): a
place in a ramp of 100B tokens, or in a phase of 2T, takes milliseconds.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from workbench.config.schema import MixtureSegment, exact_weights
from workbench.data.largest_deficit import Span


def drawn_sources(segments: list[MixtureSegment]) -> tuple[str, ...]:
    """Names of the sources that some segment of a mixture draws from, sorted."""
    return tuple(sorted({name for segment in segments for name in exact_weights(segment.weights)}))


class Mixture:
    """The assignment of sequences to sources along a chain."""

    def __init__(self, segments: list[MixtureSegment], source_names: tuple[str, ...]) -> None:
        """Prepare the spans.

        Raises
        ------
        ValueError
            The segments do not start at 0, are out of order, overlap their predecessor's ramp, or
            name a source that is not in `source_names`.
        """
        if not segments or segments[0].start_sequence != 0 or segments[0].ramp_sequences:
            raise ValueError("the mixture's first segment must start at sequence 0 and without a ramp")
        self.source_names = source_names
        self._pieces = self._linear_pieces(segments)
        # Training draws in a thread of its own and counts in another; spans keep what they found.
        self._lock = threading.Lock()
        zero = [Fraction(0)] * len(source_names)
        self._spans: list[Span] = []
        self._offsets: list[list[int]] = []
        self._add_span(zero, [0] * len(source_names))

    def _linear_pieces(self, segments: list[MixtureSegment]) -> list[tuple[int, list[Fraction], list[Fraction]]]:
        """(start, weights at the start, slope a sequence) of every linear piece."""
        pieces: list[tuple[int, list[Fraction], list[Fraction]]] = []
        zero = [Fraction(0)] * len(self.source_names)
        before, free_from = zero, 0
        for segment in segments:
            shares = exact_weights(segment.weights)
            unknown = sorted(set(shares) - set(self.source_names))
            if unknown:
                raise ValueError(f"the mixture names source {unknown[0]!r}; there are {', '.join(self.source_names)}")
            start, ramp = segment.start_sequence, segment.ramp_sequences
            if start < free_from or (pieces and start == pieces[-1][0]):
                raise ValueError(f"mixture segment at sequence {start} overlaps the one before (until {free_from})")
            weights = [shares.get(name, Fraction(0)) for name in self.source_names]
            if ramp:
                pieces.append((start, before, [(w - b) / ramp for w, b in zip(weights, before, strict=True)]))
            pieces.append((start + ramp, weights, zero))
            before, free_from = weights, start + ramp
        return pieces

    def _add_span(self, deficits: list[Fraction], counts: list[int]) -> None:
        """Append the next span, `counts` (K,) drawn before it."""
        index = len(self._spans)
        start, weights, slope = self._pieces[index]
        had = sum(any(piece[1][k] or piece[2][k] for piece in self._pieces[: index + 1]) for k in range(len(weights)))
        self._spans.append(Span(start, weights, slope, deficits, had))
        self._offsets.append(counts)

    def _reach(self, sequence: int) -> None:
        """Make the spans up to the one that governs `sequence`."""
        while len(self._spans) < len(self._pieces) and self._pieces[len(self._spans)][0] <= sequence:
            start = self._pieces[len(self._spans)][0]
            counts = self._drawn_before(start)
            integral = self.integral(start)
            self._add_span([w - c for w, c in zip(integral, counts, strict=True)], counts)

    def _drawn_before(self, sequence: int) -> list[int]:
        """Sequences drawn from each source before one whose span exists, or is to follow."""
        owner = self._owner(sequence - 1) if sequence else 0
        drawn = self._spans[owner].counts(sequence - self._spans[owner].start)
        return [n + before for n, before in zip(drawn, self._offsets[owner], strict=True)]

    def _owner(self, sequence: int) -> int:
        return bisect_right([span.start for span in self._spans], sequence) - 1

    def assign(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source index (count,) of sequences [start, start + count), and each one's ordinal (count,) in its source."""
        if start < 0 or count < 1:
            raise ValueError(f"sequences [{start}, {start + count}) are none")
        with self._lock:
            self._reach(start + count - 1)
            drawn = self._drawn_before(start)
            chosen = np.concatenate(list(self._choices(start, start + count))).astype(np.int64)
        ordinals = np.empty(count, np.int64)
        for k, before in enumerate(drawn):
            mine = np.flatnonzero(chosen == k)
            ordinals[mine] = before + np.arange(len(mine))
        return chosen, ordinals

    def _choices(self, begin: int, end: int) -> Iterator[NDArray[np.uint8]]:
        """Draw the sources of sequences [begin, end), span by span."""
        while begin < end:
            owner = self._owner(begin)
            stop = min(end, self._spans[owner + 1].start) if owner + 1 < len(self._spans) else end
            yield self._spans[owner].choices(begin - self._spans[owner].start, stop - begin)
            begin = stop

    def counts(self, stop: int) -> list[int]:
        """Sequences drawn from each source among the first `stop`."""
        if stop < 0:
            raise ValueError(f"stop={stop} must not be negative")
        with self._lock:
            if stop:
                self._reach(stop - 1)
            return self._drawn_before(stop)

    def integral(self, stop: int) -> list[Fraction]:
        """Exact integral W_k of each source's weight over the first `stop` sequences."""
        total = [Fraction(0)] * len(self.source_names)
        for i, (start, weights, slope) in enumerate(self._pieces):
            if start >= stop:
                break
            end = min(stop, self._pieces[i + 1][0]) if i + 1 < len(self._pieces) else stop
            t = end - start
            total = [x + w * t + s * t * t / 2 for x, w, s in zip(total, weights, slope, strict=True)]
        return total
