"""The mixture by drawing every sequence in turn: what `workbench.data.mixture` is compared with.

With w_k(t) the weight of source k at time t (in sequences), W_k(i) its integral from 0 to i and
c_k(i) the sequences drawn from it among the first i, sequence i goes to the source with the largest
deficit W_k(i + 1) - c_k(i), ties to the source named first. The deficits sum to one before each
draw, so the largest is positive and no source is ever a whole sequence ahead; what one is behind,
the others are ahead. Hence -(K - 1) < c_k(i) - W_k(i) < 1 at every prefix, for K sources, ramps
included.

Under constant weights with common denominator q the fractional parts repeat every q sequences, so
the choices become periodic; the period is found once and sequences beyond it cost nothing.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from workbench.config.schema import MixtureSegment, exact_weights

_CHUNK = 4096


class _Span:
    """Sequences governed by one linear piece of the weights: `weights + slope * t`, t from its start."""

    def __init__(
        self, start: int, length: int | None, weights: list[Fraction], slope: list[Fraction], deficits: list[Fraction]
    ) -> None:
        """Begin at chain sequence `start` with `deficits` W_k - c_k; `length` None is endless."""
        self.start, self.length = start, length
        self.constant = not any(slope)
        self.period = math.lcm(*(w.denominator for w in weights))
        halves = [s / 2 for s in slope]
        unit = math.lcm(*(x.denominator for x in (*weights, *halves, *deficits)))
        self._unit = unit
        # The weight of sequence t is its integral over [t, t + 1]: weights + slope / 2 + slope * t.
        self._gain = [int((w + h) * unit) for w, h in zip(weights, halves, strict=True)]
        self._growth = [int(2 * h * unit) for h in halves]
        self._deficits = [int(d * unit) for d in deficits]
        self._choices = bytearray()
        self._counts = np.zeros((1, len(weights)), np.int64)
        self._seen = {tuple(self._deficits): 0}
        self._cycle: tuple[int, int] | None = None

    def _simulate(self, stop: int) -> None:
        """Extend the choices to `stop` sequences of this span, or until they are known to repeat."""
        deficits, gain, growth, unit = self._deficits, self._gain, self._growth, self._unit
        sources = range(len(gain))
        while len(self._choices) < stop and self._cycle is None:
            for k in sources:
                deficits[k] += gain[k]
                gain[k] += growth[k]
            chosen = max(sources, key=deficits.__getitem__)
            deficits[chosen] -= unit
            self._choices.append(chosen)
            done = len(self._choices)
            if self.constant and done % self.period == 0:
                first = self._seen.setdefault(tuple(deficits), done)
                if first != done:
                    self._cycle = (first, done - first)
        drawn = np.frombuffer(self._choices, np.uint8)[:, None] == np.arange(len(gain))
        counts = np.zeros((len(drawn) + 1, len(gain)), np.int64)
        np.cumsum(drawn, axis=0, out=counts[1:])
        self._counts = counts

    def at(self, times: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Choices (n,) of the span's sequences `times` (n,), and counts (n, K) drawn in the span before each."""
        last = int(times.max()) + 1
        if last > len(self._choices) and self._cycle is None:
            ahead = max(last + _CHUNK, 2 * len(self._choices))
            self._simulate(ahead if self.length is None else min(self.length, ahead))
        choices = np.frombuffer(self._choices, np.uint8)
        if self._cycle is None:
            return choices[times].astype(np.int64), self._counts[times]
        first, length = self._cycle
        rounds = np.maximum(times - first, 0) // length
        folded = times - rounds * length
        a_round = self._counts[first + length] - self._counts[first]
        return choices[folded].astype(np.int64), self._counts[folded] + rounds[:, None] * a_round


class SimulatedMixture:
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
        zero = [Fraction(0)] * len(source_names)
        self._spans: list[_Span] = []
        self._offsets: list[NDArray[np.int64]] = []
        self._add_span(zero, np.zeros(len(source_names), np.int64))

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

    def _add_span(self, deficits: list[Fraction], counts: NDArray[np.int64]) -> None:
        """Append the next span, `counts` (K,) drawn before it."""
        index = len(self._spans)
        start, weights, slope = self._pieces[index]
        length = self._pieces[index + 1][0] - start if index + 1 < len(self._pieces) else None
        self._spans.append(_Span(start, length, weights, slope, deficits))
        self._offsets.append(counts)

    def _reach(self, sequence: int) -> None:
        """Make the spans up to the one that governs `sequence`."""
        while len(self._spans) < len(self._pieces) and self._pieces[len(self._spans)][0] <= sequence:
            start = self._pieces[len(self._spans)][0]
            counts = self._drawn_before(start)
            integral = self.integral(start)
            self._add_span([w - int(c) for w, c in zip(integral, counts, strict=True)], counts)

    def _drawn_before(self, sequence: int) -> NDArray[np.int64]:
        if sequence == 0:
            return np.zeros(len(self.source_names), np.int64)
        chosen, counts = self._at(np.array([sequence - 1], np.int64))
        counts[0, chosen[0]] += 1
        return counts[0]

    def _at(self, sequences: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Choices and counts before, for sequences whose spans exist."""
        starts = np.array([span.start for span in self._spans], np.int64)
        owner = np.searchsorted(starts, sequences, side="right") - 1
        chosen = np.empty(len(sequences), np.int64)
        counts = np.empty((len(sequences), len(self.source_names)), np.int64)
        for s in np.unique(owner):
            mine = owner == s
            chosen[mine], before = self._spans[s].at(sequences[mine] - starts[s])
            counts[mine] = before + self._offsets[s]
        return chosen, counts

    def assign(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source index (count,) of sequences [start, start + count), and each one's ordinal (count,) in its source."""
        if start < 0 or count < 1:
            raise ValueError(f"sequences [{start}, {start + count}) are none")
        self._reach(start + count - 1)
        chosen, counts = self._at(np.arange(start, start + count, dtype=np.int64))
        return chosen, counts[np.arange(count), chosen]

    def counts(self, stop: int) -> list[int]:
        """Sequences drawn from each source among the first `stop`."""
        if stop < 0:
            raise ValueError(f"stop={stop} must not be negative")
        if stop:
            self._reach(stop - 1)
        return [int(c) for c in self._drawn_before(stop)]

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
