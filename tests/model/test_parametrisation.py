"""Multipliers and factors of the parametrisations against their table, written out a second time."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from workbench.config.schema import ModelConfig, OptimizerConfig
from workbench.model.attention import attend
from workbench.model.families import LLAMA, family_of
from workbench.model.init import init_weights, initial_std
from workbench.model.parametrisation import decay_factor, eps_factor, rate_factor
from workbench.model.transformer import Transformer, loss_per_token

BASE = ModelConfig(
    name="test", num_layers=2, width=32, num_heads=4, num_kv_heads=2, mlp_width=64, vocab_size=61, context_tokens=24
)
LARGE = replace(
    BASE,
    num_layers=6,
    width=128,
    num_heads=8,
    num_kv_heads=2,
    mlp_width=256,
    base_width=32,
    base_head_width=8,
    base_layers=2,
)
"""Four times the base's width, twice its heads' and three times its depth."""
MUP, COMPLETE_P = (replace(LARGE, parametrisation=name) for name in ("mup", "complete_p"))
ADAMW, MUON = OptimizerConfig(), OptimizerConfig(kind="muon")
EMBEDDING, QKV, DOWN, GAIN = (
    "embedding.weight",
    "blocks.1.attention.qkv.weight",
    "blocks.1.mlp.down.weight",
    "blocks.0.mlp_norm.weight",
)
AT_BASE, AT_WIDTH = math.sqrt(2 / (5 * 32)), math.sqrt(2 / (5 * 128))
TOKENS = torch.randint(0, 61, (2, 24), generator=torch.Generator().manual_seed(1))


def make_model(config, seed=0):
    model = Transformer(config)
    init_weights(model, seed)
    return model.eval()


def reference_logits(model, branch, scores, logits):
    """`Transformer` of LARGE's switches, in plain operations and with the multipliers given."""
    config, state = model.config, model.state_dict()
    x, gqa = state["embedding.weight"][TOKENS], config.num_heads // config.num_kv_heads
    future = torch.ones(24, 24).triu(1).bool()

    def norm(x, name):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + config.norm_eps) * state[name]

    def rotated(x):
        angles = torch.arange(24)[:, None] * config.rope_theta ** -(torch.arange(0, 16, 2) / 16)
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        return x * cos + torch.cat((-x[..., 8:], x[..., :8]), -1) * sin

    for i in range(config.num_layers):
        block = f"blocks.{i}."
        heads = norm(x, block + "attention_norm.weight") @ state[block + "attention.qkv.weight"].T
        q, k, v = (part.unflatten(-1, (-1, 16)).transpose(1, 2) for part in heads.split([128, 32, 32], -1))
        q, k, v = rotated(q), rotated(k).repeat_interleave(gqa, 1), v.repeat_interleave(gqa, 1)
        seen = (q @ k.transpose(2, 3) * scores).masked_fill(future, -math.inf).softmax(-1) @ v
        x = x + branch * seen.transpose(1, 2).flatten(2) @ state[block + "attention.output.weight"].T
        gate, up = (norm(x, block + "mlp_norm.weight") @ state[block + "mlp.gate_up.weight"].T).chunk(2, -1)
        x = x + branch * (F.silu(gate) * up) @ state[block + "mlp.down.weight"].T
    head = state["embedding.weight" if config.tie_embeddings else "output.weight"]
    return logits * norm(x, "norm.weight") @ head.T


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize(
    ("config", "multipliers"),
    [
        (LARGE, (1.0, 1 / math.sqrt(16), 1.0)),
        (MUP, (1.0, math.sqrt(8) / 16, 1 / 4)),
        (COMPLETE_P, (1 / 3, math.sqrt(8) / 16, 1 / 4)),
    ],
    ids=["standard", "mup", "complete_p"],
)
def test_the_model_is_its_equation(config, multipliers, tie):
    model = make_model(replace(config, tie_embeddings=tie))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if not name.endswith("norm.weight"):
                weights.mul_(4)  # so that each multiplier shows
        got, expected = model(TOKENS), reference_logits(model, *multipliers)
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    losses = loss_per_token(model, TOKENS)
    expected = F.cross_entropy(expected[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten(), reduction="none").view(2, 23)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)


