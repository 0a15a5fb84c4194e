"""Optimizers that do without PyTorch's compiler.

PyTorch has its compiler leave an optimizer's methods alone by decorators that import the compiler when the method is
called: 2.3 s of processor time and 830 modules (PyTorch 2.13) in every process that trains. No update is compiled here,
so the methods are called without them; their arithmetic is PyTorch's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch


class EagerOptimizer(torch.optim.Optimizer):
    """What every optimizer of PyTorch does, without its compiler."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take up parameters, as PyTorch does."""
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, as PyTorch does."""
        inspect.unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)


class EagerAdamW(EagerOptimizer, torch.optim.AdamW):
    """PyTorch's AdamW, without its compiler."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update, as PyTorch does."""
        return inspect.unwrap(torch.optim.AdamW.step)(self, closure)
