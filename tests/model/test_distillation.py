"""The loss of a distillation in chunks against a plain one over all logits."""

import pytest
import torch
from torch.nn import functional as F

from workbench.model.distillation import Lesson, summed_distillation
from workbench.model.loss import summed_cross_entropy
from workbench.study import memory

B, T, D, E, V = 3, 37, 16, 24, 101


def make_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(B, T, D, generator=generator, requires_grad=True)
    weight = torch.randn(V, D, generator=generator, requires_grad=True)
    targets = torch.randint(0, V, (B, T), generator=generator)
    return h, weight, targets, torch.rand(B, T, generator=generator)


def make_lesson(temperature: float, alpha: float) -> Lesson:
    generator = torch.Generator().manual_seed(1)
    return Lesson(torch.randn(B, T, E, generator=generator), torch.randn(V, E, generator=generator), temperature, alpha)


def reference(
    h: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, lesson: Lesson
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and divergence of each target, (B, T)."""
    logits, taught = h @ weight.t(), lesson.h.to(h.dtype) @ lesson.weight.to(h.dtype).t()
    student, teacher = (F.log_softmax(x / lesson.temperature, dim=-1) for x in (logits, taught))
    divergences = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(B, T), divergences


@pytest.mark.parametrize("chunk_rows", [16, 50, 1000])
@pytest.mark.parametrize(
    ("temperature", "alpha", "z_loss"), [(1.0, 0.5, 0.0), (2.0, 1.0, 0.0), (3.0, 0.25, 0.0), (2.0, 0.5, 1e-2)]
)
def test_values_and_gradients_are_those_in_fp64(monkeypatch, chunk_rows, temperature, alpha, z_loss):
    monkeypatch.setattr(memory, "LOSS_BYTES", chunk_rows * 4 * V)
    h, weight, targets, token_weights = make_inputs()
    lesson = make_lesson(temperature, alpha)
    total, losses, divergences = summed_distillation(h, weight, targets, lesson, token_weights, z_loss)
    wide_h, wide_weight = (x.detach().double().requires_grad_() for x in (h, weight))
    theirs, apart = reference(wide_h, wide_weight, targets, lesson)
    hard = theirs + z_loss * (wide_h @ wide_weight.t()).logsumexp(-1).square()
    expected = ((alpha * temperature**2 * apart + (1 - alpha) * hard) * token_weights).sum()
    torch.testing.assert_close(losses.double(), theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(divergences.double(), apart, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=0)
    assert not losses.requires_grad
    assert not divergences.requires_grad
    got = torch.autograd.grad(total / 64, (h, weight))
    for a, b in zip(got, torch.autograd.grad(expected / 64, (wide_h, wide_weight)), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_without_a_share_it_is_the_cross_entropy_bit_for_bit(z_loss):
    h, weight, targets, token_weights = make_inputs()
    ours = summed_distillation(h, weight, targets, make_lesson(2.0, 0.0), token_weights, z_loss)
    theirs = summed_cross_entropy(h, weight, targets, token_weights, z_loss)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    for a, b in zip(*(torch.autograd.grad(each[0], (h, weight)) for each in (ours, theirs)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("bf16", [False, True])
def test_who_teaches_itself_learns_nothing(temperature, bf16):
    h, weight, targets, _ = make_inputs()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        total, _, divergences = summed_distillation(h, weight, targets, Lesson(h, weight, temperature, 1.0))
    assert total.item() == 0
    assert not divergences.any()
    assert not any(gradient.any() for gradient in torch.autograd.grad(total, (h, weight)))


def test_autocast_keeps_the_loss_in_fp32():
    h, weight, targets, _ = make_inputs()
    lesson = make_lesson(2.0, 0.5)
    theirs, apart = reference(h.double(), weight.double(), targets, lesson)
    with torch.autocast("cpu", torch.bfloat16):
        total, losses, divergences = summed_distillation(h, weight, targets, lesson)
    assert {x.dtype for x in (total, losses, divergences)} == {torch.float32}
    assert 0 < (losses - theirs).abs().max() < 0.1  # logits up to 16 in bf16 are off by up to 2^-5
    assert 0 < (divergences - apart).abs().max() < 0.1
    got = torch.autograd.grad(total, (h, weight))
    expected = torch.autograd.grad((2 * apart + 0.5 * theirs).sum(), (h, weight))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.02 * b.norm()


def test_certain_teachers_and_students_stay_finite():
    weight = torch.tensor([[200.0], [-200.0]])
    h = torch.ones(1, 2, 1, requires_grad=True)
    lesson = Lesson(-torch.ones(1, 2, 1), weight, 1.0, 1.0)
    total, _, divergences = summed_distillation(h, weight, torch.tensor([[0, 1]]), lesson)
    assert divergences.tolist() == [[400.0, 400.0]]
    (gradient,) = torch.autograd.grad(total, h)
    assert gradient.flatten().tolist() == [400.0, 400.0]
