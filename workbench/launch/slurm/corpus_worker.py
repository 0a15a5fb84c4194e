"""What a job does that makes a corpus: the workers of its node, until nothing is left or the job's time is over."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.data.corpus.corpus_plan import Corpus, open_corpus
from workbench.data.corpus.corpus_speeds import remember
from workbench.data.corpus.pipeline import Stopped, build_corpus, building_folder
from workbench.data.folders import MANIFEST
from workbench.kinds.corpus.run import SpacedLines, attempt
from workbench.launch.slurm.interrupt import REQUEUE_SIGNALS, Interrupt
from workbench.study.layout import Layout

_ASK_SECONDS = 0.5


def make_corpus(directory: Path, workers: int, interrupt: Interrupt, say: Callable[[str], None]) -> bool:
    """Work on a corpus that was begun; whether it is finished.

    Parameters
    ----------
    directory
        The store, whose name is the fingerprint.
    workers
        Worker processes.
    interrupt
        Once it is asked, the workers give up their tasks in order.
    say
        Told now and then how far it is.
    """
    try:
        corpus = open_corpus(building_folder(directory))
    except FileNotFoundError:
        return True  # another job finished it while this one waited in the queue

    layout = Layout(directory.parent.parent)

    def remember_speed(corpus: Corpus) -> None:
        if workers > 1:
            remember(layout.root, corpus)

    interrupt.end_orderly()
    # Slurm sends the signal to every process of the job, and workers inherit what this thread blocks.
    signal.pthread_sigmask(signal.SIG_BLOCK, REQUEUE_SIGNALS)
    try:
        with _stopped_by(interrupt), attempt(layout, directory.name, interrupt.is_asked):
            build_corpus(directory, corpus.data, corpus.tokenizer, workers, SpacedLines(say), remember_speed)
    except Stopped as stopped:
        say(str(stopped))
        return (directory / MANIFEST).is_file()
    except RuntimeError:
        if not interrupt.is_asked():  # workers that were told to end beside us are no failure
            raise
        return False
    return True


@contextmanager
def _stopped_by(interrupt: Interrupt) -> Iterator[None]:
    """Tell the pipeline to stop, in the way it heeds, once the job is told to."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(_ASK_SECONDS):
            if interrupt.is_asked():
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