def test_parallel_branches_are_multiplied_too():
    model = make_model(replace(COMPLETE_P, parallel_residual=True, num_layers=1, base_layers=2))
    block, x = model.blocks[0], torch.randn(1, 24, 128, generator=torch.Generator().manual_seed(0))
    expected = x + 2 * (block.attention(block.attention_norm(x), model.rope, None) + block.mlp(block.mlp_norm(x)))
    torch.testing.assert_close(block(x, model.rope), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_scaled_by_every_kernel(dtype):
    q, k, v = torch.randn(3, 2, 9, 4, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = attend(q * 0.5, k, v, "sdpa")
    torch.testing.assert_close(attend(q, k, v, "sdpa", None, 0.5 * 8**-0.5), expected)


@pytest.mark.parametrize("name", ["mup", "complete_p"])
@pytest.mark.parametrize("head", [None, 8], ids=["own heads", "base's heads"])
@pytest.mark.parametrize("tie", [False, True])
def test_at_the_base_it_is_standard_bit_for_bit(name, head, tie):
    bases = {"base_width": 32, "base_head_width": head, "base_layers": 2}
    standard = replace(BASE, tie_embeddings=tie)
    ours, theirs = make_model(replace(standard, parametrisation=name, **bases)), make_model(standard)
    assert torch.equal(ours(TOKENS), theirs(TOKENS))
    for key, values in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], values), key
        for optimizer in (ADAMW, MUON):
            assert rate_factor(key, ours.config, optimizer) == decay_factor(key, ours.config, optimizer) == 1
        assert eps_factor(key, ours.config) == 1


@pytest.mark.parametrize(
    ("config", "stds"),
    [
        (LARGE, (AT_WIDTH, AT_WIDTH, AT_WIDTH, 1 / (math.sqrt(128) * 6))),
        (MUP, (AT_BASE, AT_BASE, AT_BASE / 2, 1 / (math.sqrt(32) * 6) / 2)),
        (COMPLETE_P, (AT_BASE, AT_BASE, AT_BASE / 2, 1 / (math.sqrt(32) * 2) / 2)),
    ],
    ids=["standard", "mup", "complete_p"],
)
def test_initial_values(config, stds):
    names = ("embedding.weight", "output.weight", QKV, DOWN)
    assert [initial_std(name, config) for name in names] == pytest.approx(stds)
    assert initial_std("position.weight", config) == pytest.approx(stds[0])
    assert (initial_std(GAIN, config), initial_std("blocks.0.mlp.down.bias", config)) == (None, 0.0)
    assert make_model(config).blocks[1].mlp.down.weight.std().item() == pytest.approx(stds[3], rel=0.03)


def factors(config, optimizer):
    """Rate, decay and epsilon of hidden matrices, gains of blocks, embedding and last norm."""
    return [
        (rate_factor(name, config, optimizer), decay_factor(name, config, optimizer), eps_factor(name, config))
        for name in (QKV, GAIN, EMBEDDING, "norm.weight")
    ]


def test_factors_of_the_optimizer():
    assert factors(LARGE, ADAMW) == factors(LARGE, MUON) == [(1, 1, 1)] * 4
    assert factors(MUP, ADAMW) == [(1 / 4, 1, 1)] + [(1, 1, 1)] * 3
    assert factors(COMPLETE_P, ADAMW) == [(1 / 4, 4, 1 / 12), (1, 1, 1 / 12), (1, 1, 1 / 4), (1, 1, 1 / 4)]
    assert factors(MUP, MUON)[0] == (1 / 2, 1, 1)
    assert factors(COMPLETE_P, MUON)[0] == (1 / 2, 2, 1 / 12)
    assert factors(COMPLETE_P, replace(MUON, rate_adjustment="original"))[0] == (1, 1, 1 / 12)


def test_a_family_represents_weights_without_multipliers_alone():
    assert family_of(LARGE) is LLAMA
    assert family_of(MUP) is family_of(COMPLETE_P) is None
    assert family_of(replace(MUP, base_width=128, base_head_width=16)) is LLAMA
    assert family_of(replace(COMPLETE_P, base_width=128, base_head_width=16)) is None
    assert family_of(replace(MUP, base_width=128)) is None  # of the heads' width


@pytest.mark.parametrize(
    ("field", "value"), [("parametrisation", "ntk"), ("base_width", 0), ("base_head_width", 0), ("base_layers", -1)]
)
def test_what_is_impossible_is_refused(field, value):
    with pytest.raises(ValueError, match=rf"model\.{field}={value!r}"):
        replace(BASE, **{field: value})
