"""Liger's kernel of cross-entropy: losses and the logits' gradient in one pass over them, where they lie.

PyTorch's operators read and write a chunk's logits five times over. Liger's own fused linear cross-entropy is not used: it
waits for the device to count its targets, and sums over tokens before they could weigh differently. Of the package only the
Triton kernel is called, within the chunks of `workbench.model.loss`; so all that these can do is kept.

References
----------
Hsu et al., "Liger Kernel", arXiv:2410.10989, section 3.2.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from workbench.model.triton_build import missing_for_triton

CROSS_ENTROPY_PACKAGES = ("liger_kernel", "triton")
_LARGEST_BLOCK = 32768
"""Logits that one program reads at once, as in Liger's own calls."""


def choose_cross_entropy(asked: str, device: torch.device) -> str:
    """Name what computes the loss from its logits: `own` or `liger`, for `numerics.cross_entropy` as asked.

    Raises
    ------
    ValueError
        `liger` was asked for, and it, a CUDA device or what Triton needs is missing.
    """
    if asked == "own":
        return "own"
    lacking = [name for name in CROSS_ENTROPY_PACKAGES if importlib.util.find_spec(name) is None]
    if asked == "auto":
        return "own" if lacking or device.type != "cuda" or missing_for_triton() else "liger"
    if lacking:
        raise ValueError(
            f"numerics.cross_entropy='liger' needs the package {lacking[0].replace('_', '-')}: install the extra kernels, "
            "or use own"
        )
    if device.type != "cuda":
        raise ValueError(f"numerics.cross_entropy='liger' needs a CUDA device, not {str(device)!r}: use own")
    if (missing := missing_for_triton()) is not None:
        raise ValueError(f"numerics.cross_entropy='liger' needs {missing}: install it, or use own")
    return "liger"


def cross_entropy_in_place(logits_NV: Tensor, targets_N: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Replace logits by the gradient of `sum(losses + z_loss log(Z)^2)` with respect to them.

    Parameters
    ----------
    logits_NV
        Contiguous (N, V), in any precision; the gradient is rounded to it, and computed in fp32.
    targets_N
        Token ids, int64 (N,).
    z_loss
        As `workbench.model.loss.summed_cross_entropy` takes it.

    Returns
    -------
    tuple
        Each token's loss without z_loss's part, and that part, fp32 (N,) both.
    """
    import triton  # pyright: ignore[reportMissingImports]
    from liger_kernel.ops.cross_entropy import liger_cross_entropy_kernel  # pyright: ignore[reportMissingImports]

    N, V = logits_NV.shape
    both_N, z_terms_N = (logits_NV.new_zeros(N, dtype=torch.float32) for _ in range(2))
    liger_cross_entropy_kernel[(N,)](
        X_ptr=logits_NV,
        X_stride=logits_NV.stride(0),
        Y_ptr=targets_N,
        Y_stride=targets_N.stride(0),
        weight_ptr=None,
        loss_ptr=both_N,
        z_loss_ptr=z_terms_N,
        loss_stride=1,
        token_accuracy_ptr=None,
        token_accuracy_stride=0,
        predicted_tokens_ptr=None,
        predicted_tokens_stride=0,
        n_cols=V,
        n_non_ignore=N,
        sum_non_ignore_weight=N,
        weight_sum=0.0,
        ignore_index=-1,
        lse_square_scale=z_loss,
        label_smoothing=0.0,
        reduction="sum",
        softcap=None,
        RETURN_Z_LOSS=True,
        RETURN_TOKEN_ACCURACY=False,
        RETURN_PREDICTED_TOKENS=False,
        BLOCK_SIZE=min(_LARGEST_BLOCK, triton.next_power_of_2(V)),
        HAS_WEIGHT=False,
        HAS_SOFTCAPPING=False,
        HAS_GRADIENTS=True,
        num_warps=32,
    )
    return both_N - z_terms_N, z_terms_N
