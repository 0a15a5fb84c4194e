"""Attention backends: what is refused, and that the CPU's ways agree."""

import importlib.util

import pytest
import torch

from workbench.model.attention import attend, check_attention


def test_sdpa_runs_everywhere():
    check_attention("sdpa", "cpu")
    check_attention("sdpa", torch.device("cuda"))


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"numerics\.attention='xformers' is not one of sdpa, flash_attn"):
        check_attention("xformers", "cpu")


def test_flash_attention_without_its_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package flash-attn"):
        check_attention("flash_attn", "cuda")


def test_flash_attention_without_a_gpu(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="needs a CUDA device, not 'cpu'"):
        check_attention("flash_attn", "cpu")


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_equation(groups, dtype):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 9, 4, 8, generator=generator).to(dtype)
    k, v = (torch.randn(2, 9, groups, 8, generator=generator).to(dtype) for _ in range(2))
    full_k, full_v = (x.double().repeat_interleave(4 // groups, dim=2) for x in (k, v))
    scores = torch.einsum("bihk,bjhk->bhij", q.double(), full_k) / 8**0.5
    scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), float("-inf"))
    expected = torch.einsum("bhij,bjhk->bihk", scores.softmax(-1), full_v)
    got = attend(q, k, v, "sdpa")
    assert got.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance)
