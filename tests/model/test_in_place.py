"""What is trained in place has the bits of the plain operations, and of our own operators."""

import pytest
import torch

from workbench.config.schema import ModelConfig
from workbench.model import in_place, matmul
from workbench.model.batch import Batch
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer, summed_loss


def _model(**changes) -> Transformer:
    shape = {"num_layers": 2, "width": 64, "num_heads": 2, "num_kv_heads": 2, "mlp_width": 176, "vocab_size": 300}
    config = ModelConfig(name="tiny", context_tokens=40, **shape | changes)
    model = Transformer(config)
    init_weights(model, seed=1)
    return model


def _trained(model: Transformer, batch: Batch) -> list[torch.Tensor]:
    model.zero_grad()
    total, losses = summed_loss(model, batch)
    total.backward()
    return [total.detach(), losses, *(p.grad.clone() for p in model.parameters())]  # pyright: ignore


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_kv_heads": 1},
        {"qk_norm": True},
        {"position": "learned"},
        {"mlp": "gelu"},
        {"num_heads": 4},
        {"width": 96},
        {"parallel_residual": True},
        {"norm": "layernorm"},
        {"tie_embeddings": True},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
@pytest.mark.parametrize("by_document", [False, True])
def test_losses_and_gradients_are_bit_for_bit_those_of_the_plain_operations(monkeypatch, changes, by_document):
    model = _model(**{"num_kv_heads": changes.get("num_heads", 2)} | changes)
    tokens = torch.randint(300, (3, 41), generator=torch.manual_seed(0))
    batch = Batch(tokens)
    if by_document:
        places = torch.arange(40).expand(3, 40)
        batch = Batch(tokens, positions=places % 17, documents=places // 17)
    ours = _trained(model, batch)
    monkeypatch.setattr(in_place, "pays", lambda x: False)
    monkeypatch.setattr(matmul, "_multiply", matmul._onednn_linear)
    monkeypatch.setattr(matmul._EagerLinear, "apply", matmul._onednn_linear)
    plain = _trained(model, batch)
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))


def test_only_what_is_trained_in_fp32_is_worked_on_in_place():
    x = torch.ones(2, 4, requires_grad=True)
    assert in_place.pays(x)
    assert not in_place.pays(x.detach())
    assert not in_place.pays(x.bfloat16())
    with torch.no_grad():
        assert not in_place.pays(x)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_norms_have_these_bits_in_bf16_and_where_blocks_are_computed_again(monkeypatch, checkpointing):
    model = _model()
    model.activation_checkpointing = checkpointing
    batch = Batch(torch.randint(300, (3, 41), generator=torch.manual_seed(0)))

    def trained() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return _trained(model, batch)

    ours = trained()
    monkeypatch.setattr(in_place, "pays", lambda x: False)
    assert all(torch.equal(one, other) for one, other in zip(ours, trained(), strict=True))


@pytest.mark.parametrize("reads", ["both", "stream", "norm"])
@pytest.mark.parametrize("frozen", [False, True])
def test_stream_and_norm_take_the_gradients_that_there_are(reads, frozen):
    generator = torch.Generator().manual_seed(0)
    x, gain = (torch.randn(shape, generator=generator) for shape in ((2, 5, 96), (96,)))
    weights = torch.randn(2, 5, 96, generator=generator)

    def gradients(beside) -> list[torch.Tensor | None]:
        leaves = x.clone().requires_grad_(), gain.clone().requires_grad_(not frozen)
        stream, normed = beside(leaves[0] * 1.5, leaves[1])
        parts = {"stream": (stream * weights).sum(), "norm": normed.sin().sum()}
        (sum(parts.values()) if reads == "both" else parts[reads]).backward()
        return [leaf.grad for leaf in leaves]

    ours = gradients(lambda x, gain: in_place.stream_and_norm(x, gain, 1e-5))
    plain = gradients(lambda x, gain: (x, torch.nn.functional.rms_norm(x, (96,), gain, 1e-5)))
    assert [one is None for one in ours] == [one is None for one in plain] == [False, frozen or reads == "stream"]
    assert all(one is other is None or torch.equal(one, other) for one, other in zip(ours, plain, strict=True))
