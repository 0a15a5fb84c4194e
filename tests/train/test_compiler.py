"""What `torch.compile` makes: the code of one block serves all, and what it keeps on disk one processor alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import cpu_vec_isa
from torch._inductor.utils import fresh_cache

from workbench.config.schema import ModelConfig
from workbench.model import matmul, triton_build
from workbench.model.batch import Batch
from workbench.model.init import init_weights
from workbench.model.matmul import linear, products_by, uses_onednn
from workbench.model.openblas import found_openblas
from workbench.model.transformer import Transformer, summed_loss
from workbench.model.triton_build import missing_for_triton
from workbench.train.compiler import compile_model, missing_for_compile
from workbench.train.step import autocast

needs_compiler = pytest.mark.skipif(bool(missing_for_compile("cpu")), reason="torch.compile has no C++ compiler here")
MODEL = ModelConfig(
    name="test",
    num_layers=5,
    width=32,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=64,
    vocab_size=64,
    context_tokens=16,
)
TOKENS = torch.randint(0, 64, (2, 17), generator=torch.Generator().manual_seed(0))

LOSSES = """
import json, torch
from torch import nn
from workbench.model.loss import summed_cross_entropy
from workbench.train.compiler import compile_model

class Head(nn.Module):
    def forward(self, h, weight, tokens):
        return summed_cross_entropy(h * 2, weight, tokens[:, 1:])[1]

torch.manual_seed(0)
h, weight, tokens = torch.randn(4, 32, 16), torch.randn(64, 16), torch.randint(64, (4, 33))
head = Head()
print(json.dumps([head(h, weight, tokens).flatten().tolist(), compile_model(head)(h, weight, tokens).flatten().tolist()]))
"""


@pytest.mark.slow
@needs_compiler
def test_code_that_is_kept_for_one_instruction_set_is_not_run_under_another(tmp_path: Path):
    """Vectors of 16 numbers where the code steps by 16: with those of 8, half of the targets were never written."""
    for capability in (None, "avx2", "default"):
        asked = {} if capability is None else {"ATEN_CPU_CAPABILITY": capability}
        done = subprocess.run(
            [sys.executable, "-c", LOSSES],
            env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"} | asked,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-500:]
        eager, compiled = json.loads(done.stdout)
        assert compiled == pytest.approx(eager, abs=1e-4), f"under {capability or 'native'} instructions"


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(
    found_openblas() is None or not uses_onednn(torch.device("cpu")), reason="only one library multiplies here"
)
@pytest.mark.parametrize("libraries", [("onednn", "openblas"), ("openblas", "onednn")])
def test_code_that_is_kept_for_one_library_is_not_run_by_another(monkeypatch, libraries):
    """They are given the factors of a weight's gradient in different orders, which decides its last bits."""
    given = []
    original = matmul._by_library
    monkeypatch.setattr(matmul, "_by_library", lambda *a: given.append([each.shape for each in a]) or original(*a))

    class Product(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(8, 4))

        def forward(self, x):
            return linear(x, self.weight)

    def gradients(library, compiled):
        given.clear()
        with products_by(library, 1):
            model = compile_model(Product()) if compiled else Product()
            model(torch.ones(6, 4, requires_grad=True)).sum().backward()
        return sorted(given)  # compiled code computes the weight's gradient before the input's

    with fresh_cache():
        compiled = [gradients(library, compiled=True) for library in libraries]
    assert compiled == [gradients(library, compiled=False) for library in libraries]
    assert compiled[0] != compiled[1]


def made(activation_checkpointing: bool = False) -> Transformer:
    model = Transformer(MODEL, activation_checkpointing=activation_checkpointing)
    init_weights(model, 0)
    return model


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("frugal", "by_document", "precision"), [(False, False, "fp32"), (True, True, "fp32"), (False, True, "bf16")]
)
def test_the_code_of_one_block_serves_all_of_them_in_every_step(frugal, by_document, precision):
    batch = Batch.by_document(TOKENS, 3) if by_document else Batch(TOKENS)
    eager, plain = made(frugal), made(frugal)
    # The first of a process's compilations may count a frame of PyTorch's own.
    torch.compile(lambda x: x.square().sum())(torch.ones(3, requires_grad=True)).backward()
    counters.clear()
    compiled = compile_model(plain, "block")
    for _ in range(3):
        with autocast(precision, torch.device("cpu")):
            (total, losses), (theirs, expected) = summed_loss(compiled, batch), summed_loss(eager, batch)
        total.backward()
        theirs.backward()
        assert losses == pytest.approx(expected, abs=1e-5 if precision == "fp32" else 3e-2)
    assert counters["stats"]["unique_graphs"] == 1
    assert counters["frames"] == {"total": 1, "ok": 1}
    assert not counters["graph_break"]
    for mine, its in zip(compiled.parameters(), eager.parameters(), strict=True):
        assert mine.grad is not None
        assert its.grad is not None
        apart = (mine.grad - its.grad).norm() / its.grad.norm()
        assert apart < (1e-5 if precision == "fp32" else 3e-2)


@needs_compiler
def test_blocks_that_are_compiled_keep_their_weights_names():
    """A checkpoint of them is one of the model."""
    model = made()
    assert compile_model(model, "block") is model
    assert model.state_dict().keys() == made().state_dict().keys()


def test_for_a_gpu_no_compiler_of_the_processors_code_is_asked_for(monkeypatch):
    """PyTorch finds vectors by compiling for them, which raises an error where Triton's C compiler is the only one."""

    def missing():
        raise AssertionError("a C++ compiler has been asked for")

    monkeypatch.setattr(cpu_vec_isa, "pick_vec_isa", missing)
    monkeypatch.setenv("TORCH_COMPILE_CACHE_KEY_TAG", "mine")
    compile_model(torch.nn.Linear(2, 2, device="meta"))
    assert torch.compiler.config.cache_key_tag == "mine"
    with pytest.raises(AssertionError, match="asked for"):
        compile_model(torch.nn.Linear(2, 2))


def test_what_triton_needs_is_said(monkeypatch, tmp_path):
    """It comes with a compiler for GPUs, and none for what hands kernels to them."""
    here = {"gcc", "triton"}
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(triton_build.importlib.util, "find_spec", lambda name: object() if name in here else None)
    monkeypatch.setattr(triton_build.shutil, "which", lambda name: name if name in here else None)
    monkeypatch.setattr(triton_build, "_headers", lambda: str(tmp_path))
    assert missing_for_triton() is None
    (tmp_path / "Python.h").unlink()
    for without, said in (
        ("headers", "Python's headers (Debian: apt-get install python3-dev)"),
        ("gcc", "a C compiler (Debian: apt-get install gcc)"),
        ("triton", "the package triton"),
    ):
        here.discard(without)
        assert missing_for_triton() == said
        missing_for_compile.cache_clear()
        assert missing_for_compile("cuda") == said
        if without == "gcc":
            monkeypatch.setenv("CC", "/opt/cc")
            assert missing_for_triton() != said
            monkeypatch.delenv("CC")
    missing_for_compile.cache_clear()
