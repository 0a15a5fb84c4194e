"""Whether `torch.compile` can work here, found out before it is asked to."""

from __future__ import annotations

import os
import platform
import shutil
import sysconfig
import warnings
from functools import cache
from pathlib import Path
from types import MethodType

import torch
from torch import nn

from workbench.config.schema import NumericsConfig
from workbench.model.matmul import products_library
from workbench.model.transformer import Block, Transformer
from workbench.model.triton_build import missing_for_triton


@cache
def missing_for_compile(device_type: str) -> str | None:
    """Say what `torch.compile` lacks on this machine; None when nothing.

    On the CPU it needs a C++ compiler and Python's headers; on a GPU, Triton and what that needs.
    """
    if device_type == "cuda":
        return missing_for_triton()
    if not any(shutil.which(name) for name in ("g++", "c++", "clang++")):
        return "a C++ compiler (Debian: apt-get install g++)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers (Debian: apt-get install python3-dev)"
    return None


def is_compiled(numerics: NumericsConfig, device: torch.device) -> bool:
    """Whether a training with these numerics is compiled on this machine."""
    return numerics.compile and missing_for_compile(device.type) is None


def compile_model(model: nn.Module, unit: str = "model") -> nn.Module:
    """Compile for fixed shapes, once a stage; the caller has asked `missing_for_compile` first.

    By `block`, a `Transformer`'s blocks share one piece of code, made at the first of them, and what lies around them
    stays eager. The model itself is given back then; only its blocks' `forward` is another.

    A resumed training repeats its bits only under `determinism`: without it the compiled embedding's backward adds
    its gradients in whatever order the threads come, on the CPU too.
    """
    # A process trains one stage after another: each compiles afresh, and too many shapes are an error, never
    # a silent return to eager.
    import torch._inductor.config as inductor

    torch.compiler.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    # Kernels that are chosen by timing them would differ from one start to the next.
    inductor.deterministic = torch.cuda.is_available() and torch.are_deterministic_algorithms_enabled()
    tag = os.environ.get("TORCH_COMPILE_CACHE_KEY_TAG", "")
    # A GPU's kernels have no vectors of the processor's, and asking for these needs a C++ compiler, which Triton does not.
    elsewhere = any(parameter.device.type != "cpu" for parameter in model.parameters())
    torch.compiler.config.cache_key_tag = tag if elsewhere else _cache_tag(tag)
    if unit == "model":
        return torch.compile(model, dynamic=False)  # pyright: ignore[reportReturnType]
    assert isinstance(model, Transformer)
    # Dynamo asks it of the residual stream that a block is given.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
    # Of the class and not of each block: PyTorch keeps compiled code by function, and finds it again for the next block.
    forward = torch.compile(Block.forward, dynamic=False)
    for block in model.blocks:
        block.forward = MethodType(forward, block)
    return model


def _cache_tag(users: str) -> str:
    """Name what code for this processor depends on, beside the user's own tag of what `torch.compile` keeps on disk.

    Kernels step by as many numbers as a vector of the processor's has, and PyTorch's key for them (2.13) does
    not say how many: kept under AVX-512 and compiled again under AVX2, by another processor with the same folder or
    under another `ATEN_CPU_CAPABILITY`, they leave half of every row unwritten. Nor does it say which library multiplies:
    one is given the factors of a weight's gradient in another order than the other, and last bits would depend on the cache.
    """
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    vectors, threads = pick_vec_isa(), torch.get_num_threads()
    return f"{users}{platform.machine()} {vectors} {vectors.bit_width()}, {threads} threads, {products_library()}"


if __name__ == "__main__":
    # Run once by `make`, so that what is missing is known before a training wants it.
    _missing = missing_for_compile("cuda" if torch.cuda.is_available() else "cpu")
    print("torch.compile: ready" if _missing is None else f"training will be eager: torch.compile needs {_missing}")  # noqa: T201
