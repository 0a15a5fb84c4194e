"""The decoder: shapes, causality, switches, precision and compilation."""

import dataclasses
import shutil

import pytest
import torch
from torch.nn import functional as F

from workbench.config.schema import ModelConfig, RopeScaling
from workbench.model.init import init_weights
from workbench.model.rope import rope_table, rotate
from workbench.model.transformer import Transformer, loss_per_token

BASE = ModelConfig(
    name="test",
    num_layers=2,
    width=32,
    num_heads=4,
    num_kv_heads=4,
    mlp_width=48,
    vocab_size=61,
    context_tokens=24,
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
    {"attention_bias": "qkv", "num_kv_heads": 2},
    {"attention_bias": "all", "mlp_bias": True},
    {"norm": "layernorm", "norm_bias": True, "mlp": "gelu", "mlp_bias": True},
    {"parallel_residual": True},
    {"rotary_share": 0.5},
    {"rope_scaling": RopeScaling("linear", 4.0)},
    {"rope_scaling": RopeScaling("ntk", 4.0)},
    {"rope_scaling": RopeScaling("llama3", 4.0, 12)},
    {"rope_scaling": RopeScaling("yarn", 4.0, 12)},
    {"qk_norm": True, "num_kv_heads": 2},
    {"parametrisation": "complete_p", "base_width": 16, "base_head_width": 4, "base_layers": 1},
)


def make_model(seed: int = 0, **changes) -> Transformer:
    model = Transformer(dataclasses.replace(BASE, **changes))
    init_weights(model, seed)
    for name, parameter in model.named_parameters():  # zeros would hide them
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0, 0.2, generator=torch.Generator().manual_seed(seed))
    return model


def random_tokens(count: int = 2, tokens: int = 24) -> torch.Tensor:
    return torch.randint(0, BASE.vocab_size, (count, tokens), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_no_token_sees_a_later_one(changes):
    model, tokens = make_model(**changes), random_tokens()
    changed = tokens.clone()
    changed[:, 15] = (changed[:, 15] + 1) % BASE.vocab_size
    before, after = model(tokens), model(changed)
    assert before.shape == (2, 24, BASE.vocab_size)
    torch.testing.assert_close(before[:, :15], after[:, :15])
    assert (before[:, 15:] - after[:, 15:]).abs().amax(-1).min() > 1e-5
    torch.testing.assert_close(model(tokens[:, :9]), before[:, :9])  # a shorter text is a prefix


@pytest.mark.parametrize("changes", SWITCHES[1:], ids=str)
def test_every_switch_changes_the_model(changes):
    assert not torch.allclose(make_model(**changes)(random_tokens()), make_model()(random_tokens()), atol=1e-4)


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_every_parameter_gets_a_gradient(changes):
    model = make_model(**changes)
    loss_per_token(model, random_tokens()).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_grouped_queries_equal_repeated_keys_and_values():
    grouped, full = make_model(num_kv_heads=2), make_model()
    state = grouped.state_dict()
    for i in range(BASE.num_layers):
        name = f"blocks.{i}.attention.qkv.weight"
        q, k, v = state[name].split([32, 16, 16])
        k, v = (x.view(2, 8, 32).repeat_interleave(2, dim=0).flatten(0, 1) for x in (k, v))
        state[name] = torch.cat((q, k, v))
    full.load_state_dict(state)
    torch.testing.assert_close(grouped(random_tokens()), full(random_tokens()))


def test_loss_per_token_is_the_cross_entropy_of_the_next_token():
    model, tokens = make_model(), random_tokens(tokens=25)
    logits = model(tokens[:, :-1])
    expected = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(2, 24)
    torch.testing.assert_close(loss_per_token(model, tokens), expected)
    torch.testing.assert_close(model.head(model.hidden(tokens[:, :-1])), logits)


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_bf16_autocast_stays_near_fp32(changes):
    model, tokens = make_model(**changes), random_tokens(tokens=25)
    exact = loss_per_token(model, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss_per_token(model, tokens)
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.05
    gradients = [torch.autograd.grad(loss.mean(), list(model.parameters())) for loss in (exact, rounded)]
    for a, b in zip(*gradients, strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert (a - b).norm() < 0.05 * a.norm()


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("changes", [{}, SWITCHES[-1]], ids=str)
def test_activation_checkpointing_changes_memory_and_no_bit(changes, bf16):
    plain, frugal = make_model(**changes), make_model(**changes)
    frugal.activation_checkpointing = True
    kept, gradients = {}, {}
    for name, model in (("plain", plain), ("frugal", frugal)):
        saved = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_per_token(model, random_tokens(tokens=25)).mean()
        parameters = {parameter.data_ptr() for parameter in model.parameters()}
        tensors = {t.data_ptr(): t.untyped_storage().nbytes() for t in saved if t.data_ptr() not in parameters}
        kept[name], gradients[name] = sum(tensors.values()), torch.autograd.grad(loss, list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*gradients.values(), strict=True))
    assert kept["frugal"] < 0.5 * kept["plain"]


def test_uninitialised_weights_are_nan():
    assert torch.isnan(Transformer(BASE)(random_tokens())).all()


def test_too_long_sequences_are_refused():
    with pytest.raises(ValueError, match=r"25 tokens exceed model\.context_tokens=24"):
        make_model()(random_tokens(tokens=25))


def test_meta_model_becomes_the_same_model():
    with torch.device("meta"):
        model = Transformer(BASE)
    with pytest.raises(ValueError, match="to_empty"):
        init_weights(model, 0)
    model.to_empty(device="cpu")
    init_weights(model, 0)
    assert torch.equal(model(random_tokens()), make_model()(random_tokens()))


def test_rotation_depends_on_the_distance_alone():
    rope = rope_table(24, 8, 100.0)
    q, k = torch.randn(8), torch.randn(8)
    turned_q, turned_k = (rotate(x.expand(1, 24, 1, 8), rope)[0, :, 0] for x in (q, k))
    scores = turned_q @ turned_k.T
    for distance in (0, 3, -5):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    assert scores.diagonal(3)[0] != pytest.approx(scores.diagonal(0)[0].item())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # Inductor's own
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_equals_eager(precision):
    model, tokens = make_model(), random_tokens(tokens=25)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        eager, compiled = loss_per_token(model, tokens), loss_per_token(torch.compile(model, fullgraph=True), tokens)
    tolerance = 1e-5 if precision == "fp32" else 0.02
    torch.testing.assert_close(eager, compiled, rtol=0, atol=tolerance)
    for a, b in zip(
        *(torch.autograd.grad(loss.mean(), list(model.parameters())) for loss in (eager, compiled)), strict=True
    ):
        assert (a - b).norm() <= tolerance * max(1.0, float(a.norm()))
