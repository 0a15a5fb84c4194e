"""Documents that share a sequence are as if each were alone, and every target counts once, by its weight."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.model.test_transformer import BASE, SWITCHES, make_model
from workbench.config.schema import OptimizerConfig
from workbench.model.batch import Batch
from workbench.model.transformer import loss_per_token, summed_loss
from workbench.train.optimizer import build_optimizer, optimizer_tensors
from workbench.train.step import train_step

BOS = 0
LENGTHS = (5, 11, 8)
"""Tokens of the documents in a sequence of 24 inputs."""


def packed():
    """Two sequences of three documents, and the token after the last."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(1, BASE.vocab_size, (2, sum(LENGTHS) + 1), generator=generator)
    begins = [0]
    for length in LENGTHS[:-1]:
        begins.append(begins[-1] + length)
    tokens[:, begins] = BOS
    return tokens


def alone():
    """The same documents one by one, each with the token that follows it."""
    start = 0
    for length in LENGTHS:
        yield packed()[:, start : start + length + 1]
        start += length


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()))


def test_documents_and_positions_begin_with_each_bos():
    tokens = torch.tensor([[7, 8, BOS, 5, 6, BOS, BOS, 4, 9], [BOS, 5, 6, 7, 8, BOS, 9, 4, BOS]])
    batch = Batch.by_document(tokens, BOS)
    assert batch.documents.tolist() == [[0, 0, 1, 1, 1, 2, 3, 3], [1, 1, 1, 1, 1, 2, 2, 2]]
    assert batch.positions.tolist() == [[0, 1, 0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 4, 0, 1, 2]]
    assert batch.targets == 16


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_packed_documents_are_as_if_each_were_alone(changes):
    model = make_model(**changes)
    batch = Batch.by_document(packed(), BOS)
    total, losses = summed_loss(model, batch)
    each = [loss_per_token(model, document) for document in alone()]
    torch.testing.assert_close(losses, torch.cat(each, dim=1).detach(), rtol=0, atol=1e-5)
    ours, theirs = gradients(model, total), gradients(model, sum(part.sum() for part in each))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm() + 1e-6
    assert (summed_loss(model, Batch(packed()))[1] - losses).abs().max() > 1e-3


@pytest.mark.parametrize("frugal", [False, True])
def test_in_bf16_and_with_activation_checkpointing_too(frugal):
    model = make_model(num_kv_heads=2)
    model.activation_checkpointing = frugal
    batch = Batch.by_document(packed(), BOS)
    with torch.autocast("cpu", torch.bfloat16):
        total, losses = summed_loss(model, batch)
        each = torch.cat([loss_per_token(model, document) for document in alone()], dim=1)
    assert (losses - each).abs().max() < 0.05
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model, total))


@pytest.mark.slow
def test_compiled_it_is_the_same():
    model = make_model()
    batch = Batch.by_document(packed(), BOS, torch.rand(2, 24, generator=torch.Generator().manual_seed(0)))
    total, losses = summed_loss(model, batch)
    compiled, compiled_losses = summed_loss(torch.compile(model, fullgraph=True), batch)
    torch.testing.assert_close(compiled, total)
    torch.testing.assert_close(compiled_losses, losses)


def test_the_sum_weighs_each_target():
    model, tokens = make_model(), packed()
    weights = torch.rand(2, 24, generator=torch.Generator().manual_seed(0))
    weights[:, 5:9] = 0
    total, losses = summed_loss(model, Batch(tokens, weights))
    expected = loss_per_token(model, tokens)
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(total, (expected * weights).sum())
    for a, b in zip(gradients(model, total), gradients(model, (expected * weights).sum()), strict=True):
        torch.testing.assert_close(a, b)


def test_weights_of_one_change_no_bit():
    model, tokens = make_model(), packed()
    for a, b in zip(
        gradients(model, summed_loss(model, Batch(tokens))[0]),
        gradients(model, summed_loss(model, Batch(tokens, torch.ones(2, 24)))[0]),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_target_counts_once_however_the_batch_is_divided(size):
    """Sequences with many weighted targets, few, and none: not the mean of the micro-batches' means."""
    weights = torch.zeros(4, 24)
    weights[0, :20], weights[1, 3], weights[3, 5:9] = 1.0, 0.5, 2.0
    batch = Batch(packed().repeat(2, 1), weights)

    def step(micro_batch_sequences):
        model = make_model()
        optimizer = build_optimizer(model, replace(OptimizerConfig(), weight_decay=0.0))
        result = train_step(
            model,
            partial(summed_loss, model),
            optimizer,
            batch,
            torch.tensor([0, 1, 1, 0]),
            num_sources=2,
            learning_rate=1e-2,
            clip_norm=1.0,
            precision="fp32",
            micro_batch_sequences=micro_batch_sequences,
        )
        # The first moment is a tenth of the gradient; the weights themselves have moved by its sign.
        return result, {k: v for k, v in optimizer_tensors(model, optimizer).items() if k.endswith("/exp_avg")}

    whole, moments = step(None)
    divided, others = step(size)
    losses = loss_per_token(make_model(), batch.tokens)
    assert whole.loss == pytest.approx(((losses * weights).sum() / weights.sum()).item(), rel=1e-6)
    assert divided.loss == pytest.approx(whole.loss, rel=1e-6)
    assert divided.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-5)
    assert divided.source_losses == pytest.approx(whole.source_losses, rel=1e-6)
    assert whole.source_losses[1] == pytest.approx(losses[1, 3].item(), rel=1e-6)
    assert moments.keys() == others.keys()
    for name, moment in moments.items():
        assert (moment - others[name]).norm() <= 1e-6 * moment.norm() + 1e-9, name
