"""Log-likelihoods of continuations under a `Transformer`, in batches of equal length.

Shapes: B sequences, T tokens, D width, N scored tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.model.transformer import Transformer

HEAD_TOKENS = 256
"""Scored tokens per piece of the output head: with a small vocabulary the logits then stay in the cache."""


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


class Scorer:
    """Scores continuations with one model.

    Parameters
    ----------
    model
        Model to score with, on any device.
    batch_tokens
        Padded tokens per forward pass, at most; a longer row is a batch of its own.
    precision
        `fp32`, or `bf16` (autocast); the logits are normalised in fp32 either way.
    """

    def __init__(self, model: Transformer, batch_tokens: int, precision: str = "fp32") -> None:
        self.model, self.batch_tokens, self.precision = model, batch_tokens, precision
        self.device = model.embedding.weight.device

    @torch.inference_mode()
    def score(self, rows: Sequence[Row]) -> list[Score]:
        """Score each row's continuation given what precedes it.

        Rows are sorted by length, padded on the right (which causal attention never sees), and the
        output head is applied only to the scored tokens.

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

    @torch.inference_mode()
    def next_token(self, tokens: Sequence[int]) -> int:
        """Most likely token after a sequence of at most `context_tokens`."""
        with self.autocast():
            h_D = self.model.hidden(torch.tensor([tokens], device=self.device))[0, -1]
            return int(self.model.head(h_D[None]).argmax())

    def autocast(self) -> torch.autocast:
        """Arithmetic of the requested precision."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def _score_rows(self, rows: Sequence[Row]) -> list[tuple[Tensor, Tensor]]:
        # Without a context, the first token's prediction would be read from the row before.
        assert all(0 < row.scored < len(row.tokens) for row in rows)
        scores: dict[int, tuple[Tensor, Tensor]] = {}
        with self.autocast():
            for batch in _batches(rows, self.batch_tokens):
                scores.update(zip(batch, self._score_batch([rows[i] for i in batch]), strict=True))
        return [scores[i] for i in range(len(rows))]

    def _score_batch(self, rows: list[Row]) -> list[tuple[Tensor, Tensor]]:
        tokens_BT = torch.zeros(len(rows), len(rows[0].tokens) - 1, dtype=torch.long)
        for i, row in enumerate(rows):
            tokens_BT[i, : len(row.tokens) - 1] = torch.tensor(row.tokens[:-1])
        spans = [(i * tokens_BT.shape[1] + len(row.tokens) - 1, row.scored) for i, row in enumerate(rows)]
        where_N = torch.cat([torch.arange(end - scored, end) for end, scored in spans])
        targets_N = torch.cat([torch.tensor(row.tokens[len(row.tokens) - row.scored :]) for row in rows])
        h_ND = self.model.hidden(tokens_BT.to(self.device)).flatten(0, 1)[where_N.to(self.device)]
        logprob_N, greedy_N = self._score_tokens(h_ND, targets_N.to(self.device))
        counts = [row.scored for row in rows]
        return list(zip(logprob_N.cpu().split(counts), greedy_N.cpu().split(counts), strict=True))

    def _score_tokens(self, h_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        logprobs, greedy = [], []
        for h, targets in zip(h_ND.split(HEAD_TOKENS), targets_N.split(HEAD_TOKENS), strict=True):
            logits_NV = self.model.head(h).float()
            logprobs.append(-F.cross_entropy(logits_NV, targets, reduction="none"))
            greedy.append(_is_argmax(logits_NV, targets))
        return torch.cat(logprobs), torch.cat(greedy)


def _is_argmax(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    # `amax` is 13 times faster than `argmax` on a CPU, which is then only needed to break ties.
    likeliest_N = logits_NV.gather(1, targets_N[:, None])[:, 0] == logits_NV.amax(-1)
    likeliest_N[likeliest_N.clone()] = logits_NV[likeliest_N].argmax(-1) == targets_N[likeliest_N]
    return likeliest_N


def _batches(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[int]]:
    # Ties in length are broken by the tokens, so that batches do not depend on the requests' order.
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].tokens), tuple(rows[i].tokens)))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * (len(rows[batch[0]].tokens) - 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
