"""Groups of parameters: their rates, decay and epsilon, and the two couplings of decay to the rate."""

from dataclasses import replace

import pytest
import torch

from workbench.config.schema import ModelConfig, OptimizerConfig
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer
from workbench.train.optimizer import build_optimizer, set_learning_rate

MODEL = ModelConfig(
    name="test",
    num_layers=4,
    width=64,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=96,
    vocab_size=61,
    context_tokens=16,
    base_width=32,
    base_layers=2,
)
PEAK = 0.02
PARAMETRISATIONS = ("standard", "mup", "complete_p")
HIDDEN, EMBEDDING, GAIN = "blocks.1.mlp.down.weight", "embedding.weight", "blocks.1.mlp_norm.weight"
INDEPENDENT = OptimizerConfig(decay_coupling="independent", weight_decay=1e-3)


def make_model(parametrisation="standard"):
    model = Transformer(replace(MODEL, parametrisation=parametrisation))
    init_weights(model, 0)
    return model


def settings_of(optimizer, parameter):
    [group] = [group for group in optimizer.param_groups if any(parameter is p for p in group["params"])]
    return group


def adamw_step(weights, gradient, moments, step, *, rate, decay, eps, beta1=0.9, beta2=0.95):
    """One step as Loshchilov & Hutter write it, in fp64; `decay` is the share that goes."""
    first, second = moments
    first.mul_(beta1).add_(gradient * (1 - beta1))
    second.mul_(beta2).add_(gradient**2 * (1 - beta2))
    corrected = first / (1 - beta1**step), (second / (1 - beta2**step)).sqrt()
    return weights * (1 - decay) - rate * corrected[0] / (corrected[1] + eps)


EXPECTED = {
    # rate, share that decays by rate (coupled), epsilon: of hidden matrices, embedding, gains within blocks
    "standard": {HIDDEN: (1, 0.1, 1e-3), EMBEDDING: (1, 0.1, 1e-3), GAIN: (1, 0, 1e-3)},
    "mup": {HIDDEN: (1 / 2, 0.1, 1e-3), EMBEDDING: (1, 0.1, 1e-3), GAIN: (1, 0, 1e-3)},
    "complete_p": {HIDDEN: (1 / 2, 0.2, 1e-3 / 4), EMBEDDING: (1, 0.1, 1e-3 / 2), GAIN: (1, 0, 1e-3 / 4)},
}


@pytest.mark.parametrize("coupling", ["learning_rate", "independent"])
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_steps_are_the_equations(parametrisation, coupling):
    """Over a rate that rises to its peak and falls; with an epsilon that counts."""
    model = make_model(parametrisation)
    config = OptimizerConfig(eps=1e-3, decay_coupling=coupling)
    optimizer = build_optimizer(model, config, PEAK)
    ours = {name: p for name, p in model.named_parameters() if name in EXPECTED[parametrisation]}
    theirs = {name: p.detach().double() for name, p in ours.items()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in theirs.items()}
    generator = torch.Generator().manual_seed(0)
    for step, rate in enumerate((PEAK / 2, PEAK, PEAK, PEAK / 10), 1):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3
        for name, (factor, coupled, eps) in EXPECTED[parametrisation].items():
            decay = coupled * rate * factor if coupling == "learning_rate" else (coupled > 0) * 0.1 * rate / PEAK
            theirs[name] = adamw_step(
                theirs[name], ours[name].grad.double(), moments[name], step, rate=rate * factor, decay=decay, eps=eps
            )
        set_learning_rate(optimizer, rate)
        optimizer.step()
        for name, parameter in ours.items():
            torch.testing.assert_close(parameter.double(), theirs[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_independent_decay_depends_on_no_rate(kind, parametrisation):
    """Without gradients weights shrink by the schedule's shape alone, whatever the peak and the group."""
    for peak in (1e-3, 0.5):
        model = make_model(parametrisation)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer = build_optimizer(model, replace(INDEPENDENT, kind=kind), peak)
        for shape in (0.5, 1.0, 0.1):
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            set_learning_rate(optimizer, peak * shape)
            optimizer.step()
        left = (1 - 0.5e-3) * (1 - 1e-3) * (1 - 0.1e-3)
        for name, parameter in model.named_parameters():
            expected = before[name] * (left if parameter.dim() >= 2 else 1)
            torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-7)


def test_standard_has_the_two_groups_that_it_always_had():
    model = make_model()
    optimizer = build_optimizer(model, OptimizerConfig())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert {group["eps"] for group in optimizer.param_groups} == {1e-8}
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in model.parameters() if p.dim() >= 2}


def test_set_learning_rate_keeps_the_ratios():
    model = make_model("mup")
    optimizer = build_optimizer(model, OptimizerConfig())
    set_learning_rate(optimizer, 0.01)
    names = dict(model.named_parameters())
    assert settings_of(optimizer, names[HIDDEN])["lr"] == 0.005
    assert settings_of(optimizer, names[EMBEDDING])["lr"] == settings_of(optimizer, names[GAIN])["lr"] == 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay_coupling": "none"}, r"optimizer\.decay_coupling='none' is not one of"),
        ({"decay_coupling": "independent", "weight_decay": 1.5}, r"optimizer\.weight_decay=1\.5 must be below 1"),
        ({"z_loss": -1e-4}, r"optimizer\.z_loss=-0\.0001"),
    ],
)
def test_what_is_impossible_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**changes)
