"""Attention backends: what is refused, and that the CPU's ways agree."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

from workbench.config.schema import ModelConfig
from workbench.model import attention as attention_module
from workbench.model.attention import attend, check_attention, document_borders, document_mask
from workbench.model.batch import Batch, documents_at_most
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer, summed_loss

MODULES = {"flash_attn": "flash_attn", "flash_attn_3": "flash_attn_interface"}
DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 1, 1, 1, 1], [3, 3, 3, 3, 3, 3, 3, 3]])


@pytest.mark.parametrize("backend", ["sdpa", "auto"])
def test_sdpa_runs_everywhere(backend):
    check_attention(backend, "cpu")
    check_attention(backend, torch.device("cuda"))


def test_attention_by_blocks_is_for_a_cpu():
    check_attention("blocks", "cpu")
    with pytest.raises(ValueError, match=r"numerics\.attention='blocks' is for a CPU, not 'cuda': use sdpa"):
        check_attention("blocks", "cuda")


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"numerics\.attention='xformers' is not one of sdpa, flash_attn"):
        check_attention("xformers", "cpu")


@pytest.mark.parametrize(("backend", "package"), [("flash_attn", "flash-attn"), ("flash_attn_3", "flash-attn-3")])
def test_flash_attention_without_its_package(monkeypatch, backend, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"numerics.attention='{backend}' needs the package {package}:"):
        check_attention(backend, "cuda")


@pytest.mark.parametrize("backend", ["flash_attn", "flash_attn_3", "cudnn"])
def test_a_kernel_of_gpus_without_one(monkeypatch, backend):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="needs a CUDA device, not 'cpu'"):
        check_attention(backend, "cpu")


@pytest.mark.parametrize("backend", ["flash_attn", "flash_attn_3", "cudnn"])
def test_a_kernel_of_gpus_has_no_32_bits(backend):
    heads = torch.zeros(1, 4, 2, 8)
    with pytest.raises(ValueError, match=f"numerics.attention='{backend}' computes in 16 bits: set precision=bf16"):
        attend(heads, heads, heads, backend)


def test_flash_attention_has_no_masks_of_trees():
    heads = torch.zeros(1, 4, 2, 8, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"numerics.attention='flash_attn' has no masks but those by document"):
        attend(heads, heads, heads, "flash_attn", torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16))


def each_alone(q_NHK, k_NGK, v_NGK, begins, begins_k, longest, longest_k, *, softmax_scale, causal, deterministic):
    """The interface of flash-attn's kernel for texts of any length, by its documentation: each range for itself."""
    assert causal
    assert begins is begins_k
    assert begins.dtype == torch.int32
    out = torch.zeros_like(q_NHK)
    for start, stop in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        assert 0 <= stop - start <= longest
        part = [x[None, start:stop] for x in (q_NHK, k_NGK, v_NGK)]
        out[start:stop] = attend(*part, "sdpa", None, softmax_scale)[0]
    return out


@pytest.fixture
def kernels(monkeypatch):
    """Both packages, computed on the CPU; the third's gives a second result."""

    def whole(q, k, v, *, softmax_scale, causal, deterministic):
        return attend(q, k, v, "sdpa", None, softmax_scale), torch.zeros(1)

    found = SimpleNamespace(flash_attn_func=whole, flash_attn_varlen_func=each_alone)
    for name in MODULES.values():
        monkeypatch.setitem(sys.modules, name, found)
    monkeypatch.setattr(attention_module, "check_attention", lambda *_: None)
    return found


@pytest.mark.parametrize("at_most", [None, 4, 8, 100])
@pytest.mark.parametrize("backend", MODULES)
def test_documents_by_their_borders_are_those_of_the_mask(kernels, backend, at_most):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 8, 4, 8, generator=generator).bfloat16()
    k, v = (torch.randn(3, 8, 2, 8, generator=generator).bfloat16() for _ in range(2))
    borders = document_borders(DOCUMENTS, at_most)
    assert [len(begins) for begins in borders.begins] == [3 * min(8, at_most or 8) + 1]
    ours = attend(q, k, v, backend, borders)
    expected = attend(q, k, v, "sdpa", document_mask(DOCUMENTS, torch.bfloat16))
    torch.testing.assert_close(ours, expected, rtol=0, atol=0.02)
    torch.testing.assert_close(attend(q, k, v, backend), attend(q, k, v, "sdpa"), rtol=0, atol=0)


