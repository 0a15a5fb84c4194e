"""Coordinate checks: after ten steps neither the residual stream nor the logits depend on the model's shape.

Of `mup` that is said of the width, in more heads or in wider ones, of `complete_p` of the depth and of width and depth
together; `standard`, trained at the same rate, shows that the check can fail. Tensor Programs V (arXiv:2203.03466) has it
in appendix D.1.
"""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch

from workbench.config.schema import ModelConfig, OptimizerConfig
from workbench.model import transformer
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


@pytest.fixture(autouse=True)
def matrices_are_orthogonalised_in_fp32(monkeypatch):
    """Processors without instructions for bf16 take 7 times as long for its products, whose rounding changes no law of sizes.

    `test_muon.py` compares the updates in bf16 with PyTorch's.
    """
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)


def make_config(parametrisation, width, layers, base_layers, heads=None):
    """Heads are 16 wide, as the base's are, unless their number is given."""
    return ModelConfig(
        name="test",
        num_layers=layers,
        width=width,
        num_heads=heads or width // 16,
        num_kv_heads=heads or width // 16,
        mlp_width=2 * width,
        vocab_size=VOCABULARY,
        context_tokens=CONTEXT,
        parametrisation=parametrisation,
        base_width=64,
        base_head_width=16,
        base_layers=base_layers,
    )


def make_model(config, seed):
    model = Transformer(config)
    init_weights(model, seed)
    return model


def train(model, kind, rate, steps=STEPS):
    optimizer = build_optimizer(model, OptimizerConfig(kind=kind, weight_decay=0.0))
    settings = {"learning_rate": rate, "clip_norm": 1e9, "precision": "fp32", "num_sources": 1}
    for _ in range(steps):
        sources = torch.zeros(8, dtype=torch.int64)
        train_step(model, partial(summed_loss, model), optimizer, BATCH, sources, **settings)


def stream_sizes(config, kind, rate, silent=False):
    """Mean size of the residual stream after each block, over tokens, features and seeds."""
    sizes = torch.zeros(config.num_layers)
    for seed in range(SEEDS):
        model, streams = make_model(config, seed), []
        if silent:
            silence(model)
        train(model, kind, rate)
        for block in model.blocks:
            block.register_forward_hook(lambda _block, _inputs, stream, into=streams: into.append(stream))
        with torch.no_grad():
            model(BATCH.tokens[:, :-1])
        sizes += torch.stack([stream.abs().mean() for stream in streams]) / SEEDS
    return sizes


@torch.no_grad()
def logit_size(model):
    return model(BATCH.tokens[:, :-1]).abs().mean()


def learnt_logit_size(config, kind, rate):
    """Mean size of what ten steps made of the logits of a head that begins at zero.

    A random head gives logits that fall as 1 / sqrt(m) (`test_logits_begin_smaller_in_wider_models`), and takes as long to
    be outgrown: at these widths they would hide that what is learnt does not depend on the width. Tensor Programs V,
    appendix D.2, begins the head at zero for that reason.
    """
    size = torch.zeros(1)
    for seed in range(SEEDS):
        model = make_model(config, seed)
        with torch.no_grad():
            model.output.weight.zero_()
        train(model, kind, rate)
        size += logit_size(model) / SEEDS
    return size


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


def drift_with_width(parametrisation, kind, measure, heads=None):
    configs = [make_config(parametrisation, width, 2, 2, heads) for width in (64, 128, 256, 512)]
    return largest_drift([measure(config, kind, RATES[kind]["width"]) for config in configs])


def drift_with_depth(parametrisation, kind):
    """Of the stream at half the depth and at its end, that is of all that the blocks before have learnt together.

    Not of one block, whose part is to fall as 1 / layers, and not of what initial values add (`silence`).

    At 2, 4 and 8 layers, what is of the order of 1 / layers still makes 10 to 20% under `complete_p`.
    """
    configs = [make_config(parametrisation, 64, layers, 8) for layers in (8, 16, 32)]
    return drift_of_halves(configs, kind)


