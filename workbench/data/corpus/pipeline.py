"""Builds a corpus: begun, gone on with, or finished, by any number of processes and commands on one folder.

data/<fingerprint>.building/      while it is built; its tasks are in `workbench.data.corpus.phases`
  plan.json                       the shards
  claims/  records/  scratch/     who does what, what is done, what is being written
  read/  leaks/  duplicates/ ..   work, deleted at the end
  heldout/  tokenizer/  tokens/   the store, with what `workbench.data.corpus.task_folder` names beside them
  manifest.json                   written when all tasks are done
data/<fingerprint>/               the same folder under its final name, without the work
data/<fingerprint>.changed/       the same folder where its inputs changed while they were read: nothing goes on with it
"""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from workbench.config.schema import DataConfig, TokenizerConfig
from workbench.data.corpus.corpus_manifest import write_manifest
from workbench.data.corpus.corpus_plan import PLAN, Corpus, plan_corpus
from workbench.data.corpus.corpus_progress import Progress, ProgressWatch
from workbench.data.corpus.full_disk import naming_full_disk
from workbench.data.corpus.interruptions import Interruptions
from workbench.data.corpus.local_workers import run_workers
from workbench.data.corpus.phases import PHASES
from workbench.data.corpus.shards import list_planned_files
from workbench.data.corpus.task_counts import count_begun
from workbench.data.corpus.task_folder import STAYS
from workbench.data.corpus.task_loop import do_tasks
from workbench.data.fingerprint import data_fingerprint
from workbench.data.folders import MANIFEST, locked
from workbench.data.object_store import forget_lists
from workbench.data.unpack import one_line
from workbench.study.files import fsync


class Stopped(KeyboardInterrupt):
    """The command was asked to stop; its text says how to go on."""


def building_folder(directory: Path) -> Path:
    """Where a corpus is built whose store will be `directory`."""
    return directory.with_name(f"{directory.name}.building")


def build_corpus(
    directory: Path,
    data: DataConfig,
    tokenizer: TokenizerConfig,
    workers: int,
    progress: Progress,
    on_done: Callable[[Corpus], None] | None = None,
) -> None:
    """Make the store of a corpus, or go on where it was left.

    Parameters
    ----------
    directory
        The store, whose name is the fingerprint.
    data, tokenizer
        What to read and how to cut it into tokens.
    workers
        Processes; other commands on the same folder add theirs. One is this process itself. The result does not
        depend on it.
    progress
        Called now and then with what is being done.
    on_done
        Called when all tasks are done, before the work is deleted; by every command that took part.

    Raises
    ------
    ValueError
        An input is missing, damaged, or changed while it was read, or a setting does not fit it.
    workbench.data.corpus.full_disk.NoSpaceError
        The disk is full.
    Stopped
        SIGINT or SIGTERM came, also where it was at the very end and the store is made.
    """
    interruptions = Interruptions()

    def say(text: str) -> None:
        progress(text, 0, None)

    try:
        with interruptions.heeding(signal.SIGINT, signal.SIGTERM):
            with interruptions.allowed():
                corpus = begin_corpus(directory, data, tokenizer, say)
            if corpus is not None:
                _do_all(corpus, workers, ProgressWatch(corpus, progress), interruptions)
                with interruptions.allowed():
                    if on_done is not None:
                        on_done(corpus)
                    _finish(directory, corpus, data, tokenizer, say, interruptions)
        interruptions.check()  # of what came where nothing could be broken off
    except KeyboardInterrupt:
        raise Stopped(_describe_stop(directory)) from None
    except Exception as error:
        if not interruptions.is_asked():
            raise
        raise Stopped(f"{_describe_stop(directory)}; it had met an error: {one_line(error)}") from error


def _do_all(corpus: Corpus, workers: int, watch: ProgressWatch, interruptions: Interruptions) -> None:
    """Do all tasks, here or in worker processes."""
    watch.look()
    if workers == 1:
        with _watched(watch):
            do_tasks(corpus, PHASES, interruptions)
    else:
        run_workers(corpus, workers, watch.look, interruptions)


