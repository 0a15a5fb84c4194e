"""What a worker does: phase after phase, the tasks that nobody else does, until the corpus is finished."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.full_disk import free_bytes, naming_full_disk, no_space
from workbench.data.corpus.interruptions import Interruptions
from workbench.data.corpus.phases import Phase
from workbench.data.corpus.task_claims import Claims, LostClaimError, Owner
from workbench.data.out_of_reach import OutOfReachError

_WAIT_SECONDS = 0.1
"""First wait for the tasks of others; each further one is half as long again."""
_LONGEST_WAIT_SECONDS = 5.0
_PAUSES_SECONDS = (10.0, 60.0)
"""Before a task is tried again for which a service did not answer; the libraries that ask it have tried again before that."""

logger = logging.getLogger(__name__)


def do_tasks(corpus: Corpus, phases: Sequence[Phase], interruptions: Interruptions) -> None:
    """Do tasks until none is left, whoever does them.

    Raises
    ------
    ValueError
        An input is damaged, or the settings do not fit it.
    workbench.data.corpus.full_disk.NoSpaceError
        The disk is full; nothing that was done is lost.
    workbench.data.out_of_reach.OutOfReachError
        A service that has the input did not answer, however often it was asked.
    KeyboardInterrupt
        Somebody asked to stop; the task that was being done has left nothing.
    """
    claims = corpus.folder.claims
    for phase in phases:
        wait = _WAIT_SECONDS
        while not corpus.has_ended():
            try:
                done = corpus.folder.done_in(phase.name)
                left = [task for task in phase.tasks(corpus) if task not in done]
                if not left:
                    break
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
    with naming_full_disk(corpus.folder.root, corpus.fingerprint, task):
        owner = _claim(corpus, claims, task)
    if owner is None:
        return False
    try:
        # A corpus that another process has just finished has no records any more.
        if corpus.folder.is_done(task) or corpus.has_ended():
            return False
        with claims.kept(task, owner), interruptions.allowed():
            _do_patiently(corpus, phase, task, owner)
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


def _do_patiently(corpus: Corpus, phase: Phase, task: str, owner: Owner) -> None:
    """Do a task, and again after a pause where a service did not answer."""
    for seconds in _PAUSES_SECONDS:
        try:
            _do(corpus, phase, task, owner)
            return
        except OutOfReachError as error:
            if not error.may_pass:
                raise
            logger.warning("%s; %s is tried again in %g s", error, task, seconds)
        corpus.folder.discard(owner)
        time.sleep(seconds)
    _do(corpus, phase, task, owner)


def _do(corpus: Corpus, phase: Phase, task: str, owner: Owner) -> None:
    started = time.monotonic()
    name = task.partition("/")[2]
    needed, root = phase.needs(corpus, name), corpus.folder.root
    if (free := free_bytes(root)) < needed:
        raise no_space(root, corpus.fingerprint, task, needed, free)
    with naming_full_disk(root, corpus.fingerprint, task, needed):
        scratch = corpus.folder.scratch(owner)
        scratch.mkdir()  # the folder that it is in is gone where another process has finished the corpus
        facts = phase.do(corpus, name, scratch)
        corpus.folder.finish(task, owner, facts, time.monotonic() - started)
