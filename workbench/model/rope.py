"""Rotary position embedding, in the half-rotation form of Hugging Face's Llama.

Shapes: B sequences, T tokens, H heads, K head width.

References
----------
Su et al., "RoFormer", arXiv:2104.09864, eq. 34. That paper rotates neighbouring features (2i, 2i+1);
Llama in `transformers` rotates features i and i + K/2, which is the same up to the order of the
features, and the order in which its weights are published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def rope_table(num_tokens: int, head_width: int, theta: float) -> Float[Tensor, "2 T half"]:
    """Cosines and sines of each position's rotation angles.

    Parameters
    ----------
    num_tokens
        Positions, from 0.
    head_width
        Features of a head, an even number K; feature pair i turns by `theta**(-2i/K)` per token.
    theta
        RoPE's base.

    Returns
    -------
    Tensor
        fp32 of shape (2, T, K/2), the cosines first.
    """
    exponent = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
    frequency = 1.0 / (theta**exponent)
    angle = torch.arange(num_tokens, dtype=torch.float32)[:, None] * frequency
    return torch.stack((angle.cos(), angle.sin()))


def rotate(x_BTHK: Float[Tensor, "B T H K"], rope: Float[Tensor, "2 T half"]) -> Float[Tensor, "B T H K"]:
    """Turn each head's features by their positions' angles; keeps the dtype of `x_BTHK`.

    Parameters
    ----------
    x_BTHK
        Queries or keys (or both, side by side on the head axis: one pass is faster than two).
    rope
        Rows of `rope_table` for these T positions.
    """
    cos, sin = rope.to(x_BTHK.dtype)[:, :, None, :]
    first, second = x_BTHK.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
