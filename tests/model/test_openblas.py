"""Products by NumPy's OpenBLAS: equal to PyTorch's, taken where they are asked for, and nowhere else."""

import numpy as np
import pytest
import torch
from threadpoolctl import ThreadpoolController
from torch.nn import functional as F

from workbench.config.schema import ModelConfig
from workbench.model import matmul, openblas
from workbench.model.batch import Batch
from workbench.model.init import init_weights
from workbench.model.matmul import check_products, correlate, linear, product, products_by, products_record
from workbench.model.openblas import check_openblas, found_openblas, multiply
from workbench.model.transformer import Transformer, summed_loss

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(found_openblas() is None, reason="this NumPy was built without OpenBLAS")


@pytest.fixture
def calls(monkeypatch):
    """Shapes of what OpenBLAS is given."""
    seen: list[tuple[torch.Size, torch.Size]] = []

    def watched(x, weight):
        seen.append((x.shape, weight.shape))
        return multiply(x, weight)

    monkeypatch.setattr(openblas, "multiply", watched)
    return seen


def _values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (_values(5, 7), _values(3, 7)),
        (_values(7, 5).t(), _values(7, 3).t()),
        (_values(2, 4, 7), _values(3, 7)),
        (_values(1, 7), _values(1, 7)),
        (_values(5, 1), _values(3, 1)),
        (_values(10, 14)[::2, ::2], _values(6, 7)[::2]),
        (_values(4, 10, 7)[:, 1::3], _values(3, 14)[:, 1::2]),
        (torch.ones(()).expand(5, 7), _values(7).expand(3, 7)),
        (_values(5, 1).expand(5, 7), _values(3, 7)),
        (_values(0, 7), _values(3, 7)),
    ],
    ids=["plain", "transposed", "three", "row", "column", "strided", "views", "constant", "repeated", "empty"],
)
def test_products_are_those_of_pytorch(x, weight):
    ours = multiply(x, weight)
    torch.testing.assert_close(ours, F.linear(x, weight))
    assert ours.is_contiguous()


def test_values_and_gradients_of_a_training_go_through_it(calls):
    x, weight = _values(2, 3, 7).requires_grad_(), _values(5, 7).requires_grad_()
    expected = F.linear(x, weight)
    gradient = _values(2, 3, 5)
    with products_by("openblas", 1):
        found = linear(x, weight)
        grads = torch.autograd.grad(found, (x, weight), gradient)
        other = product(x[0].detach(), weight.detach().t()), correlate(x[0].detach(), found[0].detach())
    assert [a[0] for a, _ in calls] == [2, 2, 5, 3, 7]
    torch.testing.assert_close((found, *grads), (expected, *torch.autograd.grad(expected, (x, weight), gradient)))
    torch.testing.assert_close(other, (expected[0], x[0].t() @ expected[0]))
    assert all(one.is_contiguous() for one in grads)


def test_nothing_else_goes_through_it(calls):
    x, weight = _values(3, 7), _values(5, 7)
    linear(x, weight)
    with products_by("onednn", 1):
        linear(x, weight)
    with products_by("openblas", 1), torch.autocast("cpu", torch.bfloat16):
        linear(x, weight)
    with products_by("openblas", 1):
        product(x.bfloat16(), weight.t().bfloat16())
    linear(x, weight)
    assert calls == []


def test_it_is_left_when_a_training_fails():
    with pytest.raises(RuntimeError, match="stop"), products_by("openblas", 1):
        raise RuntimeError("stop")
    assert not matmul._by_openblas


def test_it_has_the_threads_that_are_asked_for():
    def threads() -> set[int]:
        return {one["num_threads"] for one in ThreadpoolController().select(internal_api="openblas").info()}

    before = threads()
    for asked in (1, 2):
        with products_by("openblas", asked):
            assert threads() == {asked}
    assert threads() == before


def test_it_is_taken_in_traced_code_too(calls):
    x, weight = _values(3, 7).requires_grad_(), _values(5, 7).requires_grad_()
    torch.compiler.reset()
    with products_by("openblas", 1):
        traced = torch.compile(linear, backend="aot_eager", dynamic=False)
        torch.testing.assert_close(traced(x, weight), F.linear(x, weight))
        traced(x, weight).sum().backward()
    assert len(calls) == 4
    torch.testing.assert_close(weight.grad, x.detach().sum(0).expand(5, 7))


def test_a_models_gradients_are_those_of_onednn_up_to_rounding_and_repeat_their_bits(calls):
    model = Transformer(ModelConfig("tiny", 2, 64, 2, 2, 176, 300, 40))
    init_weights(model, seed=1)
    batch = Batch(torch.randint(300, (3, 41), generator=torch.manual_seed(0)))

    def trained(library: str) -> list[torch.Tensor]:
        model.zero_grad()
        with products_by(library, 1):
            total, losses = summed_loss(model, batch)
            total.backward()
        return [total.detach(), losses, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    expected = trained("onednn")
    assert not calls
    first, second = trained("openblas"), trained("openblas")
    assert len(calls) == 2 * 3 * (2 * 4 + 1)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    for one, other in zip(first, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_it_is_refused_where_it_is_not(monkeypatch):
    check_products("onednn", "cuda")
    check_products("openblas", CPU)
    with pytest.raises(ValueError, match=r"numerics\.products='openblas' is for a CPU, not 'cuda': use onednn"):
        check_products("openblas", "cuda")
    monkeypatch.setattr(np, "show_config", lambda mode: {"Build Dependencies": {"blas": {"name": "accelerate"}}})
    with pytest.raises(ValueError, match="built with OpenBLAS"):
        check_openblas()


def test_the_record_says_which_code_decided_the_bits():
    assert products_record("onednn", CPU) == {"onednn": matmul.uses_onednn(CPU)}
    record = products_record("openblas", CPU)
    assert record == {"onednn": False, "openblas": found_openblas()}
    assert str(record["openblas"])[0].isdigit()
