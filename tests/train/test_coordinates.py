"""Coordinate checks: what a block gives to the residual stream after ten steps does not depend on the model's shape.

Of `mup` that is said of the width, of `complete_p` of the depth; `standard`, trained at the same rate, shows that the
check can fail. Tensor Programs V (arXiv:2203.03466) has it in appendix D.1.
"""

from functools import partial

import pytest
import torch

from workbench.config.schema import ModelConfig, OptimizerConfig
from workbench.model.batch import Batch
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer, summed_loss
from workbench.train.optimizer import build_optimizer
from workbench.train.step import train_step

STEPS, SEEDS, VOCABULARY, CONTEXT = 10, 2, 128, 32
FLAT = 0.1
"""Most that a size may differ from the smallest, in shares of it."""
RATES = {"adamw": {"width": 0.003, "depth": 0.0005}, "muon": {"width": 0.006, "depth": 0.006}}
"""Low enough that ten steps change the stream by about its size; at higher rates the smallest size is still apart."""
GENERATOR = torch.Generator().manual_seed(0)
TOKENS = torch.multinomial(1 / (1 + torch.arange(VOCABULARY)), 8 * (CONTEXT + 1), True, generator=GENERATOR)
BATCH = Batch(TOKENS.view(8, CONTEXT + 1))


def make_config(parametrisation, width, layers, base_layers):
    return ModelConfig(
        name="test",
        num_layers=layers,
        width=width,
        num_heads=width // 16,
        num_kv_heads=width // 16,
        mlp_width=2 * width,
        vocab_size=VOCABULARY,
        context_tokens=CONTEXT,
        parametrisation=parametrisation,
        base_width=64,
        base_layers=base_layers,
    )


def sizes_after_training(config, kind, rate, silent=False):
    """Mean size of the residual stream after each block, over tokens, features and seeds."""
    sizes = torch.zeros(config.num_layers)
    for seed in range(SEEDS):
        model = Transformer(config)
        init_weights(model, seed)
        if silent:
            silence(model)
        optimizer = build_optimizer(model, OptimizerConfig(kind=kind, weight_decay=0.0))
        settings = {"learning_rate": rate, "clip_norm": 1e9, "precision": "fp32", "num_sources": 1}
        for _ in range(STEPS):
            sources = torch.zeros(8, dtype=torch.int64)
            train_step(model, partial(summed_loss, model), optimizer, BATCH, sources, **settings)
        streams = []
        for block in model.blocks:
            block.register_forward_hook(lambda _block, _inputs, stream, into=streams: into.append(stream))
        with torch.no_grad():
            model(BATCH.tokens[:, :-1])
        sizes += torch.stack([stream.abs().mean() for stream in streams]) / SEEDS
    return sizes


def silence(model):
    """Begin with blocks that add nothing.

    What their initial values add is independent between blocks and shrinks as 1 / sqrt(layers), under `standard` as
    under `complete_p`; at few layers it would hide what was learnt.
    """
    with torch.no_grad():
        for block in model.blocks:
            block.attention.output.weight.zero_()
            block.mlp.down.weight.zero_()


def largest_drift(sizes):
    """Largest difference from the first, in shares of it."""
    return max(float((size / sizes[0] - 1).abs().max()) for size in sizes[1:])


def drift_with_width(parametrisation, kind):
    configs = [make_config(parametrisation, width, 2, 2) for width in (64, 128, 256, 512)]
    return largest_drift([sizes_after_training(config, kind, RATES[kind]["width"]) for config in configs])


def drift_with_depth(parametrisation, kind):
    """Of the stream at half the depth and at its end.

    At 2, 4 and 8 layers, what is of the order of 1 / layers still makes 10 to 20% under `complete_p`.
    """
    configs = [make_config(parametrisation, 64, layers, 8) for layers in (8, 16, 32)]
    sizes = [sizes_after_training(config, kind, RATES[kind]["depth"], silent=True) for config in configs]
    return largest_drift([torch.stack((size[len(size) // 2 - 1], size[-1])) for size in sizes])


@pytest.mark.parametrize("kind", RATES)
def test_mup_is_flat_in_the_width(kind):
    assert drift_with_width("mup", kind) < FLAT


@pytest.mark.parametrize("kind", RATES)
def test_standard_is_not_flat_in_the_width(kind):
    assert drift_with_width("standard", kind) > 5 * FLAT


@pytest.mark.parametrize("kind", RATES)
def test_complete_p_is_flat_in_the_depth(kind):
    assert drift_with_depth("complete_p", kind) < FLAT


@pytest.mark.parametrize("parametrisation", ["standard", "mup"])
@pytest.mark.parametrize("kind", RATES)
def test_nothing_else_is_flat_in_the_depth(kind, parametrisation):
    assert drift_with_depth(parametrisation, kind) > 3 * FLAT