def begin_corpus(
    directory: Path, data: DataConfig, tokenizer: TokenizerConfig, say: Callable[[str], None] | None = None
) -> Corpus | None:
    """Cut a corpus into shards, or open one that was begun; None where it is made.

    Parameters
    ----------
    directory, data, tokenizer
        As `build_corpus` takes them.
    say
        Told where another command is waited for, which begins or ends the corpus.

    Raises
    ------
    ValueError
        An input is missing.
    workbench.data.corpus.full_disk.NoSpaceError
        The disk is full.
    """
    if (directory / MANIFEST).is_file():
        return None
    root = building_folder(directory)
    with naming_full_disk(root, directory.name, "the folder"):
        root.parent.mkdir(parents=True, exist_ok=True)
    with _alone(directory, "divides it into shards", say):
        if (directory / MANIFEST).is_file():
            return None
        return plan_corpus(root, directory.name, data, tokenizer)


@contextmanager
def _alone(directory: Path, purpose: str, say: Callable[[str], None] | None) -> Iterator[None]:
    """Begin or end a corpus alone."""
    lock = directory.with_name(f"{directory.name}.lock")
    tell = None if say is None else lambda holder: say(f"waiting for {holder}")
    with naming_full_disk(directory, directory.name, lock.name), locked(lock, purpose, tell):
        yield


def _finish(
    directory: Path,
    corpus: Corpus,
    data: DataConfig,
    tokenizer: TokenizerConfig,
    say: Callable[[str], None],
    interruptions: Interruptions,
) -> None:
    """Write the manifest, delete the work and give the folder its name: one command alone, the others find it done.

    What takes long may be broken off; the last step may not, so that the store is there under its name or is not.

    Raises
    ------
    ValueError
        The inputs are not, or not on this host, what they were when the corpus was begun.
    """
    with _alone(directory, "checks its inputs and ends it", say):
        if (directory / MANIFEST).is_file():
            return
        root = corpus.folder.root
        forget_lists()
        if data_fingerprint(data, tokenizer) != directory.name:
            _refuse_changed(directory, corpus)
        if not (root / MANIFEST).exists():
            with naming_full_disk(root, corpus.fingerprint, "the manifest"):
                write_manifest(corpus, {phase.name: phase.tasks(corpus) for phase in PHASES})
        for place in sorted(root.iterdir()):
            if place.name not in (*STAYS, PLAN, MANIFEST):
                shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)
        with interruptions.held_back():
            fsync(root)
            root.replace(directory)
            fsync(directory.parent)


def _refuse_changed(directory: Path, corpus: Corpus) -> NoReturn:
    """Say that the inputs are not what they were; nothing is deleted.

    A host with other packages cannot finish what others made, but another one can. What was made of files that changed is
    of no use, and gets a name by which no command goes on with it.
    """
    root = corpus.folder.root
    for shard in corpus.shards:
        source = corpus.source(shard)
        if source.kind.startswith("python_"):
            try:
                list_planned_files(source, shard.parts[0])
            except ValueError as error:
                raise ValueError(f"{error}; what is done is kept in {root}") from None
    text = f"the inputs of data {corpus.data.name!r} changed while they were read: prepare again"
    if not root.exists():  # another command found the same
        raise ValueError(text)
    names = (f"{directory.name}.changed{number}" for number in ("", *range(2, 1000)))
    place = next(place for name in names if not (place := directory.with_name(name)).exists())
    root.replace(place)
    raise ValueError(f"{text}; what was made of them as they were is of no use, and lies in {place}: delete it")


def _describe_stop(directory: Path) -> str:
    if (directory / MANIFEST).is_file():
        return f"stopped; data {directory.name} is made, and the same command goes on from there"
    root = building_folder(directory)
    counted = count_begun(root)
    if counted is None:  # nothing was read yet, or all is read
        return f"stopped at the beginning or the end; what is done is kept in {root}, and the same command goes on"
    return (
        f"stopped while {counted.doing} ({counted.done_in_phase} of {counted.tasks_in_phase} tasks are done); what is done is "
        f"kept in {root}, and the same command goes on"
    )


@contextmanager
def _watched(watch: ProgressWatch) -> Iterator[None]:
    """Look now and then, from another thread."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            watch.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
