"""Workers that wait for the tasks of others: they look without writing, ever less often, and end when all is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.data.corpus import task_loop
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.corpus_progress import ProgressWatch
from workbench.data.corpus.interruptions import Interruptions
from workbench.data.corpus.local_workers import run_workers
from workbench.data.corpus.phases import PHASES
from workbench.data.corpus.pipeline import begin_corpus
from workbench.data.corpus.task_claims import Claims
from workbench.data.corpus.task_folder import TaskFolder
from workbench.data.fingerprint import data_fingerprint
from workbench.study.layout import Layout


@pytest.fixture(name="corpus")
def fixture_corpus(corpus_data, small_tokenizer, tmp_path: Path) -> Corpus:
    directory = Layout(tmp_path / "waited").data(data_fingerprint(corpus_data, small_tokenizer))
    begun = begin_corpus(directory, corpus_data, small_tokenizer)
    assert begun is not None
    return begun


def test_who_waits_writes_nothing_and_looks_ever_less_often(corpus, monkeypatch):
    claims, tasks = corpus.folder.claims, PHASES[0].tasks(corpus)
    owners = {task: claims.take(task) for task in tasks}
    slept: list[float] = []
    made: list[str] = []
    take = Claims.take

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 20:
            for task, owner in owners.items():
                claims.release(task, owner)

    def count(self: Claims, task: str):
        made.append(task)
        return take(self, task)

    monkeypatch.setattr(task_loop.time, "sleep", sleep)
    monkeypatch.setattr(Claims, "take", count)
    task_loop.do_tasks(corpus, PHASES[:1], Interruptions())
    assert made == tasks  # each once, when it was free
    assert slept[0] == 0.1
    assert sorted(slept) == slept
    assert slept[-1] == 5.0
    assert len(slept) == 20


def test_after_work_the_waits_are_short_again(corpus, monkeypatch):
    claims, tasks = corpus.folder.claims, PHASES[0].tasks(corpus)
    owners = {task: claims.take(task) for task in tasks[:2]}
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) in (5, 10):
            claims.release(*owners.popitem())

    monkeypatch.setattr(task_loop.time, "sleep", sleep)
    task_loop.do_tasks(corpus, PHASES[:1], Interruptions())
    assert slept[:5] == slept[5:]


def test_a_record_that_goes_while_it_is_looked_at_is_no_error(corpus, monkeypatch):
    """Another command ends the corpus and deletes them."""
    said: list[str] = []
    watch = ProgressWatch(corpus, lambda text, *_: said.append(text))
    watch.look()
    assert said == [f"reading: 0 of {len(corpus.shards)} shards"]

    def is_gone(folder: TaskFolder, task: str):
        raise FileNotFoundError(task)

    monkeypatch.setattr(TaskFolder, "read_record", is_gone)
    assert task_loop._try_task(corpus, corpus.folder.claims, PHASES[0], "read/000000", Interruptions())
    watch._next = 0.0
    watch.look()
    assert len(said) == 1


def test_of_a_corpus_that_has_ended_nothing_is_said(corpus):
    said: list[str] = []
    watch = ProgressWatch(corpus, lambda text, *_: said.append(text))
    corpus.folder.root.replace(corpus.folder.root.with_name("finished"))
    watch.look()
    assert not said


def test_workers_that_begin_when_another_command_has_finished_have_nothing_to_do(corpus):
    """A process takes a second to start, and many on a busy machine."""
    corpus.folder.root.replace(corpus.folder.root.with_name("finished"))
    run_workers(corpus, 2, lambda: None, Interruptions())
    assert not corpus.folder.root.exists()


def test_records_that_go_while_they_are_listed_are_no_error(corpus, monkeypatch):
    """Another command ends the corpus between two looks at its folder."""

    def is_gone(folder: TaskFolder, phase: str):
        folder.root.replace(folder.root.with_name("finished"))
        raise FileNotFoundError(phase)

    monkeypatch.setattr(TaskFolder, "done_in", is_gone)
    task_loop.do_tasks(corpus, PHASES, Interruptions())
    assert not corpus.folder.root.exists()