def drift_of_halves(configs, kind):
    sizes = [stream_sizes(config, kind, RATES[kind]["depth"], silent=True) for config in configs]
    return largest_drift([torch.stack((size[len(size) // 2 - 1], size[-1])) for size in sizes])


def drift_with_both(parametrisation, kind):
    """Of the same two where the width doubles and the depth grows fourfold."""
    shapes = ((64, 8), (128, 32))
    return drift_of_halves([make_config(parametrisation, width, layers, 8) for width, layers in shapes], kind)


@pytest.mark.parametrize("measure", [stream_sizes, learnt_logit_size])
@pytest.mark.parametrize("heads", [None, 4], ids=["more heads", "wider heads"])
@pytest.mark.parametrize("kind", RATES)
def test_mup_is_flat_in_the_width(kind, heads, measure):
    assert drift_with_width("mup", kind, measure, heads) < FLAT


@pytest.mark.parametrize("measure", [stream_sizes, learnt_logit_size])
@pytest.mark.parametrize("kind", RATES)
def test_standard_is_not_flat_in_the_width(kind, measure):
    assert drift_with_width("standard", kind, measure) > 5 * FLAT


def test_logits_begin_smaller_in_wider_models():
    """As 1 / sqrt(m), by table 8: initial values of variance 1, a multiplier of 1 / m."""
    widths = (64, 128, 256, 512)
    models = [make_model(make_config("mup", width, 2, 2), seed=0) for width in widths]
    begun = [logit_size(model) * math.sqrt(width) for model, width in zip(models, widths, strict=True)]
    assert largest_drift(begun) < FLAT


def plain_attention(kept):
    """Give attention in plain operations, which puts its scores into `kept` and has them keep their gradients."""

    def attend(q, k, v, _backend, _mask, scale):
        scores = torch.einsum("bthk,bshk->bhts", q, k) * (scale or q.shape[-1] ** -0.5)
        scores.retain_grad()
        kept.append(scores)
        future = torch.ones(scores.shape[-2:]).triu(1).bool()
        return torch.einsum("bhts,bshk->bthk", scores.masked_fill(future, -math.inf).softmax(-1), v)

    return attend


def scores_and_gradients(model, monkeypatch):
    kept = []
    with monkeypatch.context() as patch:
        patch.setattr(transformer, "attend", plain_attention(kept))
        summed_loss(model, BATCH)[0].backward()
    model.zero_grad()
    return [scores.detach() for scores in kept], [scores.grad for scores in kept]


def learnt_scores(config, kind, monkeypatch):
    """By layer, how far one step moves attention's scores in the direction in which the loss falls."""
    moves = torch.zeros(config.num_layers)
    for seed in range(SEEDS):
        model = make_model(config, seed)
        before, gradients = scores_and_gradients(model, monkeypatch)
        train(model, kind, RATES[kind]["width"], steps=1)
        after, _ = scores_and_gradients(model, monkeypatch)
        each = zip(before, after, gradients, strict=True)
        moves += torch.stack([((b - a) * g).sum() / g.abs().sum() for b, a, g in each]) / SEEDS
    return moves


@pytest.mark.parametrize("kind", RATES)
def test_what_scores_learn_does_not_grow_with_the_heads_width(kind, monkeypatch):
    """Under 1 / K it tends to a limit from above, and under 1 / sqrt(K) it grows as sqrt(K).

    What queries and keys have in common by chance is of the order of 1 / sqrt(K) beside the limit, and at heads 16 to 128
    wide still makes a third, so that this is not flat within 10%. More than half is left at eight times the width, where
    any smaller scale than 1 / K would leave less.
    """
    configs = [make_config("mup", width, 2, 2, heads=4) for width in (64, 128, 256, 512)]
    first, *_, last = moves = [learnt_scores(config, kind, monkeypatch) for config in configs]
    growth = torch.stack([wider / narrower for narrower, wider in pairwise(moves)])
    assert growth.max() < 1 + FLAT
    assert (last / first).min() > 0.5
    usual = [replace(config, base_head_width=config.head_width) for config in configs]
    moves = [learnt_scores(config, kind, monkeypatch) for config in usual]
    assert (moves[-1] / moves[0]).min() > 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", RATES)
def test_complete_p_is_flat_where_width_and_depth_grow_together(kind):
    assert drift_with_both("complete_p", kind) < FLAT


@pytest.mark.slow
def test_mup_is_not_flat_where_width_and_depth_grow_together():
    assert drift_with_both("mup", "adamw") > 3 * FLAT


@pytest.mark.parametrize("kind", RATES)
def test_complete_p_is_flat_in_the_depth(kind):
    assert drift_with_depth("complete_p", kind) < FLAT


@pytest.mark.parametrize("parametrisation", ["standard", "mup"])
@pytest.mark.parametrize("kind", RATES)
def test_nothing_else_is_flat_in_the_depth(kind, parametrisation):
    assert drift_with_depth(parametrisation, kind) > 3 * FLAT
