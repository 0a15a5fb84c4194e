"""A process that trains keeps what it frees: no step asks the system for memory that the one before it had."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep freed memory")

FAULTS = """
import resource, statistics
from dataclasses import replace
from test_micro_batch import STAGE
from workbench.train import throughput

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def counted(stage, device, make=throughput._make_step):
    global step
    made = make(stage, device)
    def step():
        before = faults()
        made()
        found.append(faults() - before)
    return step

found = []
throughput._make_step = counted
model = replace(STAGE.model, num_layers=1, width=64, num_heads=2, num_kv_heads=2, mlp_width=128, vocab_size=4096)
stream = replace(STAGE.stream, context_tokens=128)
stage = replace(STAGE, model=replace(model, context_tokens=128), stream=stream, batch_sequences=8, precision="fp32")
throughput.measure_tokens_per_second(stage, seconds=0.0)  # at least one step, after two to warm up
while len(found) < 40:
    step()
print(statistics.median(found[10:]))
"""


def _faults_a_step(**variables: str) -> float:
    path = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-500:]
    return float(done.stdout)


@glibc
def test_steps_do_not_ask_the_system_for_memory_that_they_had():
    assert _faults_a_step() < 50


@glibc
def test_what_the_user_has_set_stays():
    """128 KB is where glibc begins."""
    assert _faults_a_step(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") > 500
