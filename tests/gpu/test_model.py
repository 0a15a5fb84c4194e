"""The model on a GPU; skips where there is no CUDA device."""

import importlib.util

import pytest
import torch

from workbench.config.schema import ModelConfig
from workbench.model.batch import Batch
from workbench.model.init import init_weights
from workbench.model.liger import choose_cross_entropy
from workbench.model.transformer import Transformer, loss_per_token, summed_loss
from workbench.train.compiler import compile_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CONFIG = ModelConfig(
    name="test",
    num_layers=3,
    width=256,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=512,
    vocab_size=512,
    context_tokens=128,
)
TOKENS = torch.randint(0, 512, (4, 129), generator=torch.Generator().manual_seed(0))


def make_model(device: str, attention: str = "sdpa") -> Transformer:
    model = Transformer(CONFIG, attention).to(device)
    init_weights(model, 0)
    return model


def losses_and_gradients(model: torch.nn.Module, bf16: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    parameters = list(model.parameters())
    device = parameters[0].device
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        losses = loss_per_token(model, TOKENS.to(device))
    return losses.detach().cpu(), [g.cpu() for g in torch.autograd.grad(losses.mean(), parameters)]


def assert_close(ours, theirs, tolerance: float) -> None:
    assert (ours[0] - theirs[0]).abs().max() < tolerance
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert (a - b).norm() < tolerance * max(float(b.norm()), 1e-3)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_gpu_equals_cpu(bf16):
    ours = losses_and_gradients(make_model("cuda"), bf16)
    assert_close(ours, losses_and_gradients(make_model("cpu"), False), 0.05 if bf16 else 1e-3)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("unit", ["model", "block"])
def test_compiled_equals_eager(bf16, unit):
    compiled = losses_and_gradients(compile_model(make_model("cuda"), unit), bf16)
    assert_close(compiled, losses_and_gradients(make_model("cuda"), bf16), 0.05 if bf16 else 1e-3)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_attention_within_documents_equals_the_cpus(bf16, compiled):
    tokens = TOKENS.clone()
    tokens[:, ::37] = 0

    def measured(device):
        model = make_model(device)
        run = torch.compile(model) if compiled and device == "cuda" else model
        with torch.autocast(device, torch.bfloat16, enabled=bf16 and device == "cuda"):
            total, losses = summed_loss(run, Batch.by_document(tokens.to(device), 0))
        gradients = torch.autograd.grad(total / losses.numel(), list(model.parameters()))
        return losses.cpu(), [gradient.cpu() for gradient in gradients]

    assert_close(measured("cuda"), measured("cpu"), 0.05 if bf16 else 1e-3)


@pytest.mark.parametrize("z_loss", [0.0, 1e-4])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_ligers_cross_entropy_is_our_own(bf16, z_loss):
    try:
        choose_cross_entropy("liger", torch.device("cuda"))
    except ValueError as error:
        pytest.skip(str(error))
    weights = torch.rand(4, 128, generator=torch.Generator().manual_seed(0)).cuda()
    found = []
    for kernel in ("own", "liger"):
        model = make_model("cuda")
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            total, losses = summed_loss(model, Batch(TOKENS.cuda(), weights), z_loss, kernel)
        gradients = torch.autograd.grad(total / losses.numel(), list(model.parameters()))
        found.append((losses.cpu(), [gradient.cpu() for gradient in gradients]))
    assert_close(*found, 0.05 if bf16 else 1e-3)


def test_initial_weights_are_the_cpus():
    ours, theirs = make_model("cuda").state_dict(), make_model("cpu").state_dict()
    assert all(torch.equal(ours[name].cpu(), theirs[name]) for name in theirs)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="needs the package flash-attn")
def test_flash_attention_equals_sdpa():
    ours = losses_and_gradients(make_model("cuda", "flash_attn"), True)
    assert_close(ours, losses_and_gradients(make_model("cuda"), True), 0.05)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="needs the package flash-attn")
def test_flash_attention_refuses_fp32():
    with pytest.raises(ValueError, match="precision=bf16"):
        losses_and_gradients(make_model("cuda", "flash_attn"), False)
