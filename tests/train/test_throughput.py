"""Several processes that measure at once: each on its own GPU, and one that fails keeps no other waiting."""

import os
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from workbench.train import throughput


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
