"""Muon beside AdamW: PyTorch's own arithmetic bit for bit, left out bit for bit, and what it cannot be."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from workbench.config.schema import ModelConfig, OptimizerConfig
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer
from workbench.train.muon import MuonWithAdamW, orthogonalise, rate_adjustment
from workbench.train.optimizer import (
    build_optimizer,
    empty_optimizer_tensors,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
    step_if_,
)

MODEL = ModelConfig(
    name="test", num_layers=2, width=32, num_heads=4, num_kv_heads=2, mlp_width=48, vocab_size=61, context_tokens=16
)
CONFIG = OptimizerConfig(kind="muon")
ROWS = {"attention.qkv": [32, 16, 16], "attention.output": [32], "mlp.gate_up": [48, 48], "mlp.up": [48]}
TRUE = torch.tensor(True)


def make_model(**changes):
    model = Transformer(replace(MODEL, **changes))
    init_weights(model, 0)
    return model


def give_gradients(model, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale


def parts_of(model):
    """Matrices of the blocks by name, fused ones divided, as tensors of their own; and everything else."""
    muon, rest = {}, {}
    for name, parameter in model.named_parameters():
        module = name.removesuffix(".weight").split(".", 2)[-1]
        if name.startswith("blocks.") and parameter.dim() == 2:
            rows = ROWS.get(module, [parameter.shape[0]])
            muon[name] = [nn.Parameter(part.detach().clone()) for part in parameter.split(rows)]
        else:
            rest[name] = nn.Parameter(parameter.detach().clone())
    return muon, rest


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjustment", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
def test_steps_are_pytorchs(nesterov, adjustment, mlp):
    """Its `Muon` over queries, keys, values, gate and up apart, and its `AdamW` over the rest."""
    model = make_model(mlp=mlp)
    config = replace(CONFIG, nesterov=nesterov, rate_adjustment=adjustment, momentum=0.9, ns_steps=4)
    ours, (muon, rest) = build_optimizer(model, config), parts_of(model)
    settings = {"momentum": 0.9, "nesterov": nesterov, "ns_steps": 4, "adjust_lr_fn": adjustment, "weight_decay": 0.1}
    theirs = torch.optim.Muon([part for parts in muon.values() for part in parts], lr=0.0, **settings)
    groups = [{"params": [p for p in rest.values() if (p.dim() >= 2) == decays]} for decays in (True, False)]
    groups[1]["weight_decay"] = 0.0
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
    for step in range(4):
        give_gradients(model, step)
        for name, parameter in model.named_parameters():
            if name in rest:
                rest[name].grad = parameter.grad.clone()
                continue
            for part, gradient in zip(muon[name], parameter.grad.split([len(p) for p in muon[name]]), strict=True):
                part.grad = gradient.clone()
        set_learning_rate(ours, 0.01 * (step + 1))
        for group in (*theirs.param_groups, *adamw.param_groups):
            group["lr"] = 0.01 * (step + 1)
        for optimizer in (ours, theirs, adamw):
            optimizer.step()
        for name, parameter in model.named_parameters():
            expected = rest[name] if name in rest else torch.cat(list(muon[name]))
            assert torch.equal(parameter, expected), (step, name)


def test_what_muon_takes_and_what_is_left():
    model = make_model(
        position="learned", qk_norm=True, attention_bias="all", mlp_bias=True, norm="layernorm", norm_bias=True
    )
    optimizer = build_optimizer(model, CONFIG)
    taken = {name for name, parameter in model.named_parameters() if parameter in optimizer.matrices}
    names = ("attention.qkv", "attention.output", "mlp.gate_up", "mlp.down")
    assert taken == {f"blocks.{i}.{name}.weight" for i in range(2) for name in names}
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(everything) == len(set(everything)) == len(list(model.parameters()))


def test_singular_values_come_near_one():
    """Of wide and tall matrices; by Jordan's coefficients they end between 0.7 and 1.2, and bf16 adds to that."""
    for shape in ((24, 60), (60, 24), (40, 40)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalise(matrix, 5).float())
        assert 0.5 < values.min() < values.max() < 1.3
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        assert (
            torch.nn.functional.cosine_similarity(orthogonalise(matrix, 5).float().flatten(), (u @ v).flatten(), 0)
            > 0.97
        )


