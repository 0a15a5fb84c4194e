"""Several processes that measure at once: each on its own GPU, and one that fails keeps no other waiting."""

import os
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from workbench.config.schema import ModelConfig, NumericsConfig, ResourcesConfig
from workbench.train import throughput
from workbench.train.trial_stage import make_trial_stage


@pytest.fixture
def trial_stage():
    """A small stage of two processes on the CPU, with further numerics: call it."""

    def make(**numerics):
        model = ModelConfig("tiny", 1, 16, 2, 2, 32, vocab_size=64, context_tokens=16)
        stage = make_trial_stage(model, batch_sequences=4, numerics=NumericsConfig(device="cpu", **numerics))
        return replace(stage, resources=ResourcesConfig(processes=2))

    return make


@pytest.mark.parametrize("gpu", ["3", "GPU-x", None])
def test_a_process_sees_the_gpu_that_it_was_given(monkeypatch, gpu):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(throughput, "_barrier", [])
    given = queue.SimpleQueue()
    given.put(gpu)
    throughput._meet(threading.Barrier(1), given)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == (gpu or "0,1")


def test_one_that_fails_does_not_keep_the_others_waiting(monkeypatch):
    """Two threads in place of two processes: one fails at the first stage, and the other waits before the second."""
    failed = threading.Event()

    def measure(stage, seconds, choose):
        if not failed.is_set():
            failed.set()
            raise MemoryError("no room")
        return 1.0

    monkeypatch.setattr(throughput, "measure_tokens_per_second", measure)
    monkeypatch.setattr(throughput, "_barrier", [threading.Barrier(2)])
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(throughput._measure_each, [None, None]) for _ in range(2)]
        with pytest.raises(MemoryError, match="no room"):
            throughput._results(futures)
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_two_processes_of_a_stage_are_timed_together(trial_stage):
    speed, start_seconds = throughput.measure_shared(trial_stage())
    assert speed > 0
    assert start_seconds > 0


@pytest.mark.slow
def test_what_one_of_them_raises_is_raised(trial_stage):
    with pytest.raises((ValueError, ImportError), match="flash"):
        throughput.measure_shared(trial_stage(attention="flash_attn"))
