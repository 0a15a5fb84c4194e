"""Attention over blocks of queries: equal to PyTorch's kernel, in values and gradients, and repeatable."""

import pytest
import torch
from torch import Tensor

from workbench.model.attention import attend, document_mask
from workbench.model.attention_blocks import attend_by_blocks
from workbench.study.memory import ATTENTION_BLOCK as BLOCK
from workbench.study.memory import kept_scores

SHAPES = [(1, 2, 1, 4), (BLOCK, 2, 1, 8), (BLOCK + 1, 4, 2, 8), (3 * BLOCK - 1, 3, 3, 16), (256, 4, 1, 32)]


def heads_of(T: int, H: int, G: int, K: int, B: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(T + H)
    # Parts of one tensor, as a model's are, so that none is contiguous.
    whole = torch.randn(B, T, H + 2 * G, K, generator=generator)
    return [x.detach().requires_grad_() for x in whole.split((H, G, G), dim=2)]


def outcome(function, heads: list[Tensor]) -> list[Tensor]:
    out = function(*heads)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), heads)]


def by_document(T: int) -> Tensor:
    documents = torch.arange(T).div(max(1, T // 3), rounding_mode="floor").repeat(2, 1)
    documents[1] = torch.arange(T) >= T // 2
    return document_mask(documents, torch.float32)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("T", "H", "G", "K"), SHAPES)
def test_values_and_gradients_equal_those_of_the_fused_kernel(T, H, G, K, masked):
    heads, mask = heads_of(T, H, G, K), by_document(T) if masked else None
    for scale in (None, 0.3):
        found = outcome(lambda q, k, v, s=scale: attend_by_blocks(q, k, v, mask, s), heads)
        expected = outcome(lambda q, k, v, s=scale: attend(q, k, v, "sdpa", mask, s), heads)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_gradients_equal_those_of_the_equation_in_double_precision():
    T, H, G, K = 2 * BLOCK + 5, 4, 2, 8
    heads = heads_of(T, H, G, K)

    def equation(q, k, v):
        k, v = (x.repeat_interleave(H // G, dim=2) for x in (k, v))
        scores = torch.einsum("bthk,bshk->bhts", q, k) * K**-0.5
        scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), float("-inf"))
        return torch.einsum("bhts,bshk->bthk", scores.softmax(-1), v)

    doubles = [x.detach().double().requires_grad_() for x in heads]
    found = outcome(lambda *x: attend_by_blocks(*x, None, None), heads)
    for ours, exact in zip(found, outcome(equation, doubles), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


def test_the_same_bits_each_time():
    heads = heads_of(256, 4, 4, 32)
    first, second = (outcome(lambda *x: attend_by_blocks(*x, None, None), heads) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_token_sees_a_later_one():
    heads = heads_of(2 * BLOCK, 2, 2, 8)
    before = attend_by_blocks(*heads, None, None)
    with torch.no_grad():
        for x in heads:
            x[:, BLOCK + 7 :] += 1
    after = attend_by_blocks(*heads, None, None)
    assert torch.equal(before[:, : BLOCK + 7], after[:, : BLOCK + 7])
    assert not torch.equal(before[:, BLOCK + 7 :], after[:, BLOCK + 7 :])


def test_compiled_code_computes_the_same():
    heads = heads_of(2 * BLOCK + 5, 4, 2, 8)
    for mask in (None, by_document(2 * BLOCK + 5)):
        compiled = torch.compile(lambda q, k, v, m=mask: attend_by_blocks(q, k, v, m, None), backend="aot_eager")
        found = outcome(compiled, heads)
        for ours, eager in zip(found, outcome(lambda *x, m=mask: attend_by_blocks(*x, m, None), heads), strict=True):
            torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)


def test_little_more_than_the_causal_half_is_kept():
    assert kept_scores(1) == 1
    assert kept_scores(BLOCK) == BLOCK**2
    assert kept_scores(256) == sum(BLOCK * end for end in range(BLOCK, 257, BLOCK)) == 0.625 * 256**2