def test_matched_updates_are_as_large_as_adamws():
    for shape in (torch.Size((32, 128)), torch.Size((128, 32))):
        update = orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0)), 5)
        root = update.float().square().mean().sqrt() * rate_adjustment(shape, "match_rms_adamw")
        assert 0.15 < root < 0.25
    assert rate_adjustment(torch.Size((128, 32)), "original") == 2
    assert rate_adjustment(torch.Size((32, 128)), "original") == 1


def state_of(model, optimizer):
    tensors = {**dict(model.named_parameters()), **optimizer_tensors(model, optimizer)}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize("scale", [1.0, math.nan, math.inf])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_what_is_left_out_changes_no_bit(scale, steps_before):
    skipping, untouched = make_model(), make_model()
    optimizers = [build_optimizer(model, CONFIG) for model in (skipping, untouched)]
    for step in range(steps_before):
        for model, optimizer in zip((skipping, untouched), optimizers, strict=True):
            give_gradients(model, step)
            set_learning_rate(optimizer, 0.01)
            step_if_(optimizer, TRUE)
    before = state_of(skipping, optimizers[0])
    give_gradients(skipping, 99, scale)
    set_learning_rate(optimizers[0], 0.01)
    step_if_(optimizers[0], ~TRUE)
    after = state_of(skipping, optimizers[0])
    assert_equal({name: after[name] for name in before}, before)
    assert all(not after[name].any() for name in after.keys() - before.keys())
    for model, optimizer in zip((skipping, untouched), optimizers, strict=True):
        give_gradients(model, 7)
        set_learning_rate(optimizer, 0.01)
        step_if_(optimizer, TRUE)
    assert_equal(state_of(skipping, optimizers[0]), state_of(untouched, optimizers[1]))


def test_its_state_goes_through_named_tensors():
    model, again = make_model(), make_model()
    first, second = build_optimizer(model, CONFIG), build_optimizer(again, CONFIG)
    give_gradients(model, 0)
    set_learning_rate(first, 0.01)
    first.step()
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(model, first).items()}
    assert {name.rpartition("/")[2] for name in tensors if name.startswith("blocks.0.mlp.down")} == {"momentum_buffer"}
    empty = empty_optimizer_tensors(again, second)
    assert {name: tensor.shape for name, tensor in empty.items()} == {n: t.shape for n, t in tensors.items()}
    again.load_state_dict(model.state_dict())
    restore_optimizer(again, second, tensors)
    for which, optimizer in ((model, first), (again, second)):
        give_gradients(which, 1)
        set_learning_rate(optimizer, 0.02)
        optimizer.step()
    assert_equal(state_of(again, second), state_of(model, first))
    with pytest.raises(ValueError, match="optimizer state does not fit the model"):
        restore_optimizer(again, build_optimizer(again, OptimizerConfig()), tensors)


def test_shares_of_matrices_are_refused():
    from workbench.train.sharding import _shard

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        model = make_model()
        _shard(model, init_device_mesh("cpu", (2,)), "fp32")
        with pytest.raises(ValueError, match=r"optimizer\.kind='muon' needs whole matrices"):
            build_optimizer(model, CONFIG)
    finally:
        torch.distributed.destroy_process_group()


def test_sharding_is_refused_before_anything_is_prepared(compose):
    settings = ["optimizer=muon", "optimizer.learning_rate=0.01", "numerics.parallel=shard"]
    with pytest.raises(ValueError, match=r"optimizer\.kind='muon' needs whole matrices.*numerics\.parallel=replicate"):
        compose(settings)
    [(_, config)] = compose(settings[:2])
    assert config.optimizer.kind == "muon"
    assert isinstance(build_optimizer(make_model(), config.optimizer), MuonWithAdamW)


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "lion"), ("momentum", 1.0), ("momentum", -0.1), ("ns_steps", 0), ("rate_adjustment", "none")],
)
def test_what_is_impossible_is_refused(field, value):
    with pytest.raises(ValueError, match=rf"optimizer\.{field}={value!r}"):
        replace(CONFIG, **{field: value})
