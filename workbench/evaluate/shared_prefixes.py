"""Which tokens several requests have in common, and how to read each of them once.

Requests of a task begin alike: with the task's examples, with their document's context, sometimes with one another.
Sorted, they are a tree of tokens. A *stem* is a beginning whose keys and values are computed once and kept for all that
follow it; a *row* is a part of the tree that is read as one sequence, in which each token sees the stem and those that
it follows itself. The numbers are those of each request read by itself, up to rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

PASS_TOKENS = 256
"""Tokens that could have been read in the time that keeping a stem costs: passes for it and for what follows it alone."""
STEM_TOKENS = 16
"""Fewer are read again with each row: what follows a stem needs a mask and a copy of its keys."""
LARGEST_MASK = 2**26
"""Elements of a row's mask, at most: 256 MiB in fp32."""


class Laid(NamedTuple):
    """A row as a model reads it."""

    tokens: np.ndarray
    """Token ids (T,), each next to one that it follows, in depth-first order."""
    positions: np.ndarray
    """Of each token in its text (T,)."""
    ends: np.ndarray
    """Place behind the last token that follows each one (T,)."""
    places: np.ndarray
    """Of the tokens whose predictions are scored (N,)."""
    slots: np.ndarray
    """Where each prediction belongs among those of all requests (N,)."""

    @property
    def trunk(self) -> int:
        """How many of the first tokens all later ones follow."""
        branching = self.ends != len(self.tokens)
        return int(branching.argmax()) if branching.any() else len(self.tokens)


@dataclass
class Stem:
    """A beginning, and what follows it; the root is the empty one."""

    first: int
    """The first of the texts that begin so, in sorted order."""
    last: int
    """The place behind the last of them."""
    depth: int
    """Tokens in all, those of the stem before it included."""
    rows: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Ranges of texts that are read as one sequence each."""
    stems: list[Stem] = field(default_factory=list["Stem"])
    """Longer beginnings."""


class TokenTree:
    """The texts that a model must read for some requests, sorted, each one once.

    Parameters
    ----------
    texts
        Token ids of each request, without the last one, which is predicted and never read.
    scored
        How many of the last tokens' predictions each request asks for.
    """

    def __init__(self, texts: Sequence[Sequence[int]], scored: Sequence[int]) -> None:
        # Of numbers with the largest byte first, bytes have the order of the numbers.
        keys = [np.asarray(text, dtype=">u4").tobytes() for text in texts]
        distinct = {key: place for place, key in enumerate(sorted(set(keys)))}
        self.texts = [np.frombuffer(key, dtype=">u4") for key in distinct]
        self.lengths = np.array([len(text) for text in self.texts], dtype=np.int64)
        self.shared = np.array([0, *(_common(a, b) for a, b in itertools.pairwise(self.texts))], dtype=np.int64)
        """Tokens that each text has in common with the one before it."""
        self._new = np.concatenate(([0], np.cumsum(self.lengths - self.shared)))
        self._asked: list[list[tuple[int, int]]] = [[] for _ in self.texts]
        for key, count, slot in zip(keys, scored, itertools.accumulate(scored, initial=0), strict=False):
            self._asked[distinct[key]].append((count, slot))

    def __len__(self) -> int:
        return len(self.texts)

    def tokens(self, first: int, last: int, depth: int) -> int:
        """Distinct tokens of a range of texts beyond the first `depth` of each, which are the same in all."""
        return int(self.lengths[first] - depth + self._new[last] - self._new[first + 1])

    def branches(self, first: int, last: int) -> bool:
        """Whether the texts of a range are more than one text and beginnings of it."""
        return bool((self.shared[first + 1 : last] != self.lengths[first : last - 1]).any())

    def divide(self, first: int, last: int) -> tuple[int, list[tuple[int, int]]]:
        """Tokens that a range of at least two texts begins with, and the ranges in which the next one is the same."""
        inside = self.shared[first + 1 : last]
        depth = int(inside.min())
        cuts = [first, *(np.flatnonzero(inside == depth) + first + 1).tolist(), last]
        return depth, list(itertools.pairwise(cuts))

    def lay_out(self, first: int, last: int, depth: int) -> Laid:
        """Make one sequence of what a range of texts has beyond the first `depth` tokens of each."""
        total = self.tokens(first, last, depth)
        tokens, positions = np.empty(total, np.int64), np.empty(total, np.int64)
        ends = np.full(total, total)
        path = np.empty(int(self.lengths[first:last].max()) - depth, np.int64)
        places, slots, done, on_path = [], [], 0, 0
        for i in range(first, last):
            text, start = self.texts[i], 0 if i == first else int(self.shared[i]) - depth
            ends[path[start:on_path]] = done
            on_path, new = len(text) - depth, slice(done, done + len(text) - depth - start)
            path[start:on_path] = np.arange(new.start, new.stop)
            positions[new] = np.arange(depth + start, len(text))
            tokens[new] = text[depth + start :]
            done = new.stop
            self._ask(i, depth, len(text), path, places, slots)
        return Laid(tokens, positions, ends, _joined(places), _joined(slots))

    def lay_out_stem(self, stem: Stem, depth: int) -> Laid:
        """Make a sequence of a stem's tokens beyond those of the stem before it."""
        size = stem.depth - depth
        tokens = self.texts[stem.first][depth : stem.depth].astype(np.int64)
        path, places, slots = np.arange(size), [], []
        for i in range(stem.first, stem.last):
            self._ask(i, depth, stem.depth, path, places, slots)
        return Laid(tokens, path + depth, np.full(size, size), _joined(places), _joined(slots))

    def _ask(
        self, text: int, depth: int, end: int, path: np.ndarray, places: list[np.ndarray], slots: list[np.ndarray]
    ) -> None:
        """Note which predictions are asked for among a text's tokens from `depth` to `end`, whose places `path` has."""
        for count, slot in self._asked[text]:
            begin = int(self.lengths[text]) - count
            low, high = max(begin, depth), min(int(self.lengths[text]), end)
            if low < high:
                places.append(path[low - depth : high - depth].copy())
                slots.append(np.arange(slot + low - begin, slot + high - begin))


