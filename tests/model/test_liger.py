"""Liger's kernel of cross-entropy against PyTorch's operators, by Triton's interpreter; and when it is taken.

The interpreter needs the packages liger-kernel and triton, and is asked for before they are imported: in a process of its own.
"""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch

from workbench.config.schema import NumericsConfig
from workbench.model import liger
from workbench.model.liger import choose_cross_entropy

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
LACKING = [name for name in liger.CROSS_ENTROPY_PACKAGES if importlib.util.find_spec(name) is None]
COMPARED = """
import json, torch
from workbench.model.loss import summed_cross_entropy
from workbench.study import memory

memory.LOSS_BYTES = 16 * 4 * 101
found = []
for bf16 in (False, True):
    for weighted in (False, True):
        for z_loss in (0.0, 1e-2):
            generator = torch.Generator().manual_seed(0)
            h = torch.randn(3, 13, 16, generator=generator, requires_grad=True)
            weight = torch.randn(101, 16, generator=generator, requires_grad=True)
            targets = torch.randint(0, 101, (3, 13), generator=generator)
            counts = torch.rand(3, 13, generator=generator) if weighted else None
            each = []
            for kernel in ("own", "liger"):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    total, losses = summed_cross_entropy(h, weight, targets, counts, z_loss, kernel)
                each.append([total, losses, *torch.autograd.grad(total / 7, (h, weight))])
            apart = [float((b - a).norm() / a.norm()) for a, b in zip(*each)]
            found.append((bf16, [str(x.dtype) for x in each[1]], apart))
print(json.dumps(found))
"""


def interprets():
    """Triton 3.6's interpreter makes numbers of arrays in a way that NumPy 2.4 refuses; with NumPy 2.3.5 the test passes."""
    return not version("triton").startswith("3.6.") or np.lib.NumpyVersion(np.__version__) < "2.4.0"


@pytest.mark.slow
@pytest.mark.skipif(bool(LACKING), reason=f"needs the packages {LACKING} (the extra kernels)")
@pytest.mark.skipif(not LACKING and not interprets(), reason="Triton 3.6 interprets no kernels with NumPy 2.4")
def test_losses_and_gradients_are_those_of_pytorchs_operators():
    """With and without weights and z-loss, over several chunks."""
    done = subprocess.run(
        [sys.executable, "-c", COMPARED],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-800:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 8
    for bf16, dtypes, apart in found:
        assert set(dtypes) == {"torch.float32"}
        assert max(apart) < (1e-2 if bf16 else 1e-6), (bf16, apart)


def test_own_is_taken_everywhere_and_auto_takes_what_is_here(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(liger, "missing_for_triton", lambda: None)
    assert choose_cross_entropy("own", CUDA) == "own"
    assert choose_cross_entropy("auto", CUDA) == "liger"
    assert choose_cross_entropy("auto", CPU) == "own"
    assert choose_cross_entropy("liger", CUDA) == "liger"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "liger_kernel" else object())
    assert choose_cross_entropy("auto", CUDA) == "own"


def test_what_liger_lacks_is_said_before_training(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else object())
    with pytest.raises(
        ValueError, match=r"numerics\.cross_entropy='liger' needs the package triton: install the extra"
    ):
        choose_cross_entropy("liger", CUDA)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match=r"numerics\.cross_entropy='liger' needs a CUDA device, not 'cpu': use own"):
        choose_cross_entropy("liger", CPU)
    monkeypatch.setattr(liger, "missing_for_triton", lambda: "a C compiler (Debian: apt-get install gcc)")
    with pytest.raises(
        ValueError, match=r"numerics\.cross_entropy='liger' needs a C compiler \(.*\): install it, or use"
    ):
        choose_cross_entropy("liger", CUDA)
    assert choose_cross_entropy("auto", CUDA) == "own"
    with pytest.raises(ValueError, match=r"numerics\.cross_entropy='apex' is not one of own, liger, auto"):
        NumericsConfig(cross_entropy="apex")
