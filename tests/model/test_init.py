"""Initial weights: the table, and what they do not depend on."""

import dataclasses
import math

import torch

from workbench.config.schema import ModelConfig
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer

BASE = ModelConfig(
    name="test",
    num_layers=4,
    width=128,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=256,
    vocab_size=300,
    context_tokens=64,
)
LIKE_EMBEDDING = math.sqrt(2 / (5 * 128))
RESIDUAL = 1 / (math.sqrt(128) * 4)
TABLE = {
    "embedding.weight": LIKE_EMBEDDING,
    "position.weight": LIKE_EMBEDDING,
    "output.weight": LIKE_EMBEDDING,
    "attention.qkv.weight": LIKE_EMBEDDING,
    "attention.output.weight": RESIDUAL,
    "mlp.gate_up.weight": LIKE_EMBEDDING,
    "mlp.up.weight": LIKE_EMBEDDING,
    "mlp.down.weight": RESIDUAL,
}


def make_state(seed: int = 0, **changes) -> dict[str, torch.Tensor]:
    model = Transformer(dataclasses.replace(BASE, **changes))
    init_weights(model, seed)
    return model.state_dict()


def test_table():
    seen = set()
    for changes in ({}, {"mlp": "gelu", "position": "learned", "qk_norm": True}):
        for name, values in make_state(**changes).items():
            if "norm" in name:
                assert torch.equal(values, torch.ones_like(values)), name
                continue
            key = name.split(".", 2)[2] if name.startswith("blocks.") else name
            seen.add(key)
            assert abs(values.std().item() / TABLE[key] - 1) < 0.03, name
            assert abs(values.mean().item()) < 5 * TABLE[key] / math.sqrt(values.numel()), name
    assert seen == set(TABLE)


def test_seed_alone_decides():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make_state(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = make_state(seed=3), make_state(seed=4)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "norm" not in name)
    matrices = [values for name, values in first.items() if name.endswith("gate_up.weight")]
    assert not torch.equal(matrices[0], matrices[1])


def test_a_switch_leaves_other_tensors_as_they_were():
    base, ablated = make_state(), make_state(mlp="gelu", qk_norm=True, position="learned")
    assert "blocks.0.mlp.up.weight" in ablated
    shared = set(base) & set(ablated)
    assert len(shared) > 10
    assert all(torch.equal(base[name], ablated[name]) for name in shared)
