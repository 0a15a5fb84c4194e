"""Rotary position embedding, in the half-rotation form of Hugging Face's Llama.

Shapes: B sequences, T tokens, H heads, K head width.

References
----------
Su et al., "RoFormer", arXiv:2104.09864, eq. 34; for longer contexts see `RopeScaling`. That paper rotates neighbouring features (2i, 2i+1);
Llama in `transformers` rotates features i and i + K/2, which is the same up to the order of the
features, and the order in which its weights are published.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.config.schema import RopeScaling

if TYPE_CHECKING:
    from jaxtyping import Float


def rope_table(
    num_tokens: int, head_width: int, theta: float, scaling: RopeScaling | None = None
) -> Float[Tensor, "2 T half"]:
    """Cosines and sines of each position's rotation angles.

    Parameters
    ----------
    num_tokens
        Positions, from 0.
    head_width
        Features of a head that are rotated, an even number K; pair i turns by `theta**(-2i/K)` per token.
    theta
        RoPE's base.
    scaling
        Change of these frequencies for a longer context; None leaves them as they are.

    Returns
    -------
    Tensor
        fp32 of shape (2, T, K/2), the cosines first.
    """
    frequency, factor = frequencies(head_width, theta, scaling or RopeScaling())
    angle = torch.arange(num_tokens, dtype=torch.float32)[:, None] * frequency
    table = torch.stack((angle.cos(), angle.sin()))
    return table if factor == 1 else table * factor


def frequencies(head_width: int, theta: float, scaling: RopeScaling) -> tuple[Tensor, float]:
    """Angles (K/2,) in radians by which pairs of features turn per token, and what the table is multiplied by."""
    if scaling.kind == "ntk":
        theta = ntk_theta(head_width, theta, scaling.factor)
    exponent = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
    frequency = 1.0 / (theta**exponent)
    if scaling.kind == "linear":
        return frequency / scaling.factor, 1.0
    if scaling.kind == "llama3":
        return _llama3(frequency, scaling), 1.0
    if scaling.kind == "yarn":
        factor = scaling.attention_factor
        factor = 0.1 * math.log(scaling.factor) + 1.0 if factor is None else factor
        return _yarn(frequency, theta, scaling), factor
    return frequency, 1.0


def ntk_theta(head_width: int, theta: float, factor: float) -> float:
    """Find the base at which the slowest pair turns `factor` times more slowly, and the fastest as before."""
    return theta * factor ** (head_width / (head_width - 2)) if head_width > 2 else theta * factor


def _llama3(frequency: Tensor, scaling: RopeScaling) -> Tensor:
    """Divide slow frequencies, keep fast ones, and mix in between by their turns over the original context."""
    assert scaling.original_context_tokens is not None
    turns = scaling.original_context_tokens * frequency / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequency / scaling.factor + kept * frequency


def _yarn(frequency: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    """Divide slow frequencies, keep fast ones, and mix in between by their place among the features (eqs. 18 to 23)."""
    assert scaling.original_context_tokens is not None
    width, context = 2 * len(frequency), scaling.original_context_tokens

    def place(turns: float) -> float:
        return width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = place(scaling.beta_fast), place(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    divided = ((torch.arange(len(frequency), dtype=torch.float32) - first) / (last - first or 0.001)).clamp(0, 1)
    return frequency / scaling.factor * divided + frequency * (1 - divided)


def rotate(x_BTHK: Float[Tensor, "B T H K"], rope: Float[Tensor, "2 *B T half"]) -> Float[Tensor, "B T H K"]:
    """Turn each head's features by their positions' angles; keeps the dtype of `x_BTHK`.

    Parameters
    ----------
    x_BTHK
        Queries or keys (or both, side by side on the head axis: one pass is faster than two).
    rope
        Rows of `rope_table` for these T positions, or for those of each sequence; features beyond those that it has angles for stay as they are.
    """
    rotated = 2 * rope.shape[-1]
    if rotated < x_BTHK.shape[-1]:
        turning, still = x_BTHK.split((rotated, x_BTHK.shape[-1] - rotated), dim=-1)
        return torch.cat((rotate(turning, rope), still), dim=-1)
    cos, sin = rope.to(x_BTHK.dtype)[..., None, :]
    first, second = x_BTHK.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
