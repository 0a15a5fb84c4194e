"""Loss of a student that learns from a teacher's distribution, without ever holding all logits of either.

As `workbench.model.loss`, which see: logits are made in chunks, with their share of the gradients.

Shapes: B sequences, T tokens, N = B T, D width of the student, E width of the teacher, V vocabulary.

References
----------
Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2: both distributions at one
temperature, and the soft part times its square, so that its gradients keep their size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.flop_counter import register_flop_formula

from workbench.model.loss import padded_head, scale_gradients
from workbench.model.matmul import compute_dtype, correlate, product
from workbench.model.operators import operator
from workbench.study.memory import loss_rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Lesson(NamedTuple):
    """What a teacher says of a batch, and how much it counts."""

    h: Float[Tensor, "B T E"]
    """What its head is given: its residual stream after the final norm, scaled as its parametrisation says."""
    weight: Float[Tensor, "V E"]
    """Its output head, with a row for each of the student's ids."""
    temperature: float
    """Of both distributions."""
    alpha: float
    """Share of the soft part."""


def summed_distillation(
    h_BTD: Float[Tensor, "B T D"],
    weight_VD: Float[Tensor, "V D"],
    targets_BT: Int[Tensor, "B T"],
    lesson: Lesson,
    weights_BT: Float[Tensor, "B T"] | None = None,
    z_loss: float = 0.0,
    padded_to: int = 1,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Sum of `alpha temperature^2 KL(teacher || student) + (1 - alpha) CE` times the tokens' weights, and its terms.

    CE has the part of `z_loss`, as `summed_cross_entropy` adds it. With `alpha` 0 the sum and its gradient are
    `summed_cross_entropy`'s, bit for bit where the head is not padded.

    Parameters
    ----------
    h_BTD, weight_VD, targets_BT
        As `workbench.model.loss.cross_entropy_per_token` takes them.
    lesson
        What the teacher says; it gets no gradient.
    weights_BT, z_loss, padded_to
        As `summed_cross_entropy` takes them.

    Returns
    -------
    tuple
        The sum, an fp32 scalar in nats, which alone has a gradient; each token's cross-entropy at temperature 1, and its
        divergence from the teacher at the lesson's temperature, both without weights, fp32 of shape (B, T), in nats.
    """
    h_ND = h_BTD.flatten(0, 1)
    g_N = h_ND.new_ones(len(h_ND), dtype=torch.float32) if weights_BT is None else weights_BT.flatten().float()
    total, losses_N, divergences_N, _, _ = _sum(
        h_ND,
        weight_VD,
        targets_BT.flatten(),
        g_N,
        lesson.h.flatten(0, 1).detach(),
        lesson.weight.detach(),
        lesson.temperature,
        lesson.alpha,
        z_loss,
        compute_dtype(h_BTD),
        padded_to,
    )
    return total, losses_N.detach().view_as(targets_BT), divergences_N.detach().view_as(targets_BT)


# An operator of our own, so that compiled code calls it as it is.
@operator("workbench::summed_distillation")
def _sum(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    g_N: Tensor,
    teacher_NE: Tensor,
    teacher_VE: Tensor,
    temperature: float,
    alpha: float,
    z_loss: float,
    dtype: torch.dtype,
    padded_to: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Make losses and gradients by chunks of tokens.

    With p and q, softmax of student's and teacher's logits over the temperature, d loss / d logits = alpha temperature
    (p - q) + (1 - alpha) ((1 + 2 z_loss log(Z)) softmax(logits) - onehot(target)).
    """
    with torch.autocast(h_ND.device.type, enabled=False):
        teacher = padded_head(teacher_VE, dtype, padded_to)

    def compare(logits: Tensor, p: Tensor, divergence: Tensor, taught: Tensor) -> Tensor:
        soft = product(taught.to(dtype), teacher.t())[:, : len(teacher_VE)].float()
        return _compare(logits, p, soft, temperature, divergence)

    return mixed_sums(
        h_ND, weight_VD, targets_N, g_N, (teacher_NE,), compare, temperature, alpha, z_loss, dtype, padded_to
    )


def mixed_sums(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    g_N: Tensor,
    taught: Sequence[Tensor],
    compare: Callable[..., Tensor],
    temperature: float,
    alpha: float,
    z_loss: float,
    dtype: torch.dtype,
    padded_to: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Make losses and gradients by chunks of tokens, whatever is known of the teacher.

    Parameters
    ----------
    h_ND, weight_VD, targets_N, g_N
        What the student's head is given, the head, and targets with their weights.
    taught
        What is known of the teacher, with a row for each target.
    compare
        Called with a chunk's logits, their softmax, where its divergences go, and its rows of `taught`; gives p - q.
    temperature, alpha, z_loss, padded_to, dtype
        As `summed_distillation` takes them, and the precision of the products.

    Returns
    -------
    tuple
        The sum, losses and divergences (N,) in fp32, and the sum's gradients by `h_ND` and `weight_VD`.
    """
    vocabulary = len(weight_VD)
    rows = loss_rows(vocabulary, weight_VD.device.type)
    losses, log_z, divergences = (h_ND.new_empty(len(h_ND), dtype=torch.float32) for _ in range(3))
    gradient_h, gradient_DV = torch.empty_like(h_ND), weight_VD.new_zeros(weight_VD.t().shape)
    padding = (0, -vocabulary % padded_to)
    chunks = (h_ND, targets_N[:, None], g_N[:, None], losses, log_z, divergences, gradient_h, *taught)
    with torch.autocast(h_ND.device.type, enabled=False):
        weight = padded_head(weight_VD, dtype, padded_to)
        for h, targets, g, loss, log, divergence, out, *known in zip(*(x.split(rows) for x in chunks), strict=True):
            logits = product(h.to(dtype), weight.t())[:, :vocabulary].float()
            p = torch.softmax(logits, dim=-1)
            log[:] = log_sum(logits, p)
            loss[:] = log - logits.gather(1, targets)[:, 0]
            soft_gradient = compare(logits, p, divergence, *known)
            if z_loss:
                p.mul_(1 + 2 * z_loss * log[:, None])
            p.scatter_add_(1, targets, p.new_full((1, 1), -1.0).expand(len(p), 1))
            slope = p.mul_(1 - alpha).add_(soft_gradient, alpha=alpha * temperature).to(dtype)
            slope = pad(slope, padding) if padding[1] else slope
            torch.mul(product(slope, weight), g, out=out)
            gradient_DV += correlate((h * g).to(dtype), slope)[:, :vocabulary]
    hard = losses + z_loss * log_z.square() if z_loss else losses
    total = ((alpha * temperature**2 * divergences + (1 - alpha) * hard) * g_N).sum()
    return total, losses, divergences, gradient_h, gradient_DV.t().contiguous()


def _compare(logits: Tensor, p: Tensor, soft: Tensor, temperature: float, divergence: Tensor) -> Tensor:
    """Write KL(teacher || student) at the temperature into `divergence`; give p - q.

    KL = sum(q (soft - logits)) - (logsumexp(soft) - logsumexp(logits)), which is 0 exactly where the two are equal.
    """
    if temperature != 1:
        logits, soft = logits / temperature, soft / temperature
        p = torch.softmax(logits, dim=-1)
    q = torch.softmax(soft, dim=-1)
    apart = log_sum(soft, q) - log_sum(logits, p)
    divergence[:] = (q * (soft - logits)).sum(1) - apart
    return p - q


def log_sum(logits: Tensor, p: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials, from the softmax `p` that is there already."""
    return logits.amax(1) - p.amax(1).log()


@_sum.register_fake
def empty_sums(
    h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Shapes and dtypes of `mixed_sums`, for tensors without values."""
    losses = h_ND.new_empty(targets_N.shape, dtype=torch.float32)
    alike = torch.empty_like(losses)
    return losses.new_empty(()), losses, alike, torch.empty_like(h_ND), weight_VD.new_empty(weight_VD.shape)


def keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Save the gradients of `mixed_sums` for the backward pass."""
    ctx.save_for_backward(*output[3:])
    ctx.set_materialize_grads(False)


def sums_backward(ctx: Any, g: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    """Scale the saved gradients; nothing but the first two of eleven arguments has any."""
    return *scale_gradients(*ctx.saved_tensors, g), *[None] * 9


_sum.register_autograd(sums_backward, setup_context=keep_gradients)


@register_flop_formula([torch.ops.workbench.summed_distillation])
def _forward_flops(
    h_shape: list[int], weight_shape: list[int], _: Any, __: Any, teacher_shape: list[int], *___: Any, **____: Any
) -> int:
    """Tell `FlopCounterMode` the cost of both models' logits; that of the gradients belongs to the backward pass."""
    return 2 * h_shape[0] * weight_shape[0] * (weight_shape[1] + teacher_shape[1])
