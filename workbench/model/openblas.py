"""Products of fp32 matrices by the OpenBLAS that NumPy carries, on a CPU.

On processors with AVX2 alone it reads matrices in either order as fast, where oneDNN copies a transposed operand first, so that
a step's products with weights are faster, above all those of the weights' gradients (`docs/performance.md`). It adds in
another order, so the last bits differ: it is a choice, `numerics.products=openblas`, which each checkpoint records.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """Compute `x @ weight.T` of fp32 tensors on a CPU, not differentiably; `x` is (..., inputs), `weight` (outputs, inputs)."""
    rows, matrix = _readable(x.detach().reshape(-1, x.shape[-1])), _readable(weight.detach())
    out = torch.empty(len(rows), len(matrix), dtype=torch.float32)
    np.matmul(rows.numpy(), matrix.numpy().T, out=out.numpy())
    return out.view(*x.shape[:-1], len(matrix))


def _readable(x: Tensor) -> Tensor:
    """Copy a matrix whose rows or columns do not lie one behind the other: NumPy would multiply it without OpenBLAS."""
    for rows, columns in ((0, 1), (1, 0)):
        if x.stride(columns) == 1 and x.stride(rows) >= max(1, x.shape[columns]):
            return x
    return x.contiguous()


def check_openblas() -> None:
    """Refuse a NumPy that multiplies by another library.

    Raises
    ------
    ValueError
        It was built without OpenBLAS.
    """
    if found_openblas() is None:
        raise ValueError(
            "numerics.products='openblas' needs a NumPy that was built with OpenBLAS, as its wheels for Linux are: "
            "install one, or use onednn"
        )


def found_openblas() -> str | None:
    """Version of NumPy's OpenBLAS and the processor that its code is for, which decide the last bits; None without it."""
    if "openblas" not in str(np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]).lower():
        return None
    libraries = _controller().info()
    # SciPy carries a copy of its own.
    named = [one for one in libraries if "numpy" in one["filepath"]] or libraries
    return f"{named[0]['version']} {named[0]['architecture']}" if named else None


@contextmanager
def openblas_threads(threads: int) -> Generator[None]:
    """Let OpenBLAS use so many threads, and as many as before afterwards."""
    with _controller().limit(limits=threads):
        yield


def _controller() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController  # which a machine that trains on its GPU may lack

    return ThreadpoolController().select(internal_api="openblas")
