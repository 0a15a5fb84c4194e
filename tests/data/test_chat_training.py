"""A model trained on packed conversations gets the gradients of the same ones each in its own sequence."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.model.test_transformer import make_model
from workbench.config.schema import ChatDataConfig, OptimizerConfig
from workbench.data.chat_store import prepare_chat
from workbench.data.chat_stream import ChatStream
from workbench.model.batch import Batch
from workbench.model.transformer import loss_per_token, summed_loss
from workbench.study.layout import Layout
from workbench.train.optimizer import build_optimizer, optimizer_tensors
from workbench.train.step import train_step

CONTEXT = 160


@pytest.fixture
def prepare(chat_tokenizer, tmp_path, make_conversations):
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps({"messages": m}) + "\n" for m in make_conversations(24, seed=5)))
    config = ChatDataConfig("chat", [str(path)], template="llama2", heldout_percent=0, too_long="truncate")

    def make(packing):
        return prepare_chat(replace(config, packing=packing), chat_tokenizer, CONTEXT, Layout(tmp_path / "outputs"))

    return make


def all_of(store):
    return Batch(*map(torch.from_numpy, ChatStream(store, seed=0).batch(0, store.sequences)))


def small_model(**changes):
    return make_model(vocab_size=340, context_tokens=CONTEXT, **changes)


@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 2}, {"position": "learned"}], ids=str)
def test_packed_and_unpacked_gradients_are_equal(prepare, changes):
    packed, alone = all_of(prepare("best_fit")), all_of(prepare("none"))
    assert len(packed.tokens) < len(alone.tokens)
    assert packed.targets == alone.targets
    model = small_model(**changes)
    gradients = [
        torch.autograd.grad(summed_loss(model, batch)[0] / batch.targets, list(model.parameters()))
        for batch in (packed, alone)
    ]
    for a, b in zip(*gradients, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm() + 1e-6


def test_so_are_those_of_a_step(prepare):
    def step(batch, micro_batch_sequences):
        model = small_model()
        optimizer = build_optimizer(model, replace(OptimizerConfig(), weight_decay=0.0))
        result = train_step(
            model,
            partial(summed_loss, model),
            optimizer,
            batch,
            torch.zeros(len(batch.tokens), dtype=torch.int64),
            num_sources=1,
            learning_rate=1e-3,
            clip_norm=1e9,
            precision="fp32",
            micro_batch_sequences=micro_batch_sequences,
        )
        # The first moment is a tenth of the gradient.
        return result, {k: v for k, v in optimizer_tensors(model, optimizer).items() if k.endswith("/exp_avg")}

    whole, moments = step(all_of(prepare("none")), None)
    packed, others = step(all_of(prepare("best_fit")), 3)
    assert packed.loss == pytest.approx(whole.loss, rel=1e-6)
    for name, moment in moments.items():
        assert (moment - others[name]).norm() <= 1e-6 * moment.norm() + 1e-7, name


def test_a_packed_loss_is_that_of_each_conversation_by_itself(prepare):
    """Computed without masks, weights or positions."""
    store, model = prepare("best_fit"), small_model()
    expected = torch.zeros(())
    for number in range(store.manifest["conversations"]):
        tokens, loss = (torch.from_numpy(part.copy()) for part in store.conversation(number))
        losses = loss_per_token(model, tokens.long()[None])[0]
        expected = expected + losses[loss[1:]].sum()
    batch = all_of(store)
    torch.testing.assert_close(summed_loss(model, batch)[0], expected, rtol=1e-6, atol=1e-4)
    assert batch.targets == store.manifest["assistant_tokens"]


def test_what_stands_in_the_padding_changes_nothing(prepare):
    store, model = prepare("best_fit"), small_model()
    batch = all_of(store)
    other = batch.tokens.clone()
    order = ChatStream(store, seed=0).locate(torch.arange(store.sequences).numpy())
    for row, size in enumerate(store.sizes[order, 0].tolist()):
        other[row, size:] = 7
    assert not torch.equal(other, batch.tokens)
    gradients = [
        torch.autograd.grad(summed_loss(model, b)[0], list(model.parameters()))
        for b in (batch, batch._replace(tokens=other))
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
