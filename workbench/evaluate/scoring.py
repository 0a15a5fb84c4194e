"""Log-likelihoods of continuations under a `Transformer`, in batches of equal length.

Shapes: B sequences, T tokens, D width, N scored tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.model.transformer import Transformer

HEAD_TOKENS = 256
"""Scored tokens a piece of the output head: with a small vocabulary the logits then stay in the cache."""


class Row(NamedTuple):
    """One sequence and how much of its end is scored."""

    tokens: Sequence[int]
    """Context and continuation; the last token is predicted and never read."""
    scored: int
    """Tokens of the continuation."""


class Score(NamedTuple):
    """What lm-eval wants to know about a continuation."""

    loglikelihood: float
    """Sum over the continuation's tokens, in nats."""
    is_greedy: bool
    """Whether each of its tokens is the likeliest one."""


@torch.inference_mode()
def score_rows(model: Transformer, rows: Sequence[Row], batch_tokens: int, precision: str = "fp32") -> list[Score]:
    """Score each row's continuation given what stands before it.

    Rows are sorted by length, padded on the right (which causal attention never sees), and the output
    head is applied to the scored tokens alone.

    Parameters
    ----------
    model
        Model to score with, on any device.
    rows
        At most `context_tokens + 1` tokens each.
    batch_tokens
        Padded tokens a forward pass at the most; a longer row makes a batch of its own.
    precision
        `fp32`, or `bf16` (autocast); the logits are normalised in fp32 either way.

    Returns
    -------
    list of Score
        In the order of `rows`.
    """
    device = model.embedding.weight.device
    scores: list[Score | None] = [None] * len(rows)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        for batch in _batches(rows, batch_tokens):
            for index, score in zip(batch, _score_batch(model, [rows[i] for i in batch], device), strict=True):
                scores[index] = score
    return [score for score in scores if score is not None]


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


def _score_batch(model: Transformer, rows: list[Row], device: torch.device) -> list[Score]:
    tokens_BT = torch.zeros(len(rows), len(rows[0].tokens) - 1, dtype=torch.long)
    for i, row in enumerate(rows):
        tokens_BT[i, : len(row.tokens) - 1] = torch.tensor(row.tokens[:-1])
    where = torch.cat(
        [
            torch.arange(len(row.tokens) - 1 - row.scored, len(row.tokens) - 1) + i * tokens_BT.shape[1]
            for i, row in enumerate(rows)
        ]
    )
    targets_N = torch.cat([torch.tensor(row.tokens[len(row.tokens) - row.scored :]) for row in rows])
    h_ND = model.hidden(tokens_BT.to(device)).flatten(0, 1)[where.to(device)]
    logprob_N, greedy_N = _score_tokens(model, h_ND, targets_N.to(device))
    counts = [row.scored for row in rows]
    return [
        Score(float(logprob.sum()), bool(greedy.all()))
        for logprob, greedy in zip(logprob_N.cpu().split(counts), greedy_N.cpu().split(counts), strict=True)
    ]


def _score_tokens(model: Transformer, h_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    logprobs, greedy = [], []
    for h, targets in zip(h_ND.split(HEAD_TOKENS), targets_N.split(HEAD_TOKENS), strict=True):
        logits_NV = model.head(h).float()
        greedy.append(logits_NV.argmax(-1) == targets)
        logprobs.append(-torch.nn.functional.cross_entropy(logits_NV, targets, reduction="none"))
    return torch.cat(logprobs), torch.cat(greedy)
