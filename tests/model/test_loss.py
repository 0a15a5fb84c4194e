"""Cross-entropy in chunks against PyTorch's over all logits."""

import pytest
import torch
from torch.nn import functional as F

from workbench.model.loss import cross_entropy_per_token, summed_cross_entropy
from workbench.study import memory

B, T, D, V = 3, 37, 16, 101


def make_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(B, T, D, generator=generator, requires_grad=True)
    weight = torch.randn(V, D, generator=generator, requires_grad=True)
    targets = torch.randint(0, V, (B, T), generator=generator)
    return h, weight, targets, torch.rand(B, T, generator=generator)


def reference(h: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = F.linear(h, weight).flatten(0, 1).float()
    return F.cross_entropy(logits, targets.flatten(), reduction="none").view(B, T)


@pytest.mark.parametrize("chunk_rows", [16, 50, 1000])
def test_values_and_gradients(monkeypatch, chunk_rows):
    monkeypatch.setattr(memory, "LOSS_BYTES", chunk_rows * 4 * V)
    h, weight, targets, token_weights = make_inputs()
    ours, theirs = cross_entropy_per_token(h, weight, targets), reference(h, weight, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs)
    for g in (token_weights, torch.full((B, T), 0.25)):  # tokens that weigh differently, and the same
        got = torch.autograd.grad((ours * g).sum(), (h, weight), retain_graph=True)
        expected = torch.autograd.grad((theirs * g).sum(), (h, weight), retain_graph=True)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk_rows", [16, 1000])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_sum_is_that_of_the_tokens(monkeypatch, chunk_rows, bf16):
    """Its gradients too, of the same products; only the terms beside it have none."""
    monkeypatch.setattr(memory, "LOSS_BYTES", chunk_rows * 4 * V)
    h, weight, targets, _ = make_inputs()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        total, terms = summed_cross_entropy(h, weight, targets)
        losses = cross_entropy_per_token(h, weight, targets)
    assert torch.equal(terms, losses)
    assert not terms.requires_grad
    torch.testing.assert_close(total, losses.sum())
    got = torch.autograd.grad(total / 64, (h, weight))
    expected = torch.autograd.grad((losses / 64).sum(), (h, weight))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < (0.01 if bf16 else 1e-6) * b.norm()


@pytest.mark.parametrize("chunk_rows", [16, 1000])
@pytest.mark.parametrize("weighted", [False, True])
def test_z_loss_is_added_to_the_sum_alone(monkeypatch, chunk_rows, weighted):
    """With its gradient; the terms beside it stay the cross-entropy."""
    monkeypatch.setattr(memory, "LOSS_BYTES", chunk_rows * 4 * V)
    h, weight, targets, token_weights = make_inputs()
    weights = token_weights if weighted else None
    total, terms = summed_cross_entropy(h, weight, targets, weights, z_loss=0.03)
    assert torch.equal(terms, cross_entropy_per_token(h, weight, targets))
    losses = reference(h, weight, targets) + 0.03 * F.linear(h, weight).logsumexp(-1).square()
    expected = (losses * token_weights).sum() if weighted else losses.sum()
    torch.testing.assert_close(total, expected)
    assert total > 1.2 * summed_cross_entropy(h, weight, targets, weights)[0]
    got = torch.autograd.grad(total, (h, weight))
    for a, b in zip(got, torch.autograd.grad(expected, (h, weight)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_without_z_loss_no_bit_changes():
    results = [summed_cross_entropy(*make_inputs()[:3], **more)[0] for more in ({}, {"z_loss": 0.0})]
    assert torch.equal(*results)


def test_one_of_two_may_be_frozen():
    h, weight, targets, _ = make_inputs()
    for frozen in (0, 1):
        inputs = [h.detach(), weight.detach()]
        inputs[1 - frozen].requires_grad_()
        (got,) = torch.autograd.grad(cross_entropy_per_token(*inputs, targets).sum(), inputs[1 - frozen])
        (expected,) = torch.autograd.grad(reference(*inputs, targets).sum(), inputs[1 - frozen])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_without_gradients():
    h, weight, targets, _ = make_inputs()
    with torch.no_grad():
        assert torch.equal(cross_entropy_per_token(h, weight, targets), cross_entropy_per_token(*make_inputs()[:3]))


def test_autocast_keeps_the_loss_in_fp32():
    h, weight, targets, token_weights = make_inputs()
    theirs = reference(h.double(), weight.double(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        ours = cross_entropy_per_token(h, weight, targets)
    assert ours.dtype == torch.float32
    assert 0 < (ours - theirs).abs().max() < 0.1  # logits up to 16 in bf16 are off by up to 2^-5
    got = torch.autograd.grad((ours * token_weights).sum(), (h, weight))
    expected = torch.autograd.grad((theirs * token_weights).sum(), (h, weight))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.02 * b.norm()


def test_certain_and_hopeless_targets_stay_finite():
    weight = torch.tensor([[200.0], [-200.0]])
    h = torch.ones(1, 2, 1, requires_grad=True)
    losses = cross_entropy_per_token(h, weight, torch.tensor([[0, 1]]))
    assert losses.tolist() == [[0.0, 400.0]]
    losses.sum().backward()
    assert h.grad is not None
    assert h.grad.flatten().tolist() == [0.0, 400.0]
