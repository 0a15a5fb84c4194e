"""The loss from a teacher's most probable ids against a plain reference, autograd, and the loss from all of its logits."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.utils.flop_counter import FlopCounterMode

from workbench.model.distillation import Lesson, summed_distillation
from workbench.model.loss import summed_cross_entropy
from workbench.model.sparse_distillation import SparseLesson, most_probable, summed_sparse_distillation

VOCABULARY, WIDTH = 300, 16


@pytest.fixture
def example():
    """Hidden states, head, targets, weights, and the logits of a teacher: more tokens than one chunk has."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(3, 1500, WIDTH, generator=generator, requires_grad=True)
    head = torch.randn(VOCABULARY, WIDTH, generator=generator, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (3, 1500), generator=generator)
    weights = torch.randint(0, 3, (3, 1500), generator=generator).float()
    taught = torch.randn(3, 1500, 2 * WIDTH, generator=generator)
    teacher = torch.randn(VOCABULARY, 2 * WIDTH, generator=generator) / 4
    return h, head, targets, weights, taught, teacher


def reference(h, head, targets, ids, log_q, temperature, alpha, weights, z_loss):
    """The formula of the docstring, on whole logits."""
    logits = h @ head.t()
    log_p = (logits / temperature).log_softmax(-1).gather(-1, ids)
    q = (log_q / temperature).softmax(-1)
    divergences = (q * (q.log() - log_p)).sum(-1)
    losses = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    hard = losses + z_loss * logits.logsumexp(-1).square()
    return ((alpha * temperature**2 * divergences + (1 - alpha) * hard) * weights).sum(), losses, divergences


@pytest.mark.parametrize("k", [1, 7, VOCABULARY])
@pytest.mark.parametrize(("temperature", "alpha", "z_loss"), [(1.0, 1.0, 0.0), (2.0, 0.3, 1e-3), (0.5, 0.5, 0.0)])
def test_loss_and_gradients_are_those_of_the_formula(example, k, temperature, alpha, z_loss):
    h, head, targets, weights, taught, teacher = example
    log_q, ids = (taught @ teacher.t()).log_softmax(-1).topk(k)
    lesson = SparseLesson(ids, log_q, temperature, alpha)
    ours = summed_sparse_distillation(h, head, targets, lesson, weights, z_loss)
    theirs = reference(h, head, targets, ids, log_q, temperature, alpha, weights, z_loss)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for a, b in zip(torch.autograd.grad(ours[0], (h, head)), torch.autograd.grad(theirs[0], (h, head)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_of_all_ids_it_is_the_loss_from_all_logits(example, temperature):
    h, head, targets, weights, taught, teacher = example
    log_q, ids = (taught @ teacher.t()).log_softmax(-1).topk(VOCABULARY)
    sparse = summed_sparse_distillation(h, head, targets, SparseLesson(ids, log_q, temperature, 0.5), weights)
    dense = summed_distillation(h, head, targets, Lesson(taught, teacher, temperature, 0.5), weights)
    for a, b in zip(sparse, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for a, b in zip(torch.autograd.grad(sparse[0], (h, head)), torch.autograd.grad(dense[0], (h, head)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_gradients_are_finite_differences():
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(1, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(9, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0, 3, 8, 3]])
    log_q, ids = torch.randn(1, 4, 9, generator=generator).log_softmax(-1).topk(3)
    lesson = SparseLesson(ids, log_q, 2.0, 0.4)
    # The loss is summed in fp32.
    steps = {"eps": 1e-2, "atol": 2e-3, "rtol": 1e-2, "check_undefined_grad": False}
    assert gradcheck(lambda *x: summed_sparse_distillation(*x, targets, lesson)[0], (h, head), **steps)


def test_without_a_share_it_is_plain_training_bit_for_bit(example):
    h, head, targets, weights, taught, teacher = example
    log_q, ids = (taught @ teacher.t()).log_softmax(-1).topk(4)
    ours, _, _ = summed_sparse_distillation(h, head, targets, SparseLesson(ids, log_q, 1.0, 0.0), weights)
    theirs, _ = summed_cross_entropy(h, head, targets, weights)
    assert torch.equal(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, (h, head)), torch.autograd.grad(theirs, (h, head)), strict=True):
        assert torch.equal(a, b)


def test_stored_as_fp16_it_is_within_the_stated_error(example):
    *_, taught, teacher = example
    exact = (taught @ teacher.t()).double().log_softmax(-1)
    ids, log_q, losses = most_probable(taught, teacher, torch.zeros(3, 1500, dtype=torch.int64), 7)
    assert log_q.dtype == torch.float16
    assert torch.equal(ids, exact.topk(7).indices)
    expected = exact.gather(-1, ids)
    # Half a unit in the last of 11 binary places, beside the rounding of the logits themselves in fp32.
    assert ((log_q.double() - expected).abs() <= 2**-11 * expected.abs() + 1e-5).all()
    torch.testing.assert_close(losses.double(), -exact[..., 0], rtol=1e-5, atol=1e-5)


def test_its_operations_are_the_students_alone(example):
    h, head, targets, _, taught, teacher = example
    log_q, ids = (taught @ teacher.t()).log_softmax(-1).topk(4)
    with FlopCounterMode(display=False) as counter:
        summed_sparse_distillation(h, head, targets, SparseLesson(ids, log_q, 1.0, 0.5))[0].backward()
    with FlopCounterMode(display=False) as plain:
        summed_cross_entropy(h, head, targets)[0].backward()
    assert counter.get_total_flops() == plain.get_total_flops() > 0
