"""What PyTorch is told so that bits repeat, where it is told so, and that it is told no longer than a training lasts."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from workbench.config.schema import NumericsConfig
from workbench.model.attention import attend
from workbench.train.determinism import check_determinism, determinism, is_deterministic

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def switches():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


@pytest.mark.parametrize(
    ("setting", "device", "expected"),
    [(None, CPU, True), (None, CUDA, False), (True, CUDA, True), (True, CPU, True), (False, CPU, False)],
)
def test_on_the_cpu_by_default_and_on_a_gpu_where_asked_for(setting, device, expected):
    assert is_deterministic(NumericsConfig(deterministic=setting), device) is expected


def test_strict_while_it_lasts_without_filling_memory():
    before = switches()
    with determinism(True, CPU):
        assert switches() == (True, False, False)
        with determinism(False, CPU):
            assert switches() == (False, False, False)
        assert switches() == (True, False, False)
    assert switches() == before
    with pytest.raises(KeyError), determinism(True, CPU):
        raise KeyError
    assert switches() == before


def test_cublas_is_told_before_cuda_starts(monkeypatch):
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")
    check_determinism(True, CUDA)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    check_determinism(False, CUDA)
    check_determinism(True, CPU)
    with pytest.raises(ValueError, match=r"needs CUBLAS_WORKSPACE_CONFIG=:4096:8, not ':0:0'"):
        check_determinism(True, CUDA)


@pytest.mark.parametrize("wanted", [False, True])
def test_flash_attention_is_told(monkeypatch, wanted):
    """Its backward pass does not look at PyTorch's switch; and it is told the scale of the scores."""
    told = []

    def flash_attn_func(q, k, v, *, softmax_scale, causal, deterministic):
        told.append((softmax_scale, causal, deterministic))
        return q

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_func=flash_attn_func))
    heads = torch.zeros(1, 4, 2, 8, dtype=torch.bfloat16)
    with determinism(wanted, CPU):
        attend(heads, heads, heads, "flash_attn")
        attend(heads, heads, heads, "flash_attn", None, 0.25)
    assert told == [(None, True, wanted), (0.25, True, wanted)]
