"""Batches drawn in a thread while the step before them is computed.

A stream is a pure function of the index, so that what is drawn ahead is what would be drawn later, and nothing of it is state:
a training that stops, resumes or jumps to another place asks for another index.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from workbench.study.cores import usable_cores

Drawn = TypeVar("Drawn")


def batches_ahead(device: str) -> int:
    """Batches to draw ahead for a training on `cuda` or `cpu`.

    On a GPU 2, if the process has a core besides the one that feeds it. On a CPU none: threads of the training would wait
    for the one that draws, and a draw takes a hundredth of a step (docs/performance.md).
    """
    return 2 if device == "cuda" and usable_cores() > 1 else 0


class ReadAhead(Generic[Drawn]):
    """What `draw(start, count)` gives, at once where it has been asked for in order.

    Parameters
    ----------
    draw
        A pure function of start and count; called in one thread at a time.
    stride
        From one start to the next one that will be asked for.
    batches
        Most batches drawn and not asked for; with 0 there is no thread.
    stop
        Nothing that begins here or later is drawn ahead.
    """

    def __init__(self, draw: Callable[[int, int], Drawn], stride: int, batches: int, stop: int) -> None:
        self._draw, self._stride, self._batches, self._stop = draw, stride, batches, stop
        self._pending: deque[tuple[int, int, Future[Drawn]]] = deque()
        self._thread = ThreadPoolExecutor(1, "read-ahead") if batches else None

    def __call__(self, start: int, count: int) -> Drawn:
        """Draw sequences [start, start + count), and begin with those that follow.

        Raises
        ------
        Exception
            What `draw` raised for this batch, though it happened earlier.
        """
        if self._thread is None:
            return self._draw(start, count)
        if not self._pending or self._pending[0][:2] != (start, count):
            self._forget()
            self._submit(self._thread, start, count)
        wanted = self._pending.popleft()[2]
        last = self._pending[-1][0] if self._pending else start
        while len(self._pending) < self._batches and last + self._stride < self._stop:
            last += self._stride
            self._submit(self._thread, last, count)
        return wanted.result()

    def _submit(self, thread: ThreadPoolExecutor, start: int, count: int) -> None:
        self._pending.append((start, count, thread.submit(self._draw, start, count)))

    def _forget(self) -> None:
        while self._pending:
            self._pending.popleft()[2].cancel()

    def close(self) -> None:
        """End the thread, once the batch that it is at is drawn; a later call draws without one."""
        self._forget()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
