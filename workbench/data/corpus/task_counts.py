"""How many tasks of a corpus there are, and how many are done, from its folder alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workbench.data.corpus.corpus_plan import Corpus, open_corpus
from workbench.data.corpus.phases import PHASES
from workbench.data.corpus.silent_owners import describe_silence_now


@dataclass(frozen=True)
class TaskCounts:
    """Tasks of a corpus, at one moment."""

    done: int
    """Those with a record."""
    tasks: int
    """All, of every phase."""
    doing: str
    """What is done now, for people: of the first phase that is not done."""
    done_in_phase: int
    """Tasks of that phase that are done."""
    tasks_in_phase: int
    """All of that phase."""
    at_once: int
    """Most tasks that may still be done at the same time, in whichever phase: more workers than these have nothing to do."""
    waits: str = ""
    """Whose task was not heard of for a while, and what can be done; empty where there is none."""


def count_tasks(corpus: Corpus) -> TaskCounts:
    """Count the tasks of a corpus that was begun."""
    counted = [(phase, len(corpus.folder.done_in(phase.name)), len(phase.tasks(corpus))) for phase in PHASES]
    current, done, tasks = next((each for each in counted if each[1] < each[2]), counted[-1])
    return TaskCounts(
        done=sum(each[1] for each in counted),
        tasks=sum(each[2] for each in counted),
        doing=current.doing,
        done_in_phase=done,
        tasks_in_phase=tasks,
        at_once=max(each[2] - each[1] for each in counted),
        waits=describe_silence_now(corpus.folder.claims),
    )


def count_begun(root: Path) -> TaskCounts | None:
    """Count the tasks of the corpus that is built in a folder; None where none was begun, or it was finished just now."""
    try:
        corpus = open_corpus(root)
        return None if corpus.has_ended() else count_tasks(corpus)
    except FileNotFoundError:
        return None
