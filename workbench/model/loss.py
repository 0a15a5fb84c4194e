"""Cross-entropy straight from the hidden states, without ever holding all logits.

In a small model most work is in the output head, and with 4,096 tokens in the vocabulary the logits of
a batch fill 100 MB: written, read and given back to the system several times a step. In chunks that
stay in the processor's cache, computed anew in the backward pass, a step of head and loss took a third
(width 112) to a quarter (width 32) of the time, on one core.

Shapes: B sequences, T tokens, N = B T, D width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.model.matmul import product

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
    losses = _chunked_cross_entropy(h_BTD.flatten(0, 1), weight_VD, targets_BT.flatten())
    return losses.view_as(targets_BT)


def _compute_dtype(h: Tensor) -> torch.dtype:
    device = h.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else h.dtype


def _chunk_rows(vocab_size: int, device: torch.device) -> int:
    # A GPU wants large products; 4,096 rows bound the memory for a vocabulary of 32,000 to 0.5 GB.
    return 4096 if device.type != "cpu" else max(16, CHUNK_BYTES // (4 * vocab_size))


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        dtype = _compute_dtype(h_ND)
        ctx.save_for_backward(h_ND, weight_VD, targets_N)
        ctx.dtype, ctx.rows = dtype, _chunk_rows(weight_VD.shape[0], h_ND.device)
        weight_DV = weight_VD.to(dtype).t()
        chunks = zip(h_ND.to(dtype).split(ctx.rows), targets_N.split(ctx.rows), strict=True)
        with torch.autocast(h_ND.device.type, enabled=False):
            return torch.cat(
                [F.cross_entropy(product(h, weight_DV).float(), targets, reduction="none") for h, targets in chunks]
            )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Per chunk, with p = softmax(logits) - onehot(target): dh = g p W, dW = sum (g p)^T h."""
        h_ND, weight_VD, targets_N = ctx.saved_tensors
        weight = weight_VD.to(ctx.dtype)
        gradient_h, gradient_weight = torch.empty_like(h_ND), torch.zeros_like(weight_VD)
        for h, targets, g, out in zip(
            h_ND.split(ctx.rows), targets_N.split(ctx.rows), gradients[0].split(ctx.rows),
            gradient_h.split(ctx.rows), strict=True,
        ):  # fmt: skip
            h_ = h.to(ctx.dtype)
            p = torch.softmax(product(h_, weight.t()), dim=-1)
            p.scatter_add_(1, targets[:, None], p.new_full((1, 1), -1.0).expand(len(p), 1))
            torch.mul(product(p, weight), g[:, None], out=out)
            gradient_weight += product(p.t(), (h * g[:, None]).to(ctx.dtype))
        return gradient_h, gradient_weight, None


# Compiled code calls it as it is: its loop would be unrolled, for minutes of compilation and no gain.
_chunked_cross_entropy = cast(Any, torch.compiler.disable(_ChunkedCrossEntropy.apply))
