"""Packed sequences in a model: padding has no say, and masked pieces are what each would be alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workbench.config.schema import MixtureSegment, ModelConfig, StreamConfig, StreamSource
from workbench.data.packed_index import PackedSource, pack_block
from workbench.data.stream import Stream
from workbench.model.batch import Batch
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer, summed_loss
from workbench.train.drawn_batch import make_batch

BOS, CONTEXT = 1, 16
MODEL = ModelConfig(
    name="test",
    num_layers=2,
    width=32,
    num_heads=4,
    num_kv_heads=4,
    mlp_width=48,
    vocab_size=61,
    context_tokens=CONTEXT,
)


class Documents:
    """A store of documents of 1 to 12 tokens, packed."""

    fingerprint = "f" * 16

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        lengths = draw.integers(1, 13, 23)
        ends = np.cumsum(lengths)
        tokens = draw.integers(2, 61, ends[-1])
        tokens[ends - lengths] = BOS
        self.documents = np.split(tokens, ends[:-1])
        self.sources = {"a": tokens}
        packed = pack_block(np.stack([ends - lengths, ends], 1), CONTEXT)
        sizes = packed.sizes.astype(np.int32)
        self.packing = {"a": PackedSource(packed.begins, sizes, packed.starts, BOS, True, 0.0)}

    def draw_all(self):
        config = StreamConfig(
            self.fingerprint, CONTEXT, 0, {"a": StreamSource()}, [MixtureSegment(0, {"a": 1})], packing="best_fit"
        )
        return Stream(self, config, self.packing).draw(0, self.packing["a"].sequences)


@pytest.fixture
def model():
    made = Transformer(MODEL)
    init_weights(made, 0)
    return made


def test_masked_pieces_have_the_losses_that_they_have_alone(model):
    store = Documents()
    batch = make_batch(store.draw_all(), torch.from_numpy, BOS, document_mask=True)
    total, _ = summed_loss(model, batch)
    expected, targets = 0.0, 0
    for document in store.documents:
        alone = torch.from_numpy(np.append(document, BOS))[None]
        expected += summed_loss(model, Batch(alone))[0].item()
        targets += len(document)
    assert float(batch.targets) == targets == len(store.sources["a"])
    assert total.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("document_mask", [False, True])
def test_what_the_padding_holds_changes_no_loss_and_no_gradient(model, document_mask):
    drawn = Documents().draw_all()
    behind = drawn.weights.cumsum(1) == drawn.weights.sum(1, keepdims=True)
    inputs, padding = drawn.tokens[:, :-1].copy(), behind & (drawn.weights == 0)
    assert padding.any()
    found = []
    for fill in (BOS, 7):
        tokens = drawn.tokens.copy()
        # What ends the last document is a target; the inputs behind it are not, nor the sequence's last token.
        tokens[:, 1:][padding] = fill
        assert (tokens[:, :-1][drawn.weights == 1] == inputs[drawn.weights == 1]).all()
        batch = make_batch(drawn._replace(tokens=tokens), torch.from_numpy, BOS, document_mask=document_mask)
        model.zero_grad()
        total, losses = summed_loss(model, batch)
        total.backward()
        found.append([total.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
        assert total.item() == pytest.approx((losses * batch.weights).sum().item(), rel=1e-5)
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


def test_only_a_mask_has_documents_and_only_packing_has_weights():
    drawn = Documents().draw_all()
    assert make_batch(drawn, torch.from_numpy, BOS, document_mask=False)[2:4] == (None, None)
    plain = drawn._replace(weights=None, positions=None, documents=None)
    assert make_batch(plain, torch.from_numpy, BOS, document_mask=False)[1:4] == (None, None, None)
    masked = make_batch(plain, torch.from_numpy, BOS, document_mask=True)
    by_token = Batch.by_document(torch.from_numpy(drawn.tokens), BOS)
    assert masked.weights is None
    assert torch.equal(masked.documents, by_token.documents)


def test_kernels_are_told_how_many_pieces_a_sequence_has_at_most():
    drawn = Documents().draw_all()
    made = make_batch(drawn, torch.from_numpy, BOS, document_mask=True, bounded=True)
    most = max(len(torch.unique_consecutive(row)) for row in made.documents)
    assert made.documents_at_most is not None
    assert most <= made.documents_at_most < 4 * most
    assert make_batch(drawn, torch.from_numpy, BOS, document_mask=True).documents_at_most is None
