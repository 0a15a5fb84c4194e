"""Rotation, SwiGLU and RMSNorm as a CPU trains them, in the order of the plain operations.

These are `rotate`, `F.silu(gate) * up` and `F.rms_norm`. Autograd makes a tensor of each operation's gradient, joins those of slices by copies, and works through half a head at a
time, which fills no vector. Here gradients are written where they belong, and rows are as long as they can be.
No bit differs: a product with a negated sine is the negated product, a sum of two does not depend on their order, and a
factor of two rounds nothing.
Compiled code and GPUs fuse the plain form better by themselves.

Shapes: B sequences, T tokens, D width, N heads (those of queries, keys and values), R of them rotated, K head width, F hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def pays(x: Tensor) -> bool:
    """Whether `x` is trained on here, eagerly, and in fp32 on a CPU."""
    return (
        x.requires_grad
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def split_and_rotate(heads_BTNK: Tensor, rope: Tensor, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split heads in queries and keys, both as `workbench.model.rope.rotate` turns all K features, and values."""
    return _RotatedHeads.apply(heads_BTNK, rope, queries, queries + keys)  # pyright: ignore[reportReturnType]


def gated(gate_up_BT2F: Tensor) -> Tensor:
    """Compute `silu(gate) * up` of gate and up side by side, (B, T, F)."""
    return _Gated.apply(gate_up_BT2F)  # pyright: ignore[reportReturnType]


def stream_and_norm(x_BTD: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Give the residual stream as it is, and `F.rms_norm` of it.

    Whatever else reads the stream must read what is given here: autograd would add its gradient before those of the norm's
    two paths, and so does this.
    """
    return _StreamAndNorm.apply(x_BTD, gain, eps)  # pyright: ignore[reportReturnType]


def _tables(rope: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines for each feature of so many heads, (*B, T, heads, K), as the other half's are multiplied by."""
    cos, sin = rope
    both = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
    first, second = (x[..., None, :].expand(*x.shape[:-1], heads, x.shape[-1]).contiguous() for x in both)
    return first, second


def _swap_halves_(out: Tensor, x: Tensor) -> None:
    half = x.shape[-1] // 2
    out[..., :half] = x[..., half:]
    out[..., half:] = x[..., :half]


class _RotatedHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, rope: Tensor, queries: int, rotated: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(rope)
        x = heads[:, :, :rotated]
        cos, sin = _tables(rope, rotated)
        out = torch.empty(x.shape, dtype=x.dtype)
        _swap_halves_(out, x)
        out.mul_(sin).add_(x * cos)
        return out[:, :, :queries], out[:, :, queries:], heads[:, :, rotated:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore
        (rope,) = ctx.saved_tensors
        q, k, v = gradients
        numbers = [x.shape[2] for x in gradients]
        whole = q.new_empty((*q.shape[:2], sum(numbers), q.shape[3]))
        cos, sin = _tables(rope, max(numbers))
        sin.neg_()
        mine = whole.split(numbers, dim=2)
        for out, x in zip(mine, (q, k), strict=False):
            heads = x.shape[2]
            _swap_halves_(out, x)
            out.mul_(sin[..., :heads, :]).add_(x * cos[..., :heads, :])
        mine[2].copy_(v)
        return whole, None, None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = torch.nn.functional.silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # pyright: ignore
        [gradient] = gradients
        gate_up, activated = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        whole = torch.empty_like(gate_up)
        gate_gradient, up_gradient = whole.chunk(2, dim=-1)
        torch.mul(gradient, activated, out=up_gradient)
        torch.mul(gradient, up, out=gate_gradient)
        torch.ops.aten.silu_backward.grad_input(gate_gradient, gate, grad_input=gate_gradient)
        return whole


class _StreamAndNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        unit = x.square()
        rate = unit.mean(-1, keepdim=True).add_(eps).rsqrt_()
        torch.mul(x, rate, out=unit)
        ctx.save_for_backward(x, gain, rate, unit)
        return x, unit * gain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore
        others, mine = gradients
        if mine is None:
            return others, None, None
        x, gain, rate, unit = ctx.saved_tensors
        buffer = mine * unit
        of_gain = buffer.sum(tuple(range(x.dim() - 1))) if ctx.needs_input_grad[1] else None
        whole = mine * gain
        torch.mul(whole, x, out=buffer)
        of_rate = buffer.sum(-1, keepdim=True).mul_(rate.pow(3).mul_(-0.5))
        whole.mul_(rate)
        if others is not None:
            whole += others
        # That of the mean of squares: twice the value, which is rounded alike on whichever factor the two is.
        whole += torch.mul(x, of_rate.div_(x.shape[-1]).mul_(2), out=buffer)
        return whole, of_gain, None
