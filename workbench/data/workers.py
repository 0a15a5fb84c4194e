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
from typing import Any, NamedTuple

import numpy as np

from workbench.data import counts
from workbench.data import tokenizer as tokenizers
from workbench.data.heldout import Heldout, hash_text, is_heldout
from workbench.data.overlap import OverlapMeter
from workbench.data.sources import Group, Item


class Reading(NamedTuple):
    """What a document of a source came to: pieces to train on, or why there are none."""

    source: str
    """Name of the source."""
    cause: str | None
    """Why it was dropped (see `workbench.data.counts`); None: it was not."""
    pieces: list[tuple[int, str]]
    """(hash, text) of what is left without held-out text: mostly one."""
    runs: frozenset[str]
    """Held-out runs that were cut out."""


_NO_RUNS: frozenset[str] = frozenset()


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
    heldout_percent: float
    """Share of the items that are kept out of training."""

    def read(self, group: int, items: list[Item], wanted: tuple[str, ...]) -> list[Reading]:
        """Documents of a group's items in order, those that are dropped among them."""
        collecting = gc.isenabled()
        gc.disable()  # syntax trees are large and without cycles: collecting would take half the time
        try:
            return [reading for item in items for reading in self._read_item(self.groups[group], item, wanted)]
        finally:
            if collecting:
                gc.enable()

    def _read_item(self, group: Group, item: Item, wanted: tuple[str, ...]) -> list[Reading]:
        if is_heldout(item.key, self.heldout_percent):
            return [Reading(name, counts.HELDOUT_SPLIT, [], _NO_RUNS) for name in wanted]
        return [
            Reading(found.source, found.cause, [], _NO_RUNS) if found.cause else self._cut(found.source, found.text)
            for found in group.documents(item, wanted)
        ]

    def _cut(self, source: str, text: str) -> Reading:
        """Take held-out text out of a document, and what is too short."""
        pieces, found = self.heldout.runs.cut(text)
        runs = frozenset("\n".join(run) for run in found) if found else _NO_RUNS
        if hash_text(text) in self.heldout.dropped:
            return Reading(source, counts.HELDOUT_TEXT, [], runs)
        kept = [(hash_text(piece), piece) for piece in pieces if not counts.why_too_short(piece, self.min_bytes)]
        if kept:
            return Reading(source, None, kept, runs)
        return Reading(source, counts.HELDOUT_TEXT if found else counts.why_too_short(text, self.min_bytes), [], runs)

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
    threading.Thread(target=follow_parent, daemon=True).start()


def follow_parent() -> None:
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
