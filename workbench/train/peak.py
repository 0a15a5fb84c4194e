"""What the device could do at best, for model FLOPs utilisation."""

from __future__ import annotations

import time
from functools import cache

import torch

from workbench.model.matmul import linear

_DENSE_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12, "V100": 125e12}
"""Vendors' dense figures by a part of the device's name, in FLOPs a second."""


@cache
def peak_flops(device_type: str, precision: str, threads: int) -> float:
    """Attainable FLOPs a second of this process's share of the device.

    A GPU's published dense bf16 figure where the name is known and the precision is bf16; everywhere
    else the best of several square matrix products, measured at `threads` CPU threads.
    """
    if device_type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name()
        for part, flops in _DENSE_BF16_FLOPS.items():
            if part in name:
                return flops
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
