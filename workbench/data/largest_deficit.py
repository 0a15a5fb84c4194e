"""Sequences drawn while the weights are one line: the counts at any time, without what came before.

With D_k(t) = W_k(t) - c_k(t) the deficit of source k before sequence t, a sequence goes to the source with the largest
D_k(t) + w_k(t). W is known in closed form, so the state at a time is the integers c_k(t), of which only few are possible:

- A source that is drawn had the largest of K numbers with sum one, at least 1/K, and so D_k >= -(1 - 1/K) ever after.
- The j largest deficits have a sum of at most j (1/(j + 1) + ... + 1/K). For let A_j be their average's maximum. If the
  source drawn is among the j that are largest afterwards, their sum grew by at most one and fell by one. If not, it was at
  least as large as each of them, so that their average is at most that of the j + 1 before the draw, (1 + (j + 1) A_{j+1})
  / (j + 1). Hence A_j <= max(A_j, A_{j+1} + 1/(j + 1)), and A_K = 0.
- Two states draw differently, x from a and y from b, only if v = x - y has v_a - v_b >= 1 (an integer, and 0 only where
  both are ties, which are broken alike), and then |v|^2 changes by 2 - 2 (v_a - v_b) <= 0: states never part, and they
  meet where it shrinks.

So the state at a time is found from all that are possible a little earlier, drawn from in step until one is left:
of seven sources at most some dozens, which as a rule meet within a hundred sequences. What is left is the truth, since
it was among them. Should they not meet within 32,768, all is drawn from the nearest state known. Two sources have one
possible state: c_1(t) = floor(W_1(t) + 1/2), the first named wins a tie. Constant weights with a small common denominator
repeat, and their states need not meet: their period is found and kept (at most a million sequences, a few times).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_CHUNK = 4096
_LONGEST_PERIOD = 1 << 16
"""Sequences of a period that is drawn at once (0.1 s with seven sources); longer ones where states do not meet."""
_MOST_PERIODS = 16
_MOST_SOURCES = 14
"""Of more, the possible states are too many (14 have some 40,000)."""
_WINDOWS = (64, 512, 4096, 32768)
"""Sequences from which states are drawn until they meet, the next if they do not."""
_SNAPSHOT = 1 << 16
"""Sequences between states that are kept where all had to be drawn."""
_NEAR = 256
"""Sequences that are drawn rather than jumped over; finding a state takes about as long."""

State = tuple[int, ...]
"""Sequences drawn from each source since the span's beginning."""


