"""What our operators tell PyTorch of themselves is so: compiled code believes it without looking."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._library.custom_ops import OPDEFS
from torch.library import opcheck

from workbench.model import distillation, loss, matmul, sparse_distillation

N, D, E, V, K = 6, 8, 4, 32, 3
FP32, BF16 = torch.float32, torch.bfloat16


def _tensor(*shape: int, order: str = "rows", gradient: bool = True) -> torch.Tensor:
    """Random values, with the last or the first of two dimensions dense."""
    values = torch.randn(*shape) if order == "rows" else torch.randn(*reversed(shape)).t()
    return values.requires_grad_(gradient)


def _targets() -> torch.Tensor:
    return torch.randint(V, (N,))


def _cross_entropy(order: str, dtype: torch.dtype) -> tuple[Any, ...]:
    return _tensor(N, D, order=order), _tensor(V, D, order=order), _targets(), dtype, 1


def _cross_entropy_backward(order: str, dtype: torch.dtype) -> tuple[Any, ...]:
    h, weight = (_tensor(rows, D, order=order, gradient=False) for rows in (N, V))
    return h, weight, _targets(), dtype, torch.rand(N), 1


def _summed(order: str, dtype: torch.dtype) -> tuple[Any, ...]:
    return _tensor(N, D, order=order), _tensor(V, D, order=order), _targets(), torch.rand(N), dtype, 1e-4, 1


def _whole(order: str, dtype: torch.dtype) -> tuple[Any, ...]:
    *known, padded_to = _summed(order, dtype)
    return *known, "own", padded_to


def _scaled(order: str, dtype: torch.dtype) -> tuple[Any, ...]:
    h, weight = (_tensor(rows, D, order=order, gradient=False) for rows in (N, V))
    return h, weight, torch.tensor(0.5)


def _taught(order: str, dtype: torch.dtype) -> tuple[Any, ...]:
    teacher = (_tensor(rows, E, order=order, gradient=False) for rows in (N, V))
    return *_summed(order, dtype)[:4], *teacher, 2.0, 0.5, 1e-4, dtype, 1


def _taught_by_ids(order: str, dtype: torch.dtype) -> tuple[Any, ...]:
    ids, log_q = torch.stack([torch.randperm(V)[:K] for _ in range(N)]), torch.randn(N, K).log_softmax(1)
    return *_summed(order, dtype)[:4], ids, log_q, 2.0, 0.5, 1e-4, dtype, 1


def _linear(order: str, dtype: torch.dtype) -> tuple[Any, ...]:
    x = _tensor(N, D, order=order) if order == "columns" else _tensor(2, N, D)
    return x, _tensor(V, D, order=order)


OPERATORS: dict[str, tuple[Any, Callable[[str, torch.dtype], tuple[Any, ...]]]] = {
    "chunked_cross_entropy": (loss._losses, _cross_entropy),
    "chunked_cross_entropy_backward": (loss._gradients, _cross_entropy_backward),
    "summed_cross_entropy": (loss._sum, _whole),
    "summed_cross_entropy_backward": (loss.scale_gradients, _scaled),
    "summed_distillation": (distillation._sum, _taught),
    "summed_sparse_distillation": (sparse_distillation._sum, _taught_by_ids),
    "onednn_linear": (matmul._onednn_linear, _linear),
}


_WITHOUT_HEAD = ("onednn_linear", "summed_cross_entropy_backward")


def test_every_operator_of_ours_is_among_them():
    assert {f"workbench::{name}" for name in OPERATORS} == {name for name in OPDEFS if name.startswith("workbench::")}


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize("name", OPERATORS)
def test_schema_gradients_shapes_and_strides_are_as_declared(name: str, order: str, dtype: torch.dtype):
    operator, arguments = OPERATORS[name]
    if name == "onednn_linear" and not matmul.uses_onednn(torch.device("cpu")):
        pytest.skip("this PyTorch was built without oneDNN")
    torch.manual_seed(0)
    opcheck(operator, arguments(order, dtype))


@pytest.mark.parametrize("name", [name for name in OPERATORS if name not in _WITHOUT_HEAD])
def test_so_they_are_of_a_padded_head(name: str):
    operator, arguments = OPERATORS[name]
    torch.manual_seed(0)
    *known, padded_to = arguments("rows", BF16)
    assert padded_to == 1
    assert V % 24
    opcheck(operator, (*known, 24))
