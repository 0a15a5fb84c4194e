"""Each kernel of attention on a GPU against PyTorch's plain one, and the choice among them."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from workbench.config.schema import ModelConfig, NumericsConfig, OptimizerConfig, Schedule, StreamConfig, TrainingStage
from workbench.model.attention import attend, check_attention, document_borders, document_mask, takes_borders
from workbench.model.batch import Batch, documents_at_most
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer, summed_loss
from workbench.train.attention_choice import choose_attention
from workbench.train.compiler import compile_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = torch.device("cuda", 0)
BACKENDS = ["sdpa", "cudnn", "flash_attn", "flash_attn_3"]
T = 512
STAGE = TrainingStage(
    parent=None,
    model=ModelConfig("test", 3, 256, 4, 2, 512, 512, T),
    stream=StreamConfig("none", T, 0, {}, []),
    batch_sequences=4,
    schedule=Schedule(peak=1e-3, warmup_tokens=0),
    optimizer=OptimizerConfig(),
    precision="bf16",
    seed_init=0,
    numerics=NumericsConfig(attention="auto"),
)


def need(backend):
    try:
        check_attention(backend, DEVICE)
    except ValueError as error:
        pytest.skip(str(error))


def heads(kv_heads):
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, T, count, 64) for count in (4, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=generator).to(DEVICE, torch.bfloat16).requires_grad_() for shape in shapes]


def documents():
    """Of one sequence, one; of the others, many of unequal lengths."""
    begins = torch.rand(4, T, generator=torch.Generator().manual_seed(1)) < torch.tensor([0.0, 0.02, 0.1, 0.5])[:, None]
    return begins.cumsum(1).to(DEVICE)


def result(q, k, v, backend, mask):
    out = attend(q, k, v, backend, mask)
    return out, *torch.autograd.grad(out, (q, k, v), torch.ones_like(out))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [False, True], ids=["causal", "by_document"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_kernel_equals_the_plain_one(backend, masked, kv_heads):
    need(backend)
    q, k, v = heads(kv_heads)
    plain_mask = document_mask(documents(), torch.float32) if masked else None
    wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
    with sdpa_kernel(SDPBackend.MATH):
        expected = result(*wide, "sdpa", plain_mask)
    if takes_borders(backend):
        mask = document_borders(documents(), T) if masked else None
    else:
        mask = document_mask(documents(), torch.bfloat16) if masked else None
    for ours, theirs in zip(result(q, k, v, backend, mask), expected, strict=True):
        assert (ours.float() - theirs).norm() <= 0.02 * theirs.norm()


@pytest.mark.parametrize("backend", ["flash_attn", "flash_attn_3"])
def test_more_documents_than_a_grid_has_room_for(backend):
    """Of a token each, which sees itself alone."""
    need(backend)
    q, k, v = (torch.randn(160, T, 1, 64, device=DEVICE, dtype=torch.bfloat16) for _ in range(3))
    out = attend(q, k, v, backend, document_borders(torch.arange(T, device=DEVICE).expand(160, T)))
    torch.testing.assert_close(out, v, rtol=0, atol=0.02)


@pytest.mark.parametrize("compiled", [None, "model", "block"])
@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_a_model_of_documents_is_the_same_with_each(backend, compiled):
    need(backend)
    tokens = torch.randint(0, 512, (4, T + 1), generator=torch.Generator().manual_seed(0))
    tokens[1:, ::37] = 0
    batch = Batch.by_document(tokens.to(DEVICE), 0, at_most=documents_at_most(tokens.numpy(), 0))
    found = []
    for name, unit in (("sdpa", None), (backend, compiled)):
        model = Transformer(STAGE.model, name).to(DEVICE)
        init_weights(model, 0)
        run = compile_model(model, unit) if unit else model
        with torch.autocast("cuda", torch.bfloat16):
            total, losses = summed_loss(run, batch)
        found.append((losses, torch.autograd.grad(total / losses.numel(), list(model.parameters()))))
    (plain, theirs), (ours, mine) = found
    assert (ours - plain).abs().max() < 0.05
    assert all((a - b).norm() <= 0.05 * b.norm() + 1e-5 for a, b in zip(mine, theirs, strict=True))


def test_one_of_those_that_are_here_is_chosen():
    said = []
    chosen = choose_attention(STAGE, 4, DEVICE, say=said.append)
    check_attention(chosen, DEVICE)
    assert any(f"takes {chosen}" in line for line in said)
    assert choose_attention(STAGE, 4, DEVICE, begun_with="sdpa") == "sdpa"