class Span:
    """Sequences governed by one linear piece of the weights: `weights + slope * t`, t from its start."""

    def __init__(
        self, start: int, weights: list[Fraction], slope: list[Fraction], deficits: list[Fraction], sources: int
    ) -> None:
        """Begin at chain sequence `start` with `deficits` W_k - c_k of the sources, of which `sources` have had weight."""
        self.start, self._sources = start, sources
        halves = [s / 2 for s in slope]
        unit = math.lcm(*(x.denominator for x in (*weights, *halves, *deficits)))
        self._unit = unit
        # The weight of sequence t is its integral over [t, t + 1]: weights + slope / 2 + slope * t.
        self._gain = [int((w + h) * unit) for w, h in zip(weights, halves, strict=True)]
        self._growth = [int(2 * h * unit) for h in halves]
        self._deficits = [int(d * unit) for d in deficits]
        # A source without weight or deficit is not drawn: the largest deficit is above 0.
        self._active = [k for k, (g, h, d) in enumerate(self._terms()) if g or h or d]
        # The form for two holds if it did at the beginning; a third source that lost its weight may have left them outside.
        self._two = len(self._active) <= 2 and not any(self._of_two(0))
        period = math.lcm(*(w.denominator for w in weights))
        self._period = None if any(slope) or self._two else _Period(self, period)
        self._by_period = self._period is not None and period <= _LONGEST_PERIOD
        self._known: tuple[int, State] = (0, (0,) * len(weights))
        self._snapshots: list[State] = [self._known[1]]

    def _terms(self) -> Iterator[tuple[int, int, int]]:
        return zip(self._gain, self._growth, self._deficits, strict=True)

    def counts(self, time: int) -> State:
        """Sequences drawn from each source in the span before its sequence `time`."""
        if self._by_period and self._period is not None and self._period.reach(time):
            return self._period.counts(time)
        if self._two:
            return self._of_two(time)
        known, state = self._known
        if not 0 <= time - known <= _NEAR:
            state = self._meet(time) or self._draw_up_to(time)
        elif time > known:
            state, _ = self._draw(known, state, time - known)
        self._known = (time, state)
        return state

    def choices(self, time: int, count: int) -> NDArray[np.uint8]:
        """Draw the sources (count,) of the span's sequences [time, time + count)."""
        if self._by_period and self._period is not None and self._period.reach(time + count):
            return self._period.choices(time, count)
        state, chosen = self._draw(time, self.counts(time), count)
        self._known = (time + count, state)
        return np.frombuffer(chosen, np.uint8)

    def _gained(self, time: int) -> list[int]:
        """Deficits (K,) at a time if nothing had been drawn in the span, in units."""
        return [d + g * time + h * (time * (time - 1) // 2) for g, h, d in self._terms()]

    def _draw(self, time: int, state: State, count: int) -> tuple[State, bytearray]:
        """Draw `count` sequences from the state at a time: the state after them, and their sources."""
        unit, active = self._unit, self._active
        deficits = [d - c * unit for d, c in zip(self._gained(time), state, strict=True)]
        gain = [g + h * time for g, h, _ in self._terms()]
        growth, chosen, drawn = self._growth, bytearray(), list(state)
        for _ in range(count):
            for k in active:
                deficits[k] += gain[k]
                gain[k] += growth[k]
            source = max(active, key=deficits.__getitem__)
            deficits[source] -= unit
            drawn[source] += 1
            chosen.append(source)
        return tuple(drawn), chosen

    def _of_two(self, time: int) -> State:
        drawn = [0] * len(self._gain)
        if self._active:
            first, last = self._active[0], self._active[-1]
            drawn[first] = (2 * self._gained(time)[first] + self._unit) // (2 * self._unit)
            drawn[last] += time - drawn[first] if last != first else 0
        return tuple(drawn)

    def _meet(self, time: int) -> State | None:
        """State at a time, if all that are possible a little earlier lead to it."""
        if len(self._active) > _MOST_SOURCES:
            return None
        for window in _WINDOWS:
            begin = max(time - window, 0)
            states = self._possible(begin) if begin else np.zeros((1, len(self._active)), np.int64)
            states = self._draw_all(begin, states, window if begin else time)
            if len(states) == 1:
                state = [0] * len(self._gain)
                for k, drawn in zip(self._active, states[0].tolist(), strict=True):
                    state[k] = drawn
                return tuple(state)
        return None

    def _possible(self, time: int) -> NDArray[np.int64]:
        """All states (S, A) of the active sources that the two bounds allow at a time: the one that is, and others."""
        unit, sources, active = self._unit, self._sources, len(self._active)
        gained = self._gained(time)
        whole = [gained[k] // unit for k in self._active]
        part = np.array([(gained[k] % unit) / unit for k in self._active])
        harmonic = np.cumsum([0.0, *(1 / j for j in range(1, sources + 1))])
        lowest, highest = 1 / sources - 1, harmonic[-1] - 1
        ahead = round(part.sum())  # so many more draws than the whole parts
        # Numbers of draws beyond the whole parts, a source after the other; the margin lets rounding exclude none.
        margin = 1e-6
        states, deficits = np.zeros((1, 0), np.int64), np.zeros(1)
        for k in range(active):
            more = [d for d in range(-4, 3) if lowest - margin <= part[k] - d <= highest + margin]
            states = np.concatenate([np.insert(states, k, d, axis=1) for d in more])
            deficits = np.concatenate([deficits + (part[k] - d) for d in more])
            rest = active - k - 1
            fits = (deficits + rest * lowest <= margin) & (deficits + rest * highest >= -margin)
            states, deficits = states[fits], deficits[fits]
        states = states[states.sum(axis=1) == ahead]
        sums = -np.sort(states - part, axis=1).cumsum(axis=1)
        j = np.arange(1, active + 1)
        states = states[(sums <= j * (harmonic[-1] - harmonic[1 : active + 1]) + margin).all(axis=1)]
        states = states + np.array(whole, np.int64)
        return states[(states >= 0).all(axis=1)]

    def _draw_all(self, time: int, states: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Draw `count` sequences from each of the states (S, A): the different states after them."""
        unit, active = self._unit, self._active
        # Deficits lie within a few units; what does not fit 64 bits is computed with Python's integers.
        kind = np.int64 if unit < 1 << 58 else object
        gained = self._gained(time)
        deficits = np.array([[gained[k] - n * unit for k, n in zip(active, s, strict=True)] for s in states.tolist()])
        deficits = deficits.astype(kind)
        gain = np.array([self._gain[k] + self._growth[k] * time for k in active], kind)
        growth = np.array([self._growth[k] for k in active], kind)
        states = states.copy()
        for step in range(1, count + 1):
            if len(states) == 1 and count - step > 8:
                break
            deficits += gain
            gain += growth
            drawn = (np.arange(len(states)), deficits.argmax(axis=1))
            deficits[drawn] -= unit
            states[drawn] += 1
            if step % (8 if len(states) > 4 else 64) == 0 or step == count:
                states, kept = np.unique(states, axis=0, return_index=True)
                deficits = deficits[kept]
        else:
            return states
        whole = [0] * len(self._gain)
        for k, n in zip(active, states[0].tolist(), strict=True):
            whole[k] = n
        last, _ = self._draw(time + step - 1, tuple(whole), count - step + 1)
        return np.array([[last[k] for k in active]], np.int64)

    def _draw_up_to(self, time: int) -> State:
        """State at a time by drawing a period, or all from the nearest state that is kept, keeping some on the way."""
        if self._period is not None and self._period.reach(time):
            self._by_period = True
            return self._period.counts(time)
        wanted = time // _SNAPSHOT
        while len(self._snapshots) <= wanted:
            state, _ = self._draw((len(self._snapshots) - 1) * _SNAPSHOT, self._snapshots[-1], _SNAPSHOT)
            self._snapshots.append(state)
        begin, state = wanted * _SNAPSHOT, self._snapshots[wanted]
        known, last = self._known
        if begin < known <= time:
            begin, state = known, last
        return self._draw(begin, state, time - begin)[0]


class _Period:
    """Choices under constant weights up to where they repeat."""

    def __init__(self, span: Span, length: int) -> None:
        self._span, self._length = span, length
        self._choices = bytearray()
        self._state: State = (0,) * len(span._gain)
        self._table = np.zeros((1, len(span._gain)), np.int32)
        self._seen = {self._deficits(): 0}
        self._cycle: tuple[int, int] | None = None

    def _deficits(self) -> State:
        unit = self._span._unit
        gained = self._span._gained(len(self._choices))
        return tuple(d - n * unit for d, n in zip(gained, self._state, strict=True))

    def reach(self, stop: int) -> bool:
        """Draw what is needed to know the first `stop` sequences; False if nothing repeats for too long."""
        most = _MOST_PERIODS * self._length
        if self._cycle is None and stop > len(self._choices):
            wanted = max(stop + _CHUNK, 2 * len(self._choices))
            while self._cycle is None and len(self._choices) < min(wanted, most):
                self._draw_to_period()
            drawn = np.frombuffer(self._choices, np.uint8)[:, None] == np.arange(len(self._state))
            self._table = np.zeros((len(drawn) + 1, len(self._state)), np.int32)
            np.cumsum(drawn, axis=0, out=self._table[1:])
        return self._cycle is not None or stop <= len(self._choices)

    def _draw_to_period(self) -> None:
        done = len(self._choices)
        count = min(_CHUNK, self._length - done % self._length)
        self._state, chosen = self._span._draw(done, self._state, count)
        self._choices += chosen
        done += count
        if done % self._length == 0:
            first = self._seen.setdefault(self._deficits(), done)
            self._cycle = (first, done - first) if first != done else None

    def counts(self, time: int) -> State:
        rounds, folded = self._fold(np.array([time], np.int64))
        first, length = self._cycle or (0, 0)
        a_round = self._table[first + length] - self._table[first]
        return tuple(int(n) + int(rounds[0]) * int(m) for n, m in zip(self._table[folded[0]], a_round, strict=True))

    def choices(self, time: int, count: int) -> NDArray[np.uint8]:
        _, folded = self._fold(np.arange(time, time + count, dtype=np.int64))
        return np.frombuffer(self._choices, np.uint8)[folded]

    def _fold(self, times: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Whole rounds behind times (n,), and the same times in the first round."""
        if self._cycle is None:
            return np.zeros_like(times), times
        first, length = self._cycle
        rounds = np.maximum(times - first, 0) // length
        return rounds, times - rounds * length
