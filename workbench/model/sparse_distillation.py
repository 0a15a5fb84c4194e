"""Loss of a student that learns from its teacher's most probable ids, which were computed once and kept.

With p the student's softmax over all ids and q the teacher's over the k that were kept, both at temperature T, the soft
loss is T^2 KL(q || p), where

    q_i = P_i^(1/T) / sum of P_j^(1/T) over the k ids j

and P is the teacher's softmax over all ids at temperature 1. The teacher's probabilities are renormalised over the k, its
other ids have none: of all ids, that is the divergence of `workbench.model.distillation` at any temperature; of fewer, it
teaches a distribution that is narrower than the teacher's, by the probability that was left out. Anshumann et al. 2025,
"Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs", arXiv:2503.16870, show that bias and what it does.

Shapes: B sequences, T tokens, N = B T, D width of the student, E width of the teacher, V vocabulary, k ids a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from workbench.model.distillation import log_sum
from workbench.model.loss import scale_gradients
from workbench.model.matmul import compute_dtype, correlate, product
from workbench.study.memory import loss_rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int

STORED = torch.float16
"""Dtype of kept log-probabilities: to within 2^-11 of their size, which is 2^-11 |log P| of a probability P itself."""


class SparseLesson(NamedTuple):
    """What a teacher said of a batch, and how much it counts."""

    ids: Int[Tensor, "B T k"]
    """Its most probable ids of each next token."""
    log_q: Float[Tensor, "B T k"]
    """Logarithms of their probabilities among all ids at temperature 1, in nats."""
    temperature: float
    """Of both distributions."""
    alpha: float
    """Share of the soft part."""


def most_probable(
    h: Float[Tensor, "B T E"], weight: Float[Tensor, "V E"], targets: Int[Tensor, "B T"], top_k: int
) -> tuple[Int[Tensor, "B T k"], Float[Tensor, "B T k"], Float[Tensor, "B T"]]:
    """Give the most probable ids of each next token, by chunks of tokens, so that all logits are never held.

    Parameters
    ----------
    h, weight
        What the teacher's head is given, and its rows for the ids that count.
    targets
        The text's own next tokens.
    top_k
        k.

    Returns
    -------
    tuple
        Ids, int64, the most probable first; the logarithms of their probabilities, `STORED`; and each target's
        cross-entropy in nats, fp32.
    """
    dtype, rows = compute_dtype(h), loss_rows(len(weight), weight.device.type)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
        head = weight.to(dtype).t()
        chunks = (h.flatten(0, 1).split(rows), targets.flatten()[:, None].split(rows))
        for h_nE, targets_n1 in zip(*chunks, strict=True):
            log_p = torch.log_softmax(product(h_nE.to(dtype), head).float(), dim=-1)
            values, ids = log_p.topk(top_k, dim=-1)
            found.append((ids, values.to(STORED), -log_p.gather(1, targets_n1)[:, 0]))
        ids, values, losses = (torch.cat(parts) for parts in zip(*found, strict=True))
    shape = targets.shape
    return ids.view(*shape, top_k), values.view(*shape, top_k), losses.view(shape)


def summed_sparse_distillation(
    h_BTD: Float[Tensor, "B T D"],
    weight_VD: Float[Tensor, "V D"],
    targets_BT: Int[Tensor, "B T"],
    lesson: SparseLesson,
    weights_BT: Float[Tensor, "B T"] | None = None,
    z_loss: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Sum of `alpha temperature^2 KL(q || p) + (1 - alpha) CE` times the tokens' weights, and its terms.

    Parameters
    ----------
    h_BTD, weight_VD, targets_BT, weights_BT, z_loss
        As `workbench.model.distillation.summed_distillation` takes them.
    lesson
        What the teacher said; it gets no gradient.

    Returns
    -------
    tuple
        As `workbench.model.distillation.summed_distillation`.
    """
    h_ND = h_BTD.flatten(0, 1)
    g_N = h_ND.new_ones(len(h_ND), dtype=torch.float32) if weights_BT is None else weights_BT.flatten().float()
    total, losses_N, divergences_N, _, _ = _sum(
        h_ND,
        weight_VD,
        targets_BT.flatten(),
        g_N,
        lesson.ids.flatten(0, 1),
        lesson.log_q.flatten(0, 1),
        lesson.temperature,
        lesson.alpha,
        z_loss,
        compute_dtype(h_BTD),
    )
    return total, losses_N.detach().view_as(targets_BT), divergences_N.detach().view_as(targets_BT)


