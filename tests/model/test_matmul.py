"""Products through oneDNN: values, gradients and what they cost."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from workbench.model.matmul import correlate, linear, product


def tensors(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(*shape, 24, generator=generator, requires_grad=True),
        torch.randn(40, 24, generator=generator, requires_grad=True),
    )


@pytest.mark.parametrize("shape", [(5,), (1, 1), (3, 7), (2, 3, 4)])
@pytest.mark.parametrize("expanded", [False, True], ids=["dense", "expanded gradient"])
def test_linear_equals_pytorch(shape, expanded):
    x, weight = tensors(*shape)
    ours, theirs = linear(x, weight), F.linear(x, weight)
    torch.testing.assert_close(ours, theirs)
    gradient = torch.ones(()).expand(ours.shape) if expanded else torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, (x, weight), gradient),
        torch.autograd.grad(theirs, (x, weight), gradient),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_linear_takes_views():
    x, weight = tensors(3, 7)
    torch.testing.assert_close(linear(x[:, 1::2], weight[::3]), F.linear(x[:, 1::2], weight[::3]))


def test_autocast_keeps_its_dtype():
    x, weight = tensors(4)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product(dtype):
    a, b = torch.randn(6, 5).to(dtype), torch.randn(5, 7).to(dtype)
    assert product(a, b).dtype == dtype
    torch.testing.assert_close(product(a, b), a @ b)
    torch.testing.assert_close(correlate(a, b.t()[:6]), a.t() @ b.t()[:6])
    torch.testing.assert_close(correlate(b, a.t()), b.t() @ a.t())
    torch.testing.assert_close(correlate(a.t(), b), a @ b)


def test_flops_are_counted():
    x, weight = tensors(3, 7)
    with FlopCounterMode(display=False) as counter:
        linear(x, weight).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 3 * 7 * 24 * 40


def test_a_frozen_matrix_gets_no_gradient():
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    linear(x, weight).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.sum(0).expand(5, 7))
    assert weight.grad is None
    [wide] = torch.autograd.grad(linear(x.detach(), weight.requires_grad_()).sum(), [weight])
    torch.testing.assert_close(wide, x.detach().sum(0).expand(3, 7))
