"""Causal attention with grouped queries, and the backends that compute it.

Shapes: B sequences, T tokens, N = B T, S tokens that they may see (T, or more where some come before), H query heads, G
key-value heads (G divides H), K head width, D documents at most.
"""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from workbench.config.schema import ATTENTIONS
from workbench.model.attention_blocks import attend_by_blocks

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_MODULES = {"flash_attn": ("flash_attn", "flash-attn"), "flash_attn_3": ("flash_attn_interface", "flash-attn-3")}
"""Of the backends that are packages: the module, and what installs it."""


_MOST_DOCUMENTS = 65535
"""Of one call: flash-attn 2 counts them along the second side of CUDA's grid, which has no room for more."""


class Borders(NamedTuple):
    """Where documents begin, for kernels that take sequences end to end and know no other mask."""

    begins: tuple[Tensor, ...]
    """Of each group of sequences, the place of each document's first token among the group's N, then N until the end:
    int32, (D + 1,)."""
    sequences: int
    """Of each group but the last, which has what is left."""


def takes_borders(backend: str) -> bool:
    """Whether a backend confines attention to documents by `Borders` and not by a mask."""
    return backend in _MODULES


def check_attention(backend: str, device: str | torch.device) -> None:
    """Refuse a backend that this machine cannot run, before anything starts.

    Parameters
    ----------
    backend
        `sdpa`, `blocks`, which needs a CPU, or one that needs a CUDA device: `cudnn`, `flash_attn` and `flash_attn_3`, the
        latter also their packages. `auto` chooses among those that are here.
    device
        Where the model will run.

    Raises
    ------
    ValueError
        The backend is unknown, its package is missing, or the device is no GPU (of `blocks`, no CPU).
    """
    if backend not in ATTENTIONS:
        raise ValueError(f"numerics.attention={backend!r} is not one of {', '.join(ATTENTIONS)}")
    if backend in ("sdpa", "auto"):
        return
    if backend == "blocks":
        if torch.device(device).type != "cpu":
            raise ValueError(f"numerics.attention='blocks' is for a CPU, not {str(device)!r}: use sdpa")
        return
    module, package = _MODULES.get(backend, (None, ""))
    if module is not None and importlib.util.find_spec(module) is None:
        raise ValueError(f"numerics.attention={backend!r} needs the package {package}: install it, or use sdpa")
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        raise ValueError(f"numerics.attention={backend!r} needs a CUDA device, not {str(device)!r}: use sdpa")


def attend(
    q_BTHK: Float[Tensor, "B T H K"],
    k_BSGK: Float[Tensor, "B S G K"],
    v_BSGK: Float[Tensor, "B S G K"],
    backend: str,
    mask_B1TS: Float[Tensor, "B 1 T S"] | Borders | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B T H K"]:
    """Softmax attention of each token to itself and those before it, scores times `scale`; None is 1/sqrt(K).

    Query head h reads key-value head `h // (H/G)`. With `mask_B1TS`, as `document_mask` and `tree_mask` make it, a
    token attends to those alone of its document, or to those alone that it follows; `Borders` stand for the former.

    Raises
    ------
    ValueError
        A backend for a GPU was asked for and the tensors are fp32 (they compute in bf16 and fp16 alone), or one
        of flash-attn with a mask that is no `Borders`.
    """
    assert mask_B1TS is not None or q_BTHK.shape[1] == k_BSGK.shape[1]
    if backend not in ("sdpa", "blocks") and q_BTHK.dtype == torch.float32:
        raise ValueError(f"numerics.attention={backend!r} computes in 16 bits: set precision=bf16, or use sdpa")
    if takes_borders(backend):
        if isinstance(mask_B1TS, Tensor):
            raise ValueError(f"numerics.attention={backend!r} has no masks but those by document: use sdpa")
        return _flash_attention(backend, q_BTHK, k_BSGK, v_BSGK, mask_B1TS, scale)
    assert not isinstance(mask_B1TS, Borders)
    if backend == "blocks" and q_BTHK.dtype == torch.float32 and q_BTHK.shape[1] == k_BSGK.shape[1]:
        return attend_by_blocks(q_BTHK, k_BSGK, v_BSGK, mask_B1TS, scale)
    q, k, v = (x.transpose(1, 2) for x in (q_BTHK, k_BSGK, v_BSGK))
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return _plain_attention(q, k, v, mask_B1TS, scale).transpose(1, 2)
    mask = {"is_causal": True} if mask_B1TS is None else {"attn_mask": mask_B1TS}
    grouped = q.shape[1] != k.shape[1]
    if grouped and mask_B1TS is not None and q.is_cuda:
        # With a mask and grouped heads only the plain kernel is left, which holds all scores.
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        grouped = False
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION) if backend == "cudnn" else nullcontext():
        out = F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped, **mask)  # pyright: ignore
    return out.transpose(1, 2)


