"""What the device could do at best, for model FLOPs utilisation."""

from __future__ import annotations

import re
import time
from functools import cache

import torch

from workbench.model.matmul import linear

_DENSE_BF16_FLOPS = {
    r"H100 PCIe": 756e12,
    r"H100 NVL": 835e12,
    r"H100 80GB HBM3": 989e12,  # the SXM module's name
    r"H200": 989e12,
    r"H200 NVL": 835e12,
    r"A100-(SXM4|PCIE)-(40|80)GB": 312e12,
    r"A100 80GB PCIe": 312e12,
    r"L40S": 362e12,
    r"GeForce RTX 4090": 165e12,
}
"""Vendors' dense figures by the device's full name (a regular expression, without the vendor's), in FLOPs per second."""


def published_flops(device_name: str) -> float | None:
    """Give the published dense bf16 FLOPs per second of a GPU by its full name; None for one that is not listed.

    Products that share a part of their names differ: an H100 has 756 (PCIe), 835 (NVL) or 989 (SXM) TFLOP/s.

    Parameters
    ----------
    device_name
        As `torch.cuda.get_device_name` gives it, such as `NVIDIA H100 80GB HBM3`.

    References
    ----------
    NVIDIA's data sheets of each product; the figures without sparsity.
    """
    name = device_name.removeprefix("NVIDIA ")
    return next((flops for pattern, flops in _DENSE_BF16_FLOPS.items() if re.fullmatch(pattern, name)), None)


@cache
def peak_flops(device_type: str, precision: str, threads: int) -> float | None:
    """Attainable FLOPs per second of this process's share of the device; None where it is unknown.

    In bf16 on a GPU the published figure of its name, and None for a name without one. Everywhere else the best of
    several square matrix products, measured at `threads` CPU threads.
    """
    if device_type == "cuda" and precision == "bf16":
        return published_flops(torch.cuda.get_device_name())
    return _measured_matmul_flops(device_type, torch.bfloat16 if precision == "bf16" else torch.float32)


def _measured_matmul_flops(device_type: str, dtype: torch.dtype) -> float:
    side = 8192 if device_type == "cuda" else 768
    # Ones, so that the global random state stays as it is.
    a, b = (torch.ones(side, side, dtype=dtype, device=device_type) for _ in range(2))
    best = 0.0
    for _ in range(6):
        start = time.perf_counter()
        linear(a, b).sum().item()
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best
