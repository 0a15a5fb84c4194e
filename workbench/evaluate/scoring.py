"""Log-likelihoods of continuations under a `Transformer`: what requests have in common is read once.

Shapes: B sequences, T tokens, D width, N scored tokens, V vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.evaluate.shared_prefixes import LARGEST_MASK, Laid, Stem, TokenTree, packed, plan
from workbench.model.attention import tree_mask
from workbench.model.matmul import compute_dtype
from workbench.model.past import Past
from workbench.model.reader import LazyReader, Reader
from workbench.model.transformer import Transformer

HEAD_TOKENS = 128
"""Scored tokens per piece of the output head: with a small vocabulary the logits then stay in the cache."""

CPU_TOKENS = 2048
"""Padded tokens per forward pass on a CPU, at most, where what passes between layers then stays in the cache: 4,096 took
17% more of the processor's time, 512 10% (docs/performance.md)."""


class Row(NamedTuple):
    """One sequence and the number of its last tokens to score."""

    tokens: Sequence[int]
    """Context and continuation; the last token is predicted and never read."""
    scored: int
    """Tokens of the continuation."""


class Score(NamedTuple):
    """The score of a continuation, as lm-eval needs it."""

    loglikelihood: float
    """Sum over the continuation's tokens, in nats."""
    is_greedy: bool
    """Whether each of its tokens is the most likely one."""


class Found:
    """Scores of all requests' tokens, side by side, as they are found.

    Parameters
    ----------
    targets_N
        The tokens.
    """

    def __init__(self, targets_N: Tensor) -> None:
        self.targets_N = targets_N
        self.logprob_N = torch.full(targets_N.shape, math.nan)
        self.greedy_N = torch.zeros(targets_N.shape, dtype=torch.bool)

    def note(self, slots_N: Tensor, logprob_N: Tensor, greedy_N: Tensor) -> None:
        """Write down the log-likelihoods of some tokens, and whether each is the likeliest."""
        self.logprob_N[slots_N], self.greedy_N[slots_N] = logprob_N.cpu(), greedy_N.cpu()


