"""Work of several independent jobs on a CPU, which divide its threads among them.

Operators of a small model are too short to be divided: their threads wait for each other, on a busy machine for longer
than they work. PyTorch leaves Python's lock while it computes, so that whole jobs run beside each other, and only threads
that are left over divide operators.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def interleaved(jobs: Sequence[Callable[[], Iterator[T]]], threads: int) -> Iterator[T]:
    """Yield what the jobs yield, each in its own order, as it comes; the first error of one ends all.

    Parameters
    ----------
    jobs
        What is to be done.
    threads
        For all of them together; at most so many jobs run at a time.
    """
    count = min(threads, len(jobs))
    todo: queue.SimpleQueue[Callable[[], Iterator[T]]] = queue.SimpleQueue()
    found: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    ended = threading.Event()

    def work() -> None:
        torch.set_num_threads(threads // count)
        try:
            while not ended.is_set():
                for item in todo.get_nowait()():
                    found.put((item,))
                    if ended.is_set():
                        return
        except queue.Empty:
            pass
        except BaseException as error:
            found.put(error)
        finally:
            found.put(None)

    before = torch.get_num_threads()
    workers = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    try:
        for worker in workers:
            worker.start()
        running = len(workers)
        while running:
            item = found.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item[0]
    finally:
        ended.set()
        for worker in workers:
            worker.join()
        torch.set_num_threads(before)  # what a thread sets is also what later threads begin with
