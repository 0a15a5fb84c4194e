"""Counts from the config against PyTorch's counter, for every switch, forward and backward."""

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from workbench.config.schema import ModelConfig
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer
from workbench.study.flops import (
    approx_flops_6nd,
    count_parameters,
    forward_flops_per_token,
    training_flops_per_token,
)

BASE = ModelConfig(
    name="test",
    num_layers=3,
    width=48,
    num_heads=6,
    num_kv_heads=6,
    mlp_width=80,
    vocab_size=97,
    context_tokens=32,
)
SWITCHES = (
    {},
    {"num_kv_heads": 2},
    {"num_kv_heads": 1},
    {"mlp": "gelu"},
    {"norm": "layernorm"},
    {"position": "learned"},
    {"position": "none"},
    {"tie_embeddings": True},
    {"qk_norm": True, "num_kv_heads": 2},
    {"attention_bias": "qkv", "num_kv_heads": 2},
    {"attention_bias": "all", "mlp_bias": True, "parallel_residual": True, "rotary_share": 0.5},
    {"norm": "layernorm", "norm_bias": True, "qk_norm": True, "mlp": "gelu", "mlp_bias": True},
    {"context_tokens": 20, "num_layers": 1},
    {"parametrisation": "complete_p", "base_width": 24, "base_head_width": 4, "base_layers": 1},
)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_flops_equal_the_counter(changes, device):
    config = dataclasses.replace(BASE, **changes)
    model = Transformer(config)
    init_weights(model, 0)
    model = model.to(device)
    tokens = torch.zeros(2, config.context_tokens, dtype=torch.long, device=device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        loss = model(tokens).square().sum()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        loss.backward()
    assert forward.get_total_flops() == forward_flops_per_token(config) * tokens.numel()
    total = forward.get_total_flops() + backward.get_total_flops()
    assert total == training_flops_per_token(config) * tokens.numel()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as step:
        model(tokens, tokens).sum().backward()
    assert step.get_total_flops() == total
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as training:
        model(tokens, tokens, summed=True)[0].backward()
    assert training.get_total_flops() == total


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_parameters_equal_the_model(changes):
    config = dataclasses.replace(BASE, **changes)
    with torch.device("meta"):
        model = Transformer(config)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    count = count_parameters(config)
    assert count.total == sum(sizes.values())
    outside = {"embedding.weight", "output.weight", "position.weight"}
    assert count.non_embedding == sum(size for name, size in sizes.items() if name not in outside)


def test_6nd_is_the_count_without_embeddings_and_attention():
    config = dataclasses.replace(BASE, num_layers=400, vocab_size=2, context_tokens=1)
    assert approx_flops_6nd(config, 10) == pytest.approx(10 * training_flops_per_token(config), rel=0.02)
    assert approx_flops_6nd(config, 10) == 60 * count_parameters(config).non_embedding