class Scorer:
    """Scores continuations with one model.

    Parameters
    ----------
    model
        Model to score with, on any device.
    batch_tokens
        Padded tokens per forward pass, at most (on a CPU at most `CPU_TOKENS`); a longer row is a batch of its own.
    precision
        `fp32`, or `bf16` (autocast); the logits are normalised in fp32 either way.
    reader
        The model's in this precision, where another has one as well; None makes one.
    """

    def __init__(
        self, model: Transformer, batch_tokens: int, precision: str = "fp32", reader: LazyReader | None = None
    ) -> None:
        self.model, self.batch_tokens, self.precision = model, batch_tokens, precision
        self._lazy = reader or LazyReader(model, precision)
        self.device = model.embedding.weight.device
        if self.device.type == "cpu":
            self.batch_tokens = min(batch_tokens, CPU_TOKENS)

    @property
    def reader(self) -> Reader | None:
        """What reads for the model where there is something faster than the model itself; made when it is first used."""
        return self._lazy.reader

    @torch.inference_mode()
    def score(self, rows: Sequence[Row]) -> list[Score]:
        """Score each row's continuation given what precedes it.

        What rows begin with in common is computed once (`workbench.evaluate.shared_prefixes`), sequences are sorted by
        length and padded on the right, and the output head is applied only to the scored tokens.

        Parameters
        ----------
        rows
            At most `context_tokens + 1` tokens each, of which at least one is context and one is scored.

        Returns
        -------
        list of Score
            In the order of `rows`.
        """
        scored = self._score_rows(rows)
        return [Score(float(logprob_N.sum()), bool(greedy_N.all())) for logprob_N, greedy_N in scored]

    @torch.inference_mode()
    def logprobs(self, rows: Sequence[Row]) -> list[Tensor]:
        """Score each token of each row's continuation by itself, as `score` does.

        Returns
        -------
        list of Tensor
            Log-likelihoods in nats, fp32 of shape (scored,) on the CPU, in the order of `rows`.
        """
        return [logprob_N for logprob_N, _ in self._score_rows(rows)]

    def autocast(self) -> torch.autocast:
        """Arithmetic of the requested precision."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def _score_rows(self, rows: Sequence[Row]) -> list[tuple[Tensor, Tensor]]:
        # Without a context, the first token's prediction would be read from the row before.
        assert all(0 < row.scored < len(row.tokens) for row in rows)
        counts = [row.scored for row in rows]
        tree = TokenTree([row.tokens[:-1] for row in rows], counts)
        targets = [torch.tensor(row.tokens[len(row.tokens) - row.scored :]) for row in rows]
        found = Found(torch.cat([torch.empty(0, dtype=torch.long), *targets]))
        with self.autocast():
            self._score_stem(tree, plan(tree, self.model.config.width, share=self.model.backend == "sdpa"), None, found)
        return list(zip(found.logprob_N.split(counts), found.greedy_N.split(counts), strict=True))

    def _score_stem(self, tree: TokenTree, stem: Stem, pasts: list[Past] | None, found: Found) -> None:
        """Score what follows a stem, whose keys and values are let go with the last of it."""
        for batch, masked in _batches(tree, stem, self.batch_tokens):
            rows = [tree.lay_out(first, last, stem.depth) for first, last in batch]
            self._score_batch(rows, masked, stem.depth, pasts, found)
        for longer in stem.stems:
            growing = [past.growing() for past in pasts or [Past() for _ in self.model.blocks]]
            row = tree.lay_out_stem(longer, stem.depth)
            self._score_batch([row], stem.depth > 0, stem.depth, growing, found)
            self._score_stem(tree, longer, [past.whole() for past in growing], found)

    def _score_batch(self, rows: list[Laid], masked: bool, depth: int, pasts: list[Past] | None, found: Found) -> None:
        """Read rows of a stem of `depth` tokens and note the scores of what is asked of them."""
        T = max(len(row.tokens) for row in rows)
        tokens_BT, positions_BT, ends_BT = torch.zeros(3, len(rows), T, dtype=torch.long)
        ends_BT[:] = torch.arange(1, T + 1)  # padding sees itself, and no token sees it
        for i, row in enumerate(rows):
            for whole, part in ((tokens_BT, row.tokens), (positions_BT, row.positions), (ends_BT, row.ends)):
                whole[i, : len(part)] = torch.from_numpy(part)
        tokens_BT = tokens_BT.to(self.device)
        mask = positions = None  # for plain texts, causal attention is enough, and faster
        if masked:
            mask = tree_mask(ends_BT.to(self.device), depth, compute_dtype(self.model.embedding.weight))
            positions = positions_BT.to(self.device)
        where_N = torch.from_numpy(np.concatenate([row.places + i * T for i, row in enumerate(rows)]))
        slots_N = torch.from_numpy(np.concatenate([row.slots for row in rows]))
        if self.reader is not None:
            trunk = min(row.trunk for row in rows)
            h_ND = self.reader.hidden(tokens_BT, where_N, positions, mask_B1TS=mask, trunk=trunk, pasts=pasts)
        else:
            h_BTD = self.model.hidden(tokens_BT, positions, mask_B1TS=mask, pasts=pasts)
            h_ND = h_BTD.flatten(0, 1)[where_N.to(self.device)]
        if len(slots_N):
            found.note(slots_N, *self._score_tokens(h_ND, found.targets_N[slots_N].to(self.device)))

    def _score_tokens(self, h_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        logprobs, greedy = [], []
        for h, targets in zip(h_ND.split(HEAD_TOKENS), targets_N.split(HEAD_TOKENS), strict=True):
            logits_NV = (self.reader or self.model).head(h).float()
            logprobs.append(-F.cross_entropy(logits_NV, targets, reduction="none"))
            greedy.append(_is_argmax(logits_NV, targets))
        return torch.cat(logprobs), torch.cat(greedy)


def _is_argmax(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Whether each target is what `argmax` gives; targets' logits are lost."""
    # `amax` is 13 times faster than `argmax` on a CPU, which is then only needed where the largest logit comes twice.
    largest_N, places_N1 = logits_NV.amax(-1), targets_N[:, None]
    likeliest_N = logits_NV.gather(1, places_N1)[:, 0] == largest_N
    second_N = logits_NV.scatter_(1, places_N1, float("-inf")).amax(-1)
    if (tied_N := likeliest_N & (second_N == largest_N)).any():
        # Of equal ones the first counts.
        likeliest_N[tied_N] = logits_NV[tied_N].argmax(-1) > targets_N[tied_N]
    return likeliest_N


def _batches(tree: TokenTree, stem: Stem, batch_tokens: int) -> Iterator[tuple[list[tuple[int, int]], bool]]:
    """Ranges of texts that are rows of about the same length, and whether they need a mask."""

    def masked(part: tuple[int, int]) -> bool:
        return stem.depth > 0 or tree.branches(*part)

    # Ties in length keep the texts' order, so that batches do not depend on the requests'.
    sized = [(masked(part), tree.tokens(*part, stem.depth), part) for part in packed(tree, stem)]
    for needs_mask, alike in itertools.groupby(
        sorted(sized, key=lambda row: (row[0], -row[1])), key=lambda row: row[0]
    ):
        batch: list[tuple[int, int]] = []
        longest = 0
        for _, tokens, part in alike:
            padded = (len(batch) + 1) * longest
            if batch and (padded > batch_tokens or (needs_mask and padded * (stem.depth + longest) > LARGEST_MASK)):
                yield batch, needs_mask
                batch = []
            longest = longest if batch else tokens
            batch.append(part)
        yield batch, needs_mask
