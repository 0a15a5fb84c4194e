"""Cross-entropy straight from the hidden states, without ever holding all logits.

In a small model most work is in the output head, and with 4,096 tokens in the vocabulary the logits of
a batch fill 100 MB: written, read and given back to the system several times per step. Here they are
made in chunks that stay in the processor's cache. In training all tokens weigh the same, so each chunk's share of
the gradients is made at once with its losses (as in Liger's fused linear cross-entropy, arXiv:2410.10989,
section 3.2), or weigh what the batch says; where the gradient of each is asked for, the backward pass computes the
logits again.

Shapes: B sequences, T tokens, N = B T, D width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from workbench.model.liger import cross_entropy_in_place
from workbench.model.matmul import compute_dtype, correlate, product
from workbench.model.operators import operator
from workbench.study.memory import loss_rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def cross_entropy_per_token(
    h_BTD: Float[Tensor, "B T D"],
    weight_VD: Float[Tensor, "V D"],
    targets_BT: Int[Tensor, "B T"],
    padded_to: int = 1,
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
    padded_to
        The head is multiplied with rows of zeros up to a multiple of this, whose logits have no probability.

    Returns
    -------
    Tensor
        fp32 of shape (B, T), in nats. Under autocast the logits are computed in 16 bits, and the
        cross-entropy from them in fp32.
    """
    losses_N = _losses(h_BTD.flatten(0, 1), weight_VD, targets_BT.flatten(), compute_dtype(h_BTD), padded_to)
    return losses_N.view_as(targets_BT)