# An operator of our own, so that compiled code calls it as it is.
@torch.library.custom_op("workbench::summed_sparse_distillation", mutates_args=())
def _sum(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    g_N: Tensor,
    ids_Nk: Tensor,
    log_q_Nk: Tensor,
    temperature: float,
    alpha: float,
    z_loss: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Make losses and gradients by chunks of tokens; d soft loss / d logits = temperature (p - q)."""
    rows = loss_rows(len(weight_VD), weight_VD.device.type)
    losses, log_z, divergences = (h_ND.new_empty(len(h_ND), dtype=torch.float32) for _ in range(3))
    gradient_h, gradient_DV = torch.empty_like(h_ND), weight_VD.new_zeros(weight_VD.t().shape)
    chunks = (h_ND, ids_Nk, log_q_Nk, targets_N[:, None], g_N[:, None], losses, log_z, divergences, gradient_h)
    with torch.autocast(h_ND.device.type, enabled=False):
        weight = weight_VD.to(dtype)
        for h, ids, log_q, targets, g, loss, log, divergence, out in zip(*(x.split(rows) for x in chunks), strict=True):
            logits = product(h.to(dtype), weight.t()).float()
            p = torch.softmax(logits, dim=-1)
            log[:] = log_sum(logits, p)
            loss[:] = log - logits.gather(1, targets)[:, 0]
            soft_gradient = _compare(logits, p, ids, log_q.float(), temperature, divergence)
            if z_loss:
                p.mul_(1 + 2 * z_loss * log[:, None])
            p.scatter_add_(1, targets, p.new_full((1, 1), -1.0).expand(len(p), 1))
            slope = p.mul_(1 - alpha).add_(soft_gradient, alpha=alpha * temperature).to(dtype)
            torch.mul(product(slope, weight), g, out=out)
            gradient_DV += correlate((h * g).to(dtype), slope)
    hard = losses + z_loss * log_z.square() if z_loss else losses
    total = ((alpha * temperature**2 * divergences + (1 - alpha) * hard) * g_N).sum()
    return total, losses, divergences, gradient_h, gradient_DV.t().contiguous()


def _compare(logits: Tensor, p: Tensor, ids: Tensor, log_q: Tensor, temperature: float, divergence: Tensor) -> Tensor:
    """Write KL(q || p) at the temperature into `divergence`; give p - q over all ids.

    KL = sum(q (log_q - logits)) - (logsumexp(log_q) - logsumexp(logits)), the first two over the k ids.
    """
    if temperature != 1:
        logits, log_q = logits / temperature, log_q / temperature
        p = torch.softmax(logits, dim=-1)
    q = torch.softmax(log_q, dim=-1)
    apart = log_sum(log_q, q) - log_sum(logits, p)
    divergence[:] = (q * (log_q - logits.gather(1, ids))).sum(1) - apart
    return p.scatter_add(1, ids, -q)


@_sum.register_fake
def _(h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    losses = h_ND.new_empty(targets_N.shape, dtype=torch.float32)
    alike = torch.empty_like(losses)
    return losses.new_empty(()), losses, alike, torch.empty_like(h_ND), torch.empty_like(weight_VD)


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[3:])
    ctx.set_materialize_grads(False)


def _sum_backward(ctx: Any, g: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    return *scale_gradients(*ctx.saved_tensors, g), *[None] * 8


_sum.register_autograd(_sum_backward, setup_context=_keep_gradients)


@register_flop_formula([torch.ops.workbench.summed_sparse_distillation])
def _forward_flops(h_shape: list[int], weight_shape: list[int], *_: Any, **__: Any) -> int:
    """Tell `FlopCounterMode` the cost of the student's logits; that of the gradients belongs to the backward pass."""
    return 2 * h_shape[0] * weight_shape[0] * weight_shape[1]
