"""Causal attention as matrix products over blocks of queries, for short sequences in fp32 on a CPU.

PyTorch's fused kernel multiplies one head's small tiles at a time, and makes all scores again in its backward pass. Where a
sequence is short, keeping the scores costs little memory, and a product over all heads of all sequences at once is faster.
A block of queries meets the keys up to its own end alone, so that little more than the causal half is computed.

Shapes: B sequences, T tokens, H query heads, G key-value heads (G divides H), K head width, N = B H, Q queries of a block,
S keys up to the block's end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from workbench.study.memory import ATTENTION_BLOCK, attention_blocks


def attend_by_blocks(
    q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, mask_B1TT: Tensor | None, scale: float | None
) -> Tensor:
    """Compute what `workbench.model.attention.attend` does, (B, T, H, K), of as many keys as queries."""
    factor = q_BTHK.shape[-1] ** -0.5 if scale is None else scale
    if torch.compiler.is_compiling():
        return _traced(q_BTHK, k_BTGK, v_BTGK, mask_B1TT, factor)
    return _ByBlocks.apply(q_BTHK, k_BTGK, v_BTGK, mask_B1TT, factor)  # pyright: ignore[reportReturnType]


def _future(Q: int) -> Tensor:
    """Make what is added to the scores of a block's queries with its own keys."""
    return torch.full((Q, Q), float("-inf")).triu_(1)


def _by_head(x_BTHK: Tensor, factor: float = 1.0, repeats: int = 1) -> Tensor:
    """Copy to (N, T, K), times a factor, each head several times in a row."""
    B, T, heads, K = x_BTHK.shape
    out_BHRTK = x_BTHK.new_empty(B, heads, repeats, T, K)
    torch.mul(x_BTHK.transpose(1, 2)[:, :, None].expand_as(out_BHRTK), factor, out=out_BHRTK)
    return out_BHRTK.view(-1, T, K)


def _mask_of(mask_B1TT: Tensor, start: int, end: int) -> Tensor:
    return mask_B1TT[:, :, start:end, :end]


class _ByBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, factor: float) -> Tensor:
        B, T, H, K = q.shape
        q_NTK, (k_NTK, v_NTK) = _by_head(q, factor), (_by_head(x, repeats=H // x.shape[2]) for x in (k, v))
        out_NTK = torch.empty_like(q_NTK)
        kept: list[Tensor] = []
        future = _future(min(ATTENTION_BLOCK, T))
        for start, end in attention_blocks(T):
            scores_NQS = q_NTK[:, start:end] @ k_NTK[:, :end].transpose(1, 2)
            if mask is None:
                scores_NQS[:, :, start:] += future[: end - start, : end - start]
            else:
                scores_NQS.view(B, H, end - start, end).add_(_mask_of(mask, start, end))
            torch.ops.aten._softmax.out(scores_NQS, -1, False, out=scores_NQS)
            out_NTK[:, start:end] = scores_NQS @ v_NTK[:, :end]
            kept.append(scores_NQS)
        ctx.save_for_backward(q_NTK, k_NTK, v_NTK, *kept)
        ctx.shapes, ctx.factor = (q.shape, k.shape), factor
        return out_NTK.view(B, H, T, K).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # pyright: ignore
        q_NTK, k_NTK, v_NTK, *kept = ctx.saved_tensors
        d_NTK = _by_head(gradients[0])
        dq, dk, dv = (torch.empty_like(q_NTK) for _ in range(3))
        T = q_NTK.shape[1]
        # From the last block, which has all keys, so that nothing need be zeroed.
        for (start, end), weights_NQS in reversed(list(zip(attention_blocks(T), kept, strict=True))):
            d_NQK, q_NQK = d_NTK[:, start:end], q_NTK[:, start:end]
            scores_NQS = d_NQK @ v_NTK[:, :end].transpose(1, 2)
            torch.ops.aten._softmax_backward_data.out(scores_NQS, weights_NQS, -1, torch.float32, grad_input=scores_NQS)
            dq[:, start:end] = scores_NQS @ k_NTK[:, :end]
            for out, wide, rows in ((dk, scores_NQS, q_NQK), (dv, weights_NQS, d_NQK)):
                if end == T:
                    torch.bmm(wide.transpose(1, 2), rows, out=out)
                else:
                    out[:, :end].baddbmm_(wide.transpose(1, 2), rows)
        shape, keys_shape = ctx.shapes
        dq = dq.mul_(ctx.factor).view(shape[0], shape[2], T, -1).transpose(1, 2)
        return dq, _of_groups(dk, keys_shape), _of_groups(dv, keys_shape), None, None


def _of_groups(x_NTK: Tensor, shape: torch.Size) -> Tensor:
    """Sum the gradients of the heads that share keys or values: (B, T, G, K)."""
    B, T, G, K = shape
    x_BGRTK = x_NTK.view(B, G, -1, T, K)
    return (x_BGRTK.sum(2) if x_BGRTK.shape[2] > 1 else x_BGRTK[:, :, 0]).transpose(1, 2)


def _traced(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, factor: float) -> Tensor:
    """Compute the same in operations that the compiler fuses and differentiates."""
    B, T, H, K = q.shape
    q_NTK, k_NTK, v_NTK = (
        x.transpose(1, 2).repeat_interleave(H // x.shape[2], dim=1).reshape(-1, T, K) for x in (q * factor, k, v)
    )
    return torch.cat(list(_traced_blocks(q_NTK, k_NTK, v_NTK, mask)), dim=1).view(B, H, T, K).transpose(1, 2)


def _traced_blocks(q_NTK: Tensor, k_NTK: Tensor, v_NTK: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
    for start, end in attention_blocks(q_NTK.shape[1]):
        scores_NQS = q_NTK[:, start:end] @ k_NTK[:, :end].transpose(1, 2)
        if mask is None:
            added = torch.nn.functional.pad(_future(end - start), (start, 0))
            scores_NQS = scores_NQS + added
        else:
            per_head = scores_NQS.view(mask.shape[0], -1, *scores_NQS.shape[1:]) + _mask_of(mask, start, end)
            scores_NQS = per_head.view_as(scores_NQS)
        yield torch.softmax(scores_NQS, dim=-1) @ v_NTK[:, :end]