def test_borders_of_documents():
    """Each sequence's first token begins one, whatever its number is."""
    assert [x.tolist() for x in document_borders(DOCUMENTS, 3).begins] == [[0, 3, 5, 8, 9, 16, 24, 24, 24, 24]]


@pytest.mark.parametrize("backend", MODULES)
def test_no_kernel_is_given_more_documents_than_a_grid_has_room_for(kernels, backend):
    """flash-attn 2 has a document for each step along the second side of CUDA's grid: 65,535 at most."""
    B, T = 9000, 8
    documents = torch.arange(T).expand(B, T)  # of a token each, which sees itself alone
    q, k, v = (torch.randn(B, T, 1, 8, generator=torch.Generator().manual_seed(seed)).bfloat16() for seed in range(3))
    asked = []

    def itself(q_NHK, k_NGK, v_NGK, begins, *_, **__):
        asked.append(len(begins) - 1)
        assert begins.tolist() == list(range(len(v_NGK) + 1))
        return v_NGK

    kernels.flash_attn_varlen_func = itself
    assert torch.equal(attend(q, k, v, backend, document_borders(documents)), v)
    assert sum(asked) == B * T
    assert max(asked) <= 65535


@pytest.mark.parametrize("backend", MODULES)
def test_documents_of_several_groups_are_those_of_the_mask(kernels, monkeypatch, backend):
    monkeypatch.setattr(attention_module, "_MOST_DOCUMENTS", 16)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 8, heads, 8, generator=generator).bfloat16() for heads in (4, 2, 2))
    borders = document_borders(DOCUMENTS)
    assert [begins[-1].item() for begins in borders.begins] == [16, 8]
    expected = attend(q, k, v, "sdpa", document_mask(DOCUMENTS, torch.bfloat16))
    torch.testing.assert_close(attend(q, k, v, backend, borders), expected, rtol=0, atol=0.02)


def test_the_bound_of_documents_is_enough_and_has_few_values():
    tokens = torch.ones(2, 300, dtype=torch.int64).numpy()
    bounds = []
    for begins in (0, 1, 3, 4, 15, 16, 63, 64, 299):
        tokens[:] = 1
        tokens[1, :begins] = 0
        documents = Batch.by_document(torch.from_numpy(tokens), 0).documents
        bounds.append(documents_at_most(tokens, 0))
        assert documents is not None
        assert max(len(set(row)) for row in documents.tolist()) <= bounds[-1]
    assert bounds == [1, 4, 4, 16, 16, 64, 64, 256, 1024]


@pytest.mark.parametrize("backend", MODULES)
@pytest.mark.parametrize("frugal", [False, True])
def test_a_model_confines_attention_by_borders_too(kernels, monkeypatch, backend, frugal):
    monkeypatch.setattr("workbench.model.transformer.check_attention", lambda *_: None)
    config = ModelConfig("test", 2, 32, 4, 2, 64, 64, 24)
    tokens = torch.randint(0, 8, (4, 25), generator=torch.Generator().manual_seed(0))
    found = []
    for name in ("sdpa", backend):
        model = Transformer(config, name, frugal)
        init_weights(model, 0)
        batch = Batch.by_document(tokens, 0, at_most=documents_at_most(tokens.numpy(), 0))
        with torch.autocast("cpu", torch.bfloat16):
            parts = [summed_loss(model, part) for part in batch.split(2)]
        gradients = torch.autograd.grad(sum(total for total, _ in parts), list(model.parameters()))
        found.append((torch.cat([losses for _, losses in parts]), gradients))
    (plain, theirs), (ours, mine) = found
    torch.testing.assert_close(ours, plain, rtol=0, atol=0.02)
    assert all((a - b).norm() <= 0.05 * b.norm() for a, b in zip(mine, theirs, strict=True))


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
