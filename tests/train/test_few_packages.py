"""Training and its benchmark import on a machine that has PyTorch and little else."""

import subprocess
import sys

import pytest

LACKING = ("hydra", "mlflow", "lm_eval", "submitit", "flash_attn", "liger_kernel", "threadpoolctl")


@pytest.mark.parametrize("module", ["workbench.train.loop", "workbench.train.throughput", "benchmarks.training"])
def test_training_imports_without_the_packages_of_a_study(module):
    missing = "".join(f"sys.modules[{name!r}] = None; " for name in LACKING)
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; {missing}import {module}"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
