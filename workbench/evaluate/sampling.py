"""How the next token is chosen: the likeliest one, or a draw.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

_PIECE = 64


@dataclass(frozen=True)
class Sampling:
    """What tokens are drawn from, in the order in which it is applied, which is that of `transformers`."""

    temperature: float = 1.0
    """Logits are divided by this."""
    top_k: int | None = None
    """Only the k likeliest tokens, and those as likely as the last of them; None takes all."""
    top_p: float | None = None
    """Only the likeliest tokens that have this probability together; None takes all."""
    seed: int = 0
    """Decides the draws of one continuation, whatever else is drawn beside it."""

    def __post_init__(self) -> None:
        """Refuse what nothing can be drawn from."""
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be above 0: leave sampling out to be greedy")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1")


def filtered(logits_BV: Float[Tensor, "B V"], sampling: Sampling) -> Float[Tensor, "B V"]:
    """Logits at the temperature, minus infinity where a token cannot be drawn."""
    logits_BV = logits_BV / sampling.temperature
    V = logits_BV.shape[-1]
    if sampling.top_k is not None and sampling.top_k < V:
        least_B1 = logits_BV.topk(sampling.top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -math.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ascending_BV, order_BV = logits_BV.sort(dim=-1)
        unlikely_BV = ascending_BV.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
        unlikely_BV[:, -1] = False  # the likeliest is always left
        logits_BV = logits_BV.masked_fill(torch.zeros_like(unlikely_BV).scatter(1, order_BV, unlikely_BV), -math.inf)
    return logits_BV


def uniforms(sampling: Sampling, count: int) -> Tensor:
    """Draws of a continuation: fp64 of shape (count,) in [0, 1), on the CPU."""
    return torch.rand(count, generator=torch.Generator().manual_seed(sampling.seed), dtype=torch.float64)


def draw(logits_BV: Float[Tensor, "B V"], uniform_B: Tensor) -> Tensor:
    """Tokens at which the cumulative probability exceeds these draws; one that has none is never drawn."""
    cumulative_BV = logits_BV.double().softmax(-1).cumsum(-1)
    wanted_B1 = uniform_B[:, None] * cumulative_BV[:, -1:]
    return torch.searchsorted(cumulative_BV, wanted_B1, right=True)[:, 0].clamp(max=logits_BV.shape[-1] - 1)


def likeliest(logits_BV: Float[Tensor, "B V"]) -> Tensor:
    """Most likely tokens, of equal ones the first.

    `argmax` takes ten times as long as `amax` on a CPU: here it looks at the maxima of pieces of the vocabulary, and then
    at the one piece.
    """
    V = logits_BV.shape[-1]
    if logits_BV.device.type != "cpu" or V % _PIECE:
        return logits_BV.argmax(-1)
    pieces = logits_BV.view(-1, V // _PIECE, _PIECE)
    piece_B = pieces.amax(-1).argmax(-1)
    within = pieces[torch.arange(len(pieces)), piece_B]
    return piece_B * _PIECE + within.argmax(-1)


def choose(logits_BV: Float[Tensor, "B V"], samplings: Sequence[Sampling | None], uniform_B: Tensor) -> Tensor:
    """Next token of each sequence: the likeliest one where its sampling is None, else a draw."""
    logits_BV = logits_BV.float()
    if not any(samplings):
        return likeliest(logits_BV)
    groups: dict[tuple[float, int | None, float | None] | None, list[int]] = {}
    for row, sampling in enumerate(samplings):
        key = None if sampling is None else (sampling.temperature, sampling.top_k, sampling.top_p)
        groups.setdefault(key, []).append(row)
    tokens_B = torch.empty(len(samplings), dtype=torch.long, device=logits_BV.device)
    for key, rows in groups.items():
        logits = logits_BV[rows]
        if key is None:
            tokens_B[rows] = likeliest(logits)
        else:
            tokens_B[rows] = draw(filtered(logits, Sampling(*key)), uniform_B[rows].to(logits.device))
    return tokens_B
