"""Frozen matrices in 4 bits: NF4 as the package `bitsandbytes` stores it, which is an optional extra.

Each block of 64 weights is divided by its largest magnitude, and each weight becomes the nearest of 16 values, the
quantiles of a normal distribution. What is computed with is the fp32 matrix that these stand for, made anew for every
product, also in the backward pass, so that only the 4 bits and the blocks' magnitudes are kept.

References
----------
Dettmers et al., "QLoRA", arXiv:2305.14314, section 3; without its double quantization.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from workbench.model.matmul import linear, product

PACKAGE = "bitsandbytes"
EXTRA = "lm-scaling-workbench[qlora]"
BLOCK = 64
"""Weights that share a magnitude."""


def check_four_bit(device: torch.device) -> None:
    """Refuse a machine on which matrices cannot be kept in 4 bits.

    Raises
    ------
    ValueError
        The package is missing, or cannot do it on this device; in one line, with what to install.
    """
    _functions(device)


def _functions(device: torch.device) -> Any:
    """Functions of the package, tried on a small matrix."""
    try:
        package = importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != PACKAGE:
            raise _refusal(f"cannot be imported: {error}") from error
        raise _refusal("is not installed") from error
    except Exception as error:
        raise _refusal(f"cannot be imported: {error}") from error
    try:
        matrix = torch.linspace(-1, 1, 2 * BLOCK, device=device).reshape(2, BLOCK)
        found = _dequantised(package.functional, *_quantised(package.functional, matrix))
        works = found.shape == matrix.shape and bool((found - matrix).abs().max() < 0.2)
    except Exception as error:
        raise _refusal(f"does not work on {device.type}: {error}") from error
    if not works:
        raise _refusal(f"does not give back on {device.type} what it stored")
    return package.functional


def _refusal(reason: str) -> ValueError:
    what = " ".join(reason.split())[:300]
    return ValueError(f"lora.quantize='nf4' needs the package {PACKAGE}, which {what} (pip install '{EXTRA}')")


def _quantised(functions: Any, matrix: Tensor) -> tuple[Tensor, Any]:
    return functions.quantize_4bit(matrix, blocksize=BLOCK, quant_type="nf4", compress_statistics=False)


def _dequantised(functions: Any, packed: Tensor, state: Any) -> Tensor:
    return functions.dequantize_4bit(packed, state)


class FourBitMatrix:
    """A frozen matrix in 4 bits.

    Parameters
    ----------
    weight
        The matrix, (outputs, inputs), on the device that is computed on; it is not kept.

    Raises
    ------
    ValueError
        As `check_four_bit`.
    """

    def __init__(self, weight: Tensor) -> None:
        self._functions = _functions(weight.device)
        self._packed, self._state = _quantised(self._functions, weight.detach().float().contiguous())

    def values(self) -> Tensor:
        """Make the matrix that the 4 bits stand for, (outputs, inputs), in fp32."""
        return _dequantised(self._functions, self._packed, self._state)

    def multiply(self, x: Tensor) -> Tensor:
        """Compute `x @ values().T`, differentiably in `x`, which is (..., inputs)."""
        return _Product.apply(x, self)  # pyright: ignore[reportReturnType]


class _Product(torch.autograd.Function):
    """The product with a matrix of which neither pass keeps more than its 4 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: FourBitMatrix) -> Tensor:
        ctx.matrix, ctx.dtype = matrix, x.dtype
        return linear(x, matrix.values())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [gradient] = gradients
        weight = ctx.matrix.values().to(gradient.dtype)
        rows = product(gradient.reshape(-1, gradient.shape[-1]), weight)
        return rows.reshape(*gradient.shape[:-1], weight.shape[1]).to(ctx.dtype), None
