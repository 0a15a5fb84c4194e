"""Worker processes on this machine: begun, watched, and ended with this one, however it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from workbench.data.corpus.corpus_plan import Corpus, open_corpus
from workbench.data.corpus.full_disk import NoSpaceError
from workbench.data.corpus.interruptions import Interruptions
from workbench.data.corpus.phases import PHASES
from workbench.data.corpus.task_loop import do_tasks
from workbench.data.hub import HubOutOfReachError
from workbench.data.out_of_reach import OutOfReachError
from workbench.data.workers import follow_parent

_POLL_SECONDS = 0.2
_END_SECONDS = 10.0
"""Time that all workers together have to give up their tasks when they are told to; then they are killed, which loses no more."""
_LAST_SECONDS = 10.0
"""Time that workers have to end once one of them has found no task left; they look every 5 s at least."""
_MOST_DEATHS = 2
"""A task whose worker was killed this often is not tried again: it may need more memory than there is."""

_RAISED = {each.__name__: each for each in (NoSpaceError, HubOutOfReachError, OutOfReachError, ValueError)}
"""Classes of errors that are the same here as in the worker, which says what is to be done about them."""


def run_workers(corpus: Corpus, workers: int, watch: Callable[[], None], interruptions: Interruptions) -> None:
    """Do a corpus's tasks in processes of this machine; the killed are replaced.

    Parameters
    ----------
    corpus
        What is built.
    workers
        Processes.
    watch
        Called a few times a second.
    interruptions
        Asked a few times a second, too.

    Raises
    ------
    ValueError, workbench.data.out_of_reach.OutOfReachError, NoSpaceError
        As a worker raised it.
    RuntimeError
        A worker failed otherwise, or those of one task were killed twice.
    KeyboardInterrupt
        Somebody asked to stop; the workers have ended.
    """
    deaths: Counter[str] = Counter()
    running: dict[BaseProcess, Connection] = {}
    done_since: float | None = None
    try:
        while len(running) < workers:
            _start(corpus, running)
        while running:
            with interruptions.allowed():
                wait([process.sentinel for process in running], _POLL_SECONDS)
                watch()
            for process in [p for p in running if p.exitcode is not None]:
                if _ended(corpus, process, running.pop(process), deaths):
                    _start(corpus, running)
                elif done_since is None:  # no task is left: nobody is waited for who sleeps or does one again
                    done_since = time.monotonic()
            if done_since is not None and time.monotonic() - done_since > _LAST_SECONDS:
                break
    finally:
        _stop(running)


def _start(corpus: Corpus, running: dict[BaseProcess, Connection]) -> None:
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(corpus.folder.root, theirs))
    with _ignoring_interrupts():
        process.start()
    theirs.close()
    running[process] = ours


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Have processes that are started ignore Ctrl-C, which a terminal sends to all of them: this one ends its workers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _ended(corpus: Corpus, process: BaseProcess, connection: Connection, deaths: Counter[str]) -> bool:
    """Raise what a worker raised; whether it was killed, and another one should take its place."""
    if process.exitcode == 0:
        return False
    try:
        kind, text = connection.recv() if connection.poll() else ("", "")
    except EOFError:
        kind, text = "", ""
    if kind:
        raise _RAISED.get(kind, RuntimeError)(text)
    code = process.exitcode or 0
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    task = next((t for t, o in corpus.folder.claims.all().items() if o.pid == process.pid and o.is_gone()), "no task")
    deaths[task] += 1
    if deaths[task] >= _MOST_DEATHS:
        raise RuntimeError(
            f"the worker of {task} of data {corpus.fingerprint} ended twice by {how}: where memory is short, prepare with "
            "fewer workers or a smaller data.corpus.shard_bytes; what is done is kept, and the same command goes on"
        )
    return True


def _stop(running: dict[BaseProcess, Connection]) -> None:
    for process in running:
        process.terminate()
    end = time.monotonic() + _END_SECONDS
    for process in running:
        process.join(max(end - time.monotonic(), 0))
        if process.exitcode is None:
            process.kill()
            process.join()


def _work(root: Path, connection: Connection) -> None:
    """Work in a process of its own."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=follow_parent, daemon=True).start()
    interruptions = Interruptions()
    try:
        with interruptions.heeding(signal.SIGTERM):
            try:
                corpus = open_corpus(root)
            except FileNotFoundError:
                if root.exists():
                    raise
                return  # another command finished it while this process started
            do_tasks(corpus, PHASES, interruptions)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)
    except (ValueError, NoSpaceError) as error:
        kind = next(name for name in (type(error).__name__, "ValueError") if name in _RAISED)
        connection.send((kind, str(error)))
        sys.exit(1)
    except Exception:
        connection.send(("RuntimeError", traceback.format_exc()))
        sys.exit(1)
