"""Operators of our own, which do without PyTorch's compiler where nothing is compiled."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef


def operator(name: str, device_types: str | None = None) -> Callable[[Callable[..., object]], CustomOpDef]:
    """Decorate the arithmetic of an operator that changes none of its arguments, as `torch.library.custom_op` does.

    PyTorch (2.13) calls the arithmetic so that its compiler leaves it alone, and imports the compiler for that: 2.3 s of
    processor time in every process that trains. Where nobody has imported it, it is called as it is.

    Parameters
    ----------
    name
        With its namespace, as in `workbench::name`.
    device_types
        Devices it works on; None for all.
    """

    def define(arithmetic: Callable[..., object]) -> CustomOpDef:
        defined = torch.library.custom_op(name, mutates_args=(), device_types=device_types)(arithmetic)
        kernels = defined._backend_fns
        for device, kernel in kernels.items():
            kernels[device] = _unless_imported(kernel)
        return defined

    return define


def _unless_imported(left_alone: Callable[..., Any]) -> Callable[..., Any]:
    plain = inspect.unwrap(left_alone)

    @functools.wraps(plain)
    def kernel(*given: Any, **named: Any) -> Any:
        return (left_alone if "torch._dynamo" in sys.modules else plain)(*given, **named)

    return kernel
