"""What worker processes do when a token store is built, and the pool that calls them in order."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data import tokenizer as tokenizers
from workbench.data.heldout import Heldout, hash_text
from workbench.data.overlap import OverlapMeter
from workbench.data.sources import Group, Item


@dataclass
class Work:
    """What a worker process knows, and the two things it does."""

    groups: list[Group]
    """Sources as they are read."""
    heldout: Heldout
    """What must not stay in training texts."""
    meter: OverlapMeter
    """Measures what stayed."""
    min_bytes: int
    """Shorter texts are dropped."""

    def read(self, group: int, items: list[Item], wanted: tuple[str, ...]) -> tuple[list[tuple[str, int, str]], set]:
        """(source, hash, text) of the pieces that may be trained on, and the held-out runs that were cut out."""
        collecting = gc.isenabled()
        gc.disable()  # syntax trees are large and without cycles: collecting would take half the time
        try:
            pieces, found = [], set()
            for item in items:
                for source, text in self.groups[group].documents(item, wanted):
                    kept, runs = self.heldout.runs.cut(text)
                    found |= runs
                    if hash_text(text) not in self.heldout.dropped:
                        pieces += [(source, hash_text(p), p) for p in kept if len(p.encode()) >= self.min_bytes]
            return pieces, {"\n".join(run) for run in found}
        finally:
            if collecting:
                gc.enable()

    def encode(
        self, texts: list[str], directory: Path, facts: tokenizers.TokenizerFacts, dtype: str
    ) -> tuple[bytes, set[str]]:
        """Token ids of training documents, little endian, and the held-out windows that occur in the texts."""
        tokens = tokenizers.encode_documents(tokenizers.load_saved(directory), texts, facts, np.dtype(dtype))
        return tokens.tobytes(), self.meter.hits(texts)


_work: Work | None = None


def _start_worker(work: Work) -> None:
    global _work
    _work = work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End with the parent even where it was killed and could not say so."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_work, method)(*arguments)


class Pool:
    """Workers' results in the order of submission; one worker is this process itself."""

    def __init__(self, work: Work, workers: int) -> None:
        """Start the workers."""
        self._local, self.workers = work, workers
        self._executor = (
            ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (work,)) if workers > 1 else None
        )

    def submit(self, method: str, *arguments: Any) -> Future[Any]:
        """Queue a call of a method of `Work`."""
        if self._executor is not None:
            return self._executor.submit(_call, method, arguments)
        future: Future[Any] = Future()
        future.set_result(getattr(self._local, method)(*arguments))
        return future

    def results(self, method: str, arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Yield results in order, a few calls ahead; `arguments` is asked for as late as possible."""
        ahead: deque[Future[Any]] = deque()
        for each in arguments:
            ahead.append(self.submit(method, *each))
            if len(ahead) > (3 * self.workers if self._executor else 0):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def close(self) -> None:
        """End the workers; what they have not begun is dropped."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