def document_borders(documents_BT: Int[Tensor, "B T"], at_most: int | None = None) -> Borders:
    """Find where documents begin, without asking the device how many there are.

    Parameters
    ----------
    documents_BT
        Number of each token's document.
    at_most
        Documents of a sequence, at most: there are so many borders a sequence, the rest of empty documents, which cost a
        kernel little each. None is one for each token.
    """
    T = documents_BT.shape[1]
    each = min(T, at_most or T)
    sequences = max(1, _MOST_DOCUMENTS // each)
    return Borders(tuple(_borders_of(group, each) for group in documents_BT.split(sequences)), sequences)


def _borders_of(documents_BT: Tensor, each: int) -> Tensor:
    B, T = documents_BT.shape
    begins_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    begins_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    place_N = torch.arange(B * T, device=documents_BT.device)
    first_N = torch.where(begins_BT.flatten(), place_N, B * T).sort().values
    return F.pad(first_N[: B * each], (0, 1), value=B * T).int()


def document_mask(documents_BT: Int[Tensor, "B T"], dtype: torch.dtype) -> Float[Tensor, "B 1 T T"]:
    """Make what is added to the scores: 0 where a token is the same or before and of its document, else minus infinity.

    In `dtype`, that of the queries, so that one tensor serves every block; of truth values each would make its own.
    """
    T = documents_BT.shape[1]
    past_TT = torch.ones(T, T, dtype=torch.bool, device=documents_BT.device).tril()
    seen_BTT = (documents_BT[:, :, None] == documents_BT[:, None, :]) & past_TT
    mask_BTT = torch.zeros(seen_BTT.shape, dtype=dtype, device=documents_BT.device)
    return mask_BTT.masked_fill_(~seen_BTT, float("-inf"))[:, None]


def tree_mask(ends_BT: Int[Tensor, "B T"], past: int, dtype: torch.dtype) -> Float[Tensor, "B 1 T S"]:
    """Make what is added to the scores of branching texts: 0 where a token is the same or followed, else minus infinity.

    Parameters
    ----------
    ends_BT
        Place behind the last of the tokens that follow each one, which are those next to it: a depth-first order.
    past
        Tokens before these, which all of them follow (S is `past + T`).
    dtype
        That of the queries.
    """
    B, T = ends_BT.shape
    place_T = torch.arange(T, device=ends_BT.device)
    followed_BTT = (place_T <= place_T[:, None]) & (place_T[:, None] < ends_BT[:, None, :])
    mask_BTS = torch.zeros(B, T, past + T, dtype=dtype, device=ends_BT.device)
    mask_BTS[:, :, past:].masked_fill_(~followed_BTT, float("-inf"))
    return mask_BTS[:, None]


def _plain_attention(
    q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    """Attention as its equation: in bf16 on the CPU, 2.5 times as fast as the fused kernel (256 tokens)."""
    T, groups = q_BHTK.shape[2], q_BHTK.shape[1] // k_BGTK.shape[1]
    if groups > 1:
        k_BGTK, v_BGTK = (x.repeat_interleave(groups, dim=1) for x in (k_BGTK, v_BGTK))
    factor = q_BHTK.shape[-1] ** -0.5 if scale is None else scale
    if mask is None:
        future = torch.ones(T, T, dtype=torch.bool, device=q_BHTK.device).triu(1)
        mask = torch.zeros(T, T, dtype=q_BHTK.dtype, device=q_BHTK.device).masked_fill_(future, float("-inf"))
    scores = (q_BHTK * factor) @ k_BGTK.transpose(-1, -2) + mask
    return torch.softmax(scores, dim=-1) @ v_BGTK


def _flash_attention(
    backend: str, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, borders: Borders | None, scale: float | None
) -> Tensor:
    # Named as they are, for torch.compile looks into these lines.
    if backend == "flash_attn":
        import flash_attn as kernels  # pyright: ignore[reportMissingImports]
    else:
        import flash_attn_interface as kernels  # pyright: ignore[reportMissingImports]
    # As PyTorch's own kernels do: its backward pass adds in a fixed order, and more slowly, where that is asked for.
    fixed_order = torch.are_deterministic_algorithms_enabled()
    settings = {"softmax_scale": scale, "causal": True, "deterministic": fixed_order}
    if borders is None:
        return _first(kernels.flash_attn_func(q_BTHK, k_BTGK, v_BTGK, **settings))
    found: list[Tensor] = []
    groups = zip(*(x.split(borders.sequences) for x in (q_BTHK, k_BTGK, v_BTGK)), strict=True)
    for begins, group in zip(borders.begins, groups, strict=True):
        T, rows = q_BTHK.shape[1], [x.flatten(0, 1) for x in group]
        out = _first(kernels.flash_attn_varlen_func(*rows, begins, begins, T, T, **settings))
        found.append(out.view_as(group[0]))
    return found[0] if len(found) == 1 else torch.cat(found)


def _first(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Leave out the scores' logarithmic sums, which some versions of the third give too."""
    return out[0] if isinstance(out, tuple) else out