def plan(tree: TokenTree, width: int, *, share: bool = True) -> Stem:
    """Decide which beginnings are kept and which texts are read together, from what each way costs.

    Parameters
    ----------
    tree
        The texts.
    width
        Of the model: attention to `2 * width` tokens takes about as long as all of a token's products with matrices.
    share
        Whether the model can read more than one text as a sequence; without it each text is a row.
    """
    root = Stem(0, len(tree), 0)
    if not share:
        root.rows = [(i, i + 1) for i in range(len(tree))]
        return root

    def cost(tokens: int, depth: int, chain: bool = False) -> float:
        needs_mask = depth > 0 or not chain
        if needs_mask and tokens * (depth + tokens) > LARGEST_MASK:
            return math.inf
        return tokens * (1 + (depth + tokens) / (2 * width))

    waiting = [(0, len(tree), root)] if len(tree) else []
    while waiting:
        first, last, stem = waiting.pop()
        if last - first == 1:
            if tree.lengths[first] > stem.depth:
                stem.rows.append((first, last))
            continue
        depth, parts = tree.divide(first, last)
        best = _cheapest(tree, (first, last), stem.depth, depth, parts, cost)
        if best == "together":
            stem.rows.append((first, last))
        elif best == "apart":
            waiting.extend((a, b, stem) for a, b in reversed(parts))
        else:
            stem.stems.append(Stem(first, last, depth))
            waiting.extend((a, b, stem.stems[-1]) for a, b in reversed(parts))
    return root


def _cheapest(
    tree: TokenTree,
    texts: tuple[int, int],
    before: int,
    depth: int,
    parts: list[tuple[int, int]],
    cost: Callable[[int, int, bool], float],
) -> str:
    def of(part: tuple[int, int], known: int) -> float:
        return cost(tree.tokens(*part, known), known, part[1] - part[0] == 1)

    ways = {"together": of(texts, before), "apart": sum(of(part, before) for part in parts)}
    if depth - before >= STEM_TOKENS:
        ways["stem"] = cost(depth - before, before, True) + PASS_TOKENS + sum(of(part, depth) for part in parts)
    # Where none fits, as with texts whose masks would be too large, they are read apart.
    return "apart" if math.isinf(min(ways.values())) else min(ways, key=lambda way: ways[way])


def packed(tree: TokenTree, stem: Stem) -> list[tuple[int, int]]:
    """Ranges of a stem's rows, short neighbours in one: a batch then repeats the stem's keys for fewer sequences."""
    most = max(64, stem.depth // 2) if stem.depth else 0
    ranges: list[tuple[int, int]] = []
    for first, last in sorted(stem.rows):
        if ranges and ranges[-1][1] == first and tree.tokens(ranges[-1][0], last, stem.depth) <= most:
            ranges[-1] = (ranges[-1][0], last)
        else:
            ranges.append((first, last))
    return ranges


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Tokens that both begin with."""
    size = min(len(a), len(b))
    other = a[:size] != b[:size]
    return int(other.argmax()) if other.any() else size


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
