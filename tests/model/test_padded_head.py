"""An output head padded with rows of zeros while the loss is computed: the same numbers, and nothing else knows of it."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from workbench.config.schema import ModelConfig, NumericsConfig
from workbench.model.batch import Batch
from workbench.model.distillation import Lesson, summed_distillation
from workbench.model.init import init_weights
from workbench.model.loss import cross_entropy_per_token, padded_head, summed_cross_entropy
from workbench.model.sparse_distillation import SparseLesson, summed_sparse_distillation
from workbench.model.transformer import Transformer, loss_per_token, summed_loss
from workbench.study import memory
from workbench.study.memory import head_padded_to
from workbench.train.compiler import compile_model, missing_for_compile

B, T, D, E, V, K = 3, 37, 16, 8, 101, 5
CONFIG = {
    "name": "test",
    "num_layers": 2,
    "width": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "mlp_width": 48,
    "vocab_size": V,
    "context_tokens": T,
}


def make_inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    h, weight = (torch.randn(*shape, D, generator=generator, dtype=dtype) for shape in ((B, T), (V,)))
    targets, weights = (torch.randint(0, V, (B, T), generator=generator), torch.rand(B, T, generator=generator))
    return h.requires_grad_(), weight.requires_grad_(), targets, weights


def lesson_of(kind):
    generator = torch.Generator().manual_seed(1)
    if kind == "teacher":
        return Lesson(torch.randn(B, T, E, generator=generator), torch.randn(V, E, generator=generator), 2.0, 0.5)
    ids = torch.stack([torch.randperm(V, generator=generator)[:K] for _ in range(B * T)]).view(B, T, K)
    return SparseLesson(ids, torch.randn(B, T, K, generator=generator).log_softmax(-1), 2.0, 0.5)


LOSSES = {
    "per_token": lambda h, w, t, g, to: (cross_entropy_per_token(h, w, t, to) * g).sum(),
    "summed": lambda h, w, t, g, to: summed_cross_entropy(h, w, t, None, 0.0, padded_to=to)[0],
    "weighted": lambda h, w, t, g, to: summed_cross_entropy(h, w, t, g, 1e-2, padded_to=to)[0],
    "distilled": lambda h, w, t, g, to: summed_distillation(h, w, t, lesson_of("teacher"), g, 1e-2, to)[0],
    "from_kept": lambda h, w, t, g, to: summed_sparse_distillation(h, w, t, lesson_of("kept"), g, 1e-2, to)[0],
}


def values_of(loss, padded_to, bf16=False):
    """The sum, and its gradients by hidden states and head."""
    h, weight, targets, weights = make_inputs()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        total = LOSSES[loss](h, weight, targets, weights, padded_to)
    return total.detach(), *torch.autograd.grad(total / 64, (h, weight))


def assert_near(ours, theirs, within):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert a.is_contiguous()
        assert a.isfinite().all()
        assert (a - b).norm() <= within * b.norm()


@pytest.mark.parametrize("padded_to", [64, 103])
@pytest.mark.parametrize("chunk_rows", [16, 1000])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_are_the_same(monkeypatch, loss, chunk_rows, padded_to):
    monkeypatch.setattr(memory, "LOSS_BYTES", chunk_rows * 4 * V)
    assert_near(values_of(loss, padded_to), values_of(loss, 1), 1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_in_16_bits_too(loss):
    """The products are the same; only sums over the vocabulary may go in another order."""
    assert_near(values_of(loss, 64, bf16=True), values_of(loss, 1, bf16=True), 1e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_where_nothing_is_missing_no_bit_changes(loss):
    assert all(torch.equal(*pair) for pair in zip(values_of(loss, V), values_of(loss, 1), strict=True))


def test_padding_has_no_probability():
    """Logits of zero would have nearly all where the vocabulary's own are far below."""
    h, weight = torch.full((1, 2, 1), 300.0, requires_grad=True), torch.tensor([[-1.0], [-1.0], [-1.0]])
    targets = torch.tensor([[0, 2]])
    for losses in (
        cross_entropy_per_token(h, weight, targets, 64),
        summed_cross_entropy(h, weight, targets, None, 0.0, padded_to=64)[1],
    ):
        torch.testing.assert_close(losses, torch.full((1, 2), 3.0).log())
    total, _ = summed_cross_entropy(h, weight, targets, None, 1.0, padded_to=64)
    torch.testing.assert_close(total, 2 * (torch.tensor(3.0).log() + (torch.tensor(3.0).log() - 300) ** 2))
    padded = padded_head(weight, torch.bfloat16, 64)
    assert (padded.shape, padded.dtype, padded[3:].any().item()) == ((64, 1), torch.bfloat16, False)
    assert padded_head(weight, torch.float32, 3) is weight


def make_model(padded_to, **changes):
    model = Transformer(ModelConfig(**{**CONFIG, **changes}))
    init_weights(model, 0)
    model.head_padded_to = padded_to
    return model


TOKENS = torch.randint(0, V, (B, T + 1), generator=torch.Generator().manual_seed(3))


def gradients_of(model, network=None):
    total, losses = summed_loss(model if network is None else network, Batch(TOKENS))
    total.backward()
    return total.detach(), losses, *(parameter.grad.contiguous() for parameter in model.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_knows_nothing_of_it_but_in_its_loss(tied):
    ours, theirs = (make_model(each, tie_embeddings=tied) for each in (64, 1))
    assert_near(gradients_of(ours), gradients_of(theirs), 1e-6)
    mine, its = ours.state_dict(), theirs.state_dict()
    assert [(name, tensor.shape) for name, tensor in mine.items()] == [(n, t.shape) for n, t in its.items()]
    assert all(torch.equal(mine[name], its[name]) for name in its)
    assert torch.equal(ours(TOKENS[:, :-1]), theirs(TOKENS[:, :-1]))
    assert ours(TOKENS[:, :-1]).shape == (B, T, V)
    torch.testing.assert_close(loss_per_token(ours, TOKENS), loss_per_token(theirs, TOKENS), rtol=1e-6, atol=1e-6)


def test_flops_are_those_of_the_vocabulary():
    counted = []
    for padded_to in (64, 1):
        with FlopCounterMode(display=False) as counter:
            gradients_of(make_model(padded_to))
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1]


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_compiled_it_is_the_same(tied):
    if missing_for_compile("cpu"):
        pytest.skip(f"torch.compile needs {missing_for_compile('cpu')}")
    ours, theirs = (make_model(each, tie_embeddings=tied) for each in (64, 1))
    assert_near(gradients_of(ours, compile_model(ours)), gradients_of(theirs), 1e-6)


def test_the_default_pads_on_a_gpu_what_is_no_multiple():
    def chosen(asked, vocab_size, device):
        return head_padded_to(NumericsConfig(pad_vocabulary=asked), vocab_size, device)

    assert [chosen(None, 50257, device) for device in ("cpu", "cuda")] == [1, 64]
    assert [chosen(asked, 50257, device) for asked, device in ((True, "cpu"), (False, "cuda"))] == [64, 1]
    assert {chosen(asked, 4096, device) for asked in (None, True) for device in ("cpu", "cuda")} == {1}
