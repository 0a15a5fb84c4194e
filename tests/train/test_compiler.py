"""What `torch.compile` keeps on disk serves the processor that it was made for, and no other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.train.compiler import missing_for_compile

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
@pytest.mark.skipif(bool(missing_for_compile("cpu")), reason="torch.compile has no C++ compiler here")
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
