"""Cross-entropy straight from the hidden states, without ever holding all logits.

In a small model most work is in the output head, and with 4,096 tokens in the vocabulary the logits of
a batch fill 100 MB: written, read and given back to the system several times a step. In chunks that
stay in the processor's cache, computed anew in the backward pass, a step of head and loss took a third
(width 112) to a quarter (width 32) of the time, on one core.

Shapes: B sequences, T tokens, N = B T, D width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from workbench.model.matmul import compute_dtype, correlate, product

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CHUNK_BYTES = 4 << 20
"""Logits held at once on the CPU, in bytes as fp32; 2 to 8 MB were equally fast, 16 MB half as fast."""


def cross_entropy_per_token(
    h_BTD: Float[Tensor, "B T D"], weight_VD: Float[Tensor, "V D"], targets_BT: Int[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Cross-entropy of each target under the logits `h_BTD @ weight_VD.T`.

    Parameters
    ----------
    h_BTD
        What `Transformer.hidden` gave.
    weight_VD
        The output head.
    targets_BT
        Token ids.

    Returns
    -------
    Tensor
        fp32 of shape (B, T), in nats. Under autocast the logits are computed in 16 bits, and the
        cross-entropy from them in fp32.
    """
    losses_N = _losses(h_BTD.flatten(0, 1), weight_VD, targets_BT.flatten(), compute_dtype(h_BTD))
    return losses_N.view_as(targets_BT)


def _chunk_rows(weight_VD: Tensor) -> int:
    # A GPU wants large products; 4,096 rows bound the memory for a vocabulary of 32,000 to 0.5 GB.
    return max(16, CHUNK_BYTES // (4 * len(weight_VD))) if weight_VD.device.type == "cpu" else 4096


# Operators of our own, so that compiled code calls them as they are: unrolled loops would take it minutes.
@torch.library.custom_op("workbench::chunked_cross_entropy", mutates_args=())
def _losses(h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype) -> Tensor:
    rows, weight = _chunk_rows(weight_VD), weight_VD.to(dtype)
    with torch.autocast(h_ND.device.type, enabled=False):
        return torch.cat(
            [
                F.cross_entropy(product(h.to(dtype), weight.t()).float(), targets, reduction="none")
                for h, targets in zip(h_ND.split(rows), targets_N.split(rows), strict=True)
            ]
        )


@torch.library.custom_op("workbench::chunked_cross_entropy_backward", mutates_args=())
def _gradients(
    h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, gradient_N: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """With p = softmax(logits) - onehot(target): dh = g p W and dW = sum (g p)^T h."""
    rows, weight = _chunk_rows(weight_VD), weight_VD.to(dtype)
    gradient_h, gradient_DV = torch.empty_like(h_ND), weight_VD.new_zeros(weight_VD.t().shape)
    chunks = zip(*(x.split(rows) for x in (h_ND, targets_N, gradient_N[:, None], gradient_h)), strict=True)
    with torch.autocast(h_ND.device.type, enabled=False):
        for h, targets, g, out in chunks:
            p = torch.softmax(product(h.to(dtype), weight.t()), dim=-1)
            p.scatter_add_(1, targets[:, None], p.new_full((1, 1), -1.0).expand(len(p), 1))
            torch.mul(product(p, weight), g, out=out)
            gradient_DV += correlate((h * g).to(dtype), p)
    return gradient_h, gradient_DV.t().contiguous()


@_losses.register_fake
def _(h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype) -> Tensor:
    return h_ND.new_empty(targets_N.shape, dtype=torch.float32)


@_gradients.register_fake
def _(
    h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, gradient_N: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(h_ND), torch.empty_like(weight_VD)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.dtype = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor, Tensor, None, None]:
    return *_gradients(*ctx.saved_tensors, gradient_N, ctx.dtype), None, None


_losses.register_autograd(_backward, setup_context=_keep_inputs)


@register_flop_formula(torch.ops.workbench.chunked_cross_entropy)
def _forward_flops(h_shape: list[int], weight_shape: list[int], *_: Any, **__: Any) -> int:
    """Tell `FlopCounterMode` the cost of the logits."""
    return 2 * h_shape[0] * weight_shape[0] * weight_shape[1]


@register_flop_formula(torch.ops.workbench.chunked_cross_entropy_backward)
def _backward_flops(h_shape: list[int], weight_shape: list[int], *_: Any, **__: Any) -> int:
    """Count the two products of the gradients: the model's own cost, without the logits computed anew."""
    return 2 * _forward_flops(h_shape, weight_shape)
