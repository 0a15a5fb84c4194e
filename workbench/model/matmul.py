"""Matrix products with weights, by the fastest way this processor has.

PyTorch hands fp32 products on the CPU to MKL, which keeps its AVX-512 code for Intel's processors: on an
AMD EPYC (Zen 5, one thread) it reached 0.10 TFLOP/s where oneDNN, which PyTorch also carries, reached
0.24. Everything else (16 bits, GPUs, builds without oneDNN) is `F.linear`. `numerics.products=openblas` has a training
multiply by NumPy's OpenBLAS instead (`workbench/model/openblas.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from workbench.model import openblas
from workbench.model.operators import operator

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda x: x, "silu": F.silu, "gelu": F.gelu}
_ONEDNN_NAMES = {"none": ("none", ""), "silu": ("swish", ""), "gelu": ("gelu", "none")}
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_by_openblas = False
"""Whether products go through OpenBLAS just now."""


@contextmanager
def products_by(library: str, threads: int) -> Generator[None]:
    """Multiply fp32 matrices on a CPU by a library meanwhile, in this module's differentiable functions and `product`s.

    Parameters
    ----------
    library
        `onednn`, or PyTorch's choice where it has none; or `openblas`, which `workbench.model.openblas.check_openblas`
        has found.
    threads
        That `openblas` may use; PyTorch knows its own.

    Raises
    ------
    ValueError
        It is none of these: `auto` must have been settled.
    """
    global _by_openblas
    if library == "onednn":
        yield
        return
    if library != "openblas":
        raise ValueError(f"products are made by onednn or openblas, not {library!r}")
    before, _by_openblas = _by_openblas, True
    try:
        with openblas.openblas_threads(threads):
            yield
    finally:
        _by_openblas = before


def check_products(library: str, device: str | torch.device) -> None:
    """Refuse a library that cannot multiply on a device or is not here, before anything starts.

    Raises
    ------
    ValueError
        `openblas` is for a CPU, and NumPy may lack it; `auto` takes what is here.
    """
    if library in ("onednn", "auto"):
        return
    if torch.device(device).type != "cpu":
        raise ValueError(f"numerics.products={library!r} is for a CPU, not {str(device)!r}: use onednn")
    openblas.check_openblas()


def products_record(library: str, device: torch.device) -> dict[str, bool | str | None]:
    """Say for a checkpoint's numerics what decides the last bits of its products, beside the library's name."""
    if library == "openblas":
        return {"onednn": False, "openblas": openblas.found_openblas()}
    return {"onednn": uses_onednn(device)}


def uses_onednn(device: torch.device) -> bool:
    """Whether fp32 products on this device go through oneDNN: it decides their last bits."""
    return _HAS_ONEDNN and device.type == "cpu"


def products_library() -> str:
    """Name the library that `products_by` has set just now."""
    return "openblas" if _by_openblas else "onednn"


def compute_dtype(x: Tensor) -> torch.dtype:
    """Dtype of products with `x`: its own, or autocast's."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Compute `x @ weight.T`, differentiably; `x` is (..., inputs), `weight` (outputs, inputs)."""
    if _suits_library(x) and compute_dtype(x) == torch.float32:
        traced = torch.compiler.is_compiling()
        return _onednn_linear(x, weight) if traced else _EagerLinear.apply(x, weight)  # pyright: ignore
    return F.linear(x, weight)


def activated(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """Compute `activation(x @ weight.T + bias)`, not differentiably; `none`, `silu` or (exact) `gelu`.

    oneDNN does it in one pass over the products, which for a few rows takes less than each of the steps by itself.
    """
    if _suits_onednn(x) and compute_dtype(x) == torch.float32:
        name, algorithm = _ONEDNN_NAMES[activation]
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
    return _ACTIVATIONS[activation](F.linear(x, weight, bias))


def combined(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor, operation: str) -> Tensor:
    """Compute `x @ weight.T + bias`, and `add` it to another tensor or `mul`tiply it with that, not differentiably."""
    if _suits_onednn(x) and compute_dtype(x) == torch.float32:
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, weight, bias, operation)
    products = F.linear(x, weight, bias)
    return other + products if operation == "add" else other * products


class Packed:
    """A matrix of fp32 and its bias, laid out once as oneDNN reads it: else it does so in each product, not differentiably.

    With 2,000 rows on a Zen 5 this saves 6% of the products' time with one thread.

    Parameters
    ----------
    weight
        On the CPU, (outputs, inputs); it is copied.
    bias
        (outputs,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self.bias = None if bias is None else bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        """Compute `x @ weight.T + bias`."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def product(a: Tensor, b: Tensor) -> Tensor:
    """Compute `a @ b` of two matrices, not differentiably, in their own dtype."""
    return _multiplier()(a, b.t()) if _suits_library(a) else a @ b


def correlate(a: Tensor, b: Tensor) -> Tensor:
    """Compute `a.T @ b` of two matrices with equally many rows, as `product` does."""
    return _correlate(a, b, _multiplier()) if _suits_library(a) else a.t() @ b


def _suits_onednn(x: Tensor) -> bool:
    return _HAS_ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32


def _suits_library(x: Tensor) -> bool:
    """Whether products with `x` are not left to PyTorch's choice."""
    return _suits_onednn(x) or (_by_openblas and x.device.type == "cpu" and x.dtype == torch.float32)


def _by_library(x: Tensor, weight: Tensor) -> Tensor:
    if _by_openblas:
        return openblas.multiply(x, weight)
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def _multiply(x: Tensor, weight: Tensor) -> Tensor:
    """Compute `x @ weight.T`, without the 30 microseconds that an operator of our own takes for each call."""
    return _by_library(x, weight)


def _multiplier() -> Callable[[Tensor, Tensor], Tensor]:
    return _onednn_linear if torch.compiler.is_compiling() else _multiply


def _correlate(a: Tensor, b: Tensor, multiply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    # oneDNN copies a transposed first operand: it gets the narrower one, for up to twice the speed.
    swapped = a.shape[1] > b.shape[1] and not _by_openblas
    return multiply(b.t(), a.t()).t() if swapped else multiply(a.t(), b.t())


def _gradients(
    ctx: Any, gradient: Tensor, multiply: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    rows, outputs = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    # A frozen matrix, as beside adapters, needs none: that saves a third of the three products.
    return (
        multiply(gradient, weight.t()),
        _correlate(outputs, rows, multiply) if ctx.needs_input_grad[1] else None,
    )


class _EagerLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:  # pyright: ignore
        return _gradients(ctx, gradients[0], _multiply)


# An operator of our own for either library, since Inductor takes PyTorch's for one of its own making and cannot lower it.
@operator("workbench::onednn_linear", device_types="cpu")
def _onednn_linear(x: Tensor, weight: Tensor) -> Tensor:
    return _by_library(x, weight)


@_onednn_linear.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _linear_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    return _gradients(ctx, gradient, _onednn_linear)


_onednn_linear.register_autograd(_linear_backward, setup_context=_keep_inputs)


@register_flop_formula([torch.ops.workbench.onednn_linear, torch.ops.mkldnn._linear_pointwise])
def _linear_flops(x_shape: list[int], weight_shape: list[int], *_: Any, **__: Any) -> int:
    """Tell `FlopCounterMode` what the operator costs: as much as the product that it stands for."""
    return 2 * math.prod(x_shape) * weight_shape[0]
