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

from workbench.model.distillation import empty_sums, keep_gradients, log_sum, mixed_sums, sums_backward
from workbench.model.matmul import compute_dtype, product
from workbench.model.operators import operator
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
    padded_to: int = 1,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Sum of `alpha temperature^2 KL(q || p) + (1 - alpha) CE` times the tokens' weights, and its terms.

    Parameters
    ----------
    h_BTD, weight_VD, targets_BT, weights_BT, z_loss, padded_to
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
        padded_to,
    )
    return total, losses_N.detach().view_as(targets_BT), divergences_N.detach().view_as(targets_BT)


# An operator of our own, so that compiled code calls it as it is.
@operator("workbench::summed_sparse_distillation")
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
    padded_to: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Make losses and gradients by chunks of tokens; d soft loss / d logits = temperature (p - q)."""

    def compare(logits: Tensor, p: Tensor, divergence: Tensor, ids: Tensor, log_q: Tensor) -> Tensor:
        return _compare(logits, p, ids, log_q.float(), temperature, divergence)

    taught = (ids_Nk, log_q_Nk)
    return mixed_sums(h_ND, weight_VD, targets_N, g_N, taught, compare, temperature, alpha, z_loss, dtype, padded_to)


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


_sum.register_fake(empty_sums)
_sum.register_autograd(sums_backward, setup_context=keep_gradients)


@register_flop_formula([torch.ops.workbench.summed_sparse_distillation])
def _forward_flops(h_shape: list[int], weight_shape: list[int], *_: Any, **__: Any) -> int:
    """Tell `FlopCounterMode` the cost of the student's logits; that of the gradients belongs to the backward pass."""
    return 2 * h_shape[0] * weight_shape[0] * weight_shape[1]