def summed_cross_entropy(
    h_BTD: Float[Tensor, "B T D"],
    weight_VD: Float[Tensor, "V D"],
    targets_BT: Int[Tensor, "B T"],
    weights_BT: Float[Tensor, "B T"] | None = None,
    z_loss: float = 0.0,
    kernel: str = "own",
    padded_to: int = 1,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B T"]]:
    """Sum of `cross_entropy_per_token` times the tokens' weights, and its terms: for training, at two thirds of the cost.

    With `z_loss`, each token's term of the sum is its loss + z_loss log(Z)^2, where Z is the sum of exp(logits).

    Only the sum has a gradient. Its form says what each token weighs; asking the values of a per-token gradient would
    make a GPU wait for the host.

    Parameters
    ----------
    h_BTD, weight_VD, targets_BT, padded_to
        As `cross_entropy_per_token` takes them.
    weights_BT
        How much each target counts; None counts all alike.
    z_loss
        Coefficient of the squared logarithm of Z, which keeps the logits near those of a normalised distribution.
    kernel
        What makes losses and gradients of a chunk's logits: `own` (PyTorch's operators) or `liger` (its Triton kernel).

    Returns
    -------
    tuple
        The sum, an fp32 scalar in nats, and each token's loss without its weight and without z_loss's part, fp32 of
        shape (B, T), in nats.

    References
    ----------
    Chowdhery et al., "PaLM", arXiv:2204.02311, section 5: z_loss = 1e-4.
    """
    h_ND = h_BTD.flatten(0, 1)
    g_N = _ones(h_ND) if weights_BT is None else weights_BT.flatten().float()
    total, losses_N, _, _ = _sum(
        h_ND, weight_VD, targets_BT.flatten(), g_N, compute_dtype(h_BTD), z_loss, kernel, padded_to
    )
    return total, losses_N.detach().view_as(targets_BT)


def padded_head(weight_VD: Tensor, dtype: torch.dtype, padded_to: int) -> Tensor:
    """Give a head in the precision of its products, with rows of zeros up to a multiple of `padded_to`."""
    vocabulary, width = weight_VD.shape
    missing = -vocabulary % padded_to
    if not missing:
        return weight_VD.to(dtype)
    padded = weight_VD.new_zeros(vocabulary + missing, width, dtype=dtype)
    padded[:vocabulary] = weight_VD
    return padded


def _in_chunks(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    g_N: Tensor,
    dtype: torch.dtype,
    gradients: bool,
    z_loss: float,
    kernel: str,
    padded_to: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses, z_loss log(Z)^2, and the gradients of `sum(g (losses + z_loss log(Z)^2))`; empty ones unless `gradients`.

    With p = softmax(logits): log(Z) = max(logits) - log(max(p)) and loss = log(Z) - logits[target], which neither
    overflows nor rounds to zero. With p times 1 + 2 z_loss log(Z), and p[target] lessened by one after that,
    dh = g p W and dW = sum (g p)^T h. Where the head is padded, p is exactly 0 beyond the vocabulary.
    """
    vocabulary = len(weight_VD)
    rows, weight = loss_rows(vocabulary, weight_VD.device.type), padded_head(weight_VD, dtype, padded_to)
    losses, z_terms = (h_ND.new_empty(len(h_ND), dtype=torch.float32) for _ in range(2))
    gradient_h, gradient_DV = torch.empty_like(h_ND), weight_VD.new_zeros(weight.t().shape)
    for h, targets, g, loss, z_term, out in zip(
        *(x.split(rows) for x in (h_ND, targets_N[:, None], g_N[:, None], losses, z_terms, gradient_h)), strict=True
    ):
        logits = product(h.to(dtype), weight.t())
        logits = logits if kernel == "liger" else logits.float()
        if len(weight) > vocabulary:
            logits[:, vocabulary:] = -math.inf
        if kernel == "liger":
            loss[:], z_term[:] = cross_entropy_in_place(logits, targets[:, 0], z_loss)
            p = logits
        else:
            p = _softmax_and_losses(logits, targets, loss, z_term, z_loss, gradients)
        if gradients:
            torch.mul(product(p.to(dtype), weight), g, out=out)
            gradient_DV += correlate((h * g).to(dtype), p.to(dtype))
    if not gradients:
        gradient_h = gradient_DV = h_ND.new_empty(0, 0)
    return losses, z_terms, gradient_h, gradient_DV[:, :vocabulary].t()


def _softmax_and_losses(
    logits: Tensor, targets: Tensor, loss: Tensor, z_term: Tensor, z_loss: float, gradients: bool
) -> Tensor:
    """Fill a chunk's losses, and give the logits' gradient, or what it begins as."""
    p = torch.softmax(logits, dim=-1)
    log = logits.amax(1) - p.amax(1).log()
    loss[:] = log - logits.gather(1, targets)[:, 0]
    if z_loss:
        z_term[:] = z_loss * log.square()
    if gradients:
        if z_loss:
            p.mul_(1 + 2 * z_loss * log[:, None])
        p.scatter_add_(1, targets, p.new_full((1, 1), -1.0).expand(len(p), 1))
    return p


# Operators of our own, so that compiled code calls them as they are: unrolled loops would take it minutes.
@operator("workbench::chunked_cross_entropy")
def _losses(h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype, padded_to: int) -> Tensor:
    with torch.autocast(h_ND.device.type, enabled=False):
        return _in_chunks(h_ND, weight_VD, targets_N, _ones(h_ND), dtype, False, 0.0, "own", padded_to)[0]


@operator("workbench::chunked_cross_entropy_backward")
def _gradients(
    h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype, g_N: Tensor, padded_to: int
) -> tuple[Tensor, Tensor]:
    with torch.autocast(h_ND.device.type, enabled=False):
        _, _, gradient_h, gradient_weight = _in_chunks(
            h_ND, weight_VD, targets_N, g_N, dtype, True, 0.0, "own", padded_to
        )
    return gradient_h, gradient_weight.contiguous()


@operator("workbench::summed_cross_entropy")
def _sum(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    g_N: Tensor,
    dtype: torch.dtype,
    z_loss: float,
    kernel: str,
    padded_to: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast(h_ND.device.type, enabled=False):
        losses, z_terms, gradient_h, gradient_weight = _in_chunks(
            h_ND, weight_VD, targets_N, g_N, dtype, True, z_loss, kernel, padded_to
        )
    terms = losses + z_terms if z_loss else losses
    return (terms * g_N).sum(), losses, gradient_h, gradient_weight.contiguous()


@operator("workbench::summed_cross_entropy_backward")
def scale_gradients(unit_h: Tensor, unit_weight: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply the gradients that a forward pass made by that of its sum."""
    return unit_h * g, unit_weight * g


def _ones(h_ND: Tensor) -> Tensor:
    return h_ND.new_ones(len(h_ND), dtype=torch.float32)


@_losses.register_fake
def _(h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype, padded_to: int) -> Tensor:
    return h_ND.new_empty(targets_N.shape, dtype=torch.float32)


@_gradients.register_fake
def _(
    h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype, g_N: Tensor, padded_to: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(h_ND), weight_VD.new_empty(weight_VD.shape)


@_sum.register_fake
def _(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    g_N: Tensor,
    dtype: torch.dtype,
    z_loss: float,
    kernel: str,
    padded_to: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    losses = h_ND.new_empty(targets_N.shape, dtype=torch.float32)
    return losses.new_empty(()), losses, torch.empty_like(h_ND), weight_VD.new_empty(weight_VD.shape)


@scale_gradients.register_fake
def _(unit_h: Tensor, unit_weight: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(unit_h), torch.empty_like(unit_weight)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.dtype, ctx.padded_to = inputs
    ctx.save_for_backward(*tensors)


def _losses_backward(ctx: Any, g_N: Tensor) -> tuple[Tensor | None, ...]:
    return *_gradients(*ctx.saved_tensors, ctx.dtype, g_N, ctx.padded_to), None, None, None


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[2:])
    ctx.set_materialize_grads(False)


def _sum_backward(ctx: Any, g: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    return *scale_gradients(*ctx.saved_tensors, g), *[None] * 6


_losses.register_autograd(_losses_backward, setup_context=_keep_inputs)
_sum.register_autograd(_sum_backward, setup_context=_keep_gradients)


@register_flop_formula([torch.ops.workbench.chunked_cross_entropy, torch.ops.workbench.summed_cross_entropy])
def _forward_flops(h_shape: list[int], weight_shape: list[int], *_: Any, **__: Any) -> int:
    """Tell `FlopCounterMode` the cost of the logits; that of the gradients belongs to the backward pass."""
    return 2 * h_shape[0] * weight_shape[0] * weight_shape[1]


@register_flop_formula(
    [torch.ops.workbench.chunked_cross_entropy_backward, torch.ops.workbench.summed_cross_entropy_backward]
)
def _backward_flops(h_shape: list[int], weight_shape: list[int], *_: Any, **__: Any) -> int:
    """Count the two products of the gradients: the model's own cost, without logits computed again."""
    return 2 * _forward_flops(h_shape, weight_shape)
