"""What a worker does: phase after phase, the tasks that nobody else does, until the corpus is finished."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.interruptions import Interruptions
from workbench.data.corpus.phases import Phase
from workbench.data.corpus.task_claims import Claims, LostClaimError, Owner

_WAIT_SECONDS = 0.1
"""First wait for the tasks of others; each further one is half as long again."""
_LONGEST_WAIT_SECONDS = 5.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


class NoSpaceError(OSError):
    """The disk has no room for a task's files."""


def do_tasks(corpus: Corpus, phases: Sequence[Phase], interruptions: Interruptions) -> None:
    """Do tasks until none is left, whoever does them.

    Raises
    ------
    ValueError
        An input is damaged, or the settings do not fit it.
    NoSpaceError
        The disk is full; nothing that was done is lost.
    KeyboardInterrupt
        Somebody asked to stop; the task that was being done has left nothing.
    """
    claims = corpus.folder.claims
    for phase in phases:
        wait = _WAIT_SECONDS
        while not corpus.has_ended():
            done = corpus.folder.done_in(phase.name)
            left = [task for task in phase.tasks(corpus) if task not in done]
            if not left:
                break
            try:
                worked = [_try_task(corpus, claims, phase, task, interruptions) for task in left]
            except FileNotFoundError:
                if not corpus.has_ended():
                    raise
                return
            if any(worked):
                wait = _WAIT_SECONDS
                continue
            with interruptions.allowed():
                time.sleep(wait)
            wait = min(1.5 * wait, _LONGEST_WAIT_SECONDS)


def _try_task(corpus: Corpus, claims: Claims, phase: Phase, task: str, interruptions: Interruptions) -> bool:
    """Do a task, unless it is done or claimed by a process that lives; whether it was done here."""
    interruptions.check()
    if corpus.folder.is_done(task):
        return False
    with naming_full_disk(corpus, task):
        owner = _claim(corpus, claims, task)
    if owner is None:
        return False
    try:
        # A corpus that another process has just finished has no records any more.
        if corpus.folder.is_done(task) or corpus.has_ended():
            return False
        with claims.kept(task, owner), interruptions.allowed():
            _do(corpus, phase, task, owner)
    except LostClaimError:
        return False
    except Exception:
        # Whoever takes a task from a sleeper deletes the files that it writes, which fails in many ways.
        if claims.owner(task) == owner:
            raise
        return False
    finally:
        corpus.folder.discard(owner)
        claims.release(task, owner)
    return True


def _claim(corpus: Corpus, claims: Claims, task: str) -> Owner | None:
    """Claim a task, also one whose owner is dead; None where another process has it."""
    if claims.is_held(task):  # looking writes nothing: those who wait look at every task that is left
        dead = claims.take_away(task)
        if dead is None:
            return None
        corpus.folder.discard(dead)
    return claims.take(task)


def _do(corpus: Corpus, phase: Phase, task: str, owner: Owner) -> None:
    started = time.monotonic()
    name = task.partition("/")[2]
    needed = phase.needs(corpus, name)
    if free_bytes(corpus.folder.root) < needed:
        raise _no_space(corpus, task, needed)
    with naming_full_disk(corpus, task, needed):
        scratch = corpus.folder.scratch(owner)
        scratch.mkdir()  # the folder that it is in is gone where another process has finished the corpus
        facts = phase.do(corpus, name, scratch)
        corpus.folder.finish(task, owner, facts, time.monotonic() - started)


@contextmanager
def naming_full_disk(corpus: Corpus, what: str, needed: int = 0) -> Iterator[None]:
    """Do what writes into a corpus's folder, and say it where the disk is full.

    Parameters
    ----------
    corpus
        The corpus.
    what
        What is written: a task, or a file.
    needed
        Bytes that it takes; 0 where it is small.

    Raises
    ------
    NoSpaceError
        The disk or a quota is full.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, NoSpaceError):
            raise
        if _is_full(error) or (error.errno is None and free_bytes(corpus.folder.root) < needed):
            raise _no_space(corpus, what, needed) from error
        raise


def _is_full(error: OSError) -> bool:
    """Whether the disk or a quota was full; libraries may say so in words alone."""
    return error.errno in _FULL or "No space left" in str(error)


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write where a folder is."""
    return shutil.disk_usage(folder).free


def _no_space(corpus: Corpus, what: str, needed: int) -> NoSpaceError:
    free = free_bytes(corpus.folder.root)
    needs = f"it needs about {needed / 1e6:,.1f} MB, and " if needed else ""
    return NoSpaceError(
        f"no room for {what} of data {corpus.fingerprint}: {needs}{free / 1e6:,.1f} MB are free in {corpus.folder.root} (or a quota is used up); what is done is kept: make "
        "room, and the same command goes on"
    )
