"""Who gets which slots of this machine: tasks wait for enough of them, and each worker sees its own GPUs alone."""

import multiprocessing
import os
from multiprocessing.connection import Connection
from types import SimpleNamespace

import pytest

from workbench.forecast import slots
from workbench.launch.local import local_run, worker
from workbench.launch.local.local_run import LocalRun
from workbench.launch.local.worker import Task, run_worker


class Process:
    """A process that is started and ended in name alone."""

    def __init__(self, target=None, args=(), daemon=None):
        self.args, self.pid, self.exitcode, self.joined = args, 0, 0, False
        self.other_end = Connection(os.dup(args[0].fileno()))  # as a process of its own would hold it

    def start(self):
        pass

    def join(self):
        self.joined = True

    def terminate(self):
        pass

    def is_alive(self):
        return not self.joined


@pytest.fixture
def run(make_study, monkeypatch):
    """A run on a machine of so many GPUs whose workers do nothing: call it."""
    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=Process)
    monkeypatch.setattr(local_run, "warm_context", lambda: context)

    def make(gpus, *more):
        monkeypatch.setattr(slots, "visible_gpus", lambda: tuple(str(n) for n in range(gpus)))
        display = SimpleNamespace(say=lambda text: None)
        return LocalRun(make_study("tokens=2560", *more), None, display)

    return make


def gpus_of(run):
    return [one.process.args[-1] for one in run.workers]


def test_each_worker_sees_the_gpus_of_its_slots(run):
    three = run(3, "seed=0,1,2,3")
    three._assign()
    assert gpus_of(three) == ["0", "1", "2"]
    assert len(three.to_train) == 4 + 4 - 3, "no fourth training is started: there are trunks and cooldowns left"


def test_without_gpus_the_environment_is_left_alone(run, monkeypatch):
    monkeypatch.setattr(slots, "usable_cores", lambda: 2)
    two = run(0, "seed=0,1,2")
    two._assign()
    assert gpus_of(two) == [None, None]


def test_a_stage_of_several_processes_takes_as_many_slots(run):
    four = run(4, "seed=0,1,2", "resources.processes=2")
    four._assign()
    assert gpus_of(four) == ["0,1", "2,3"]
    assert [one.task.processes for one in four.workers] == [2, 2]


def test_a_stage_that_needs_more_slots_than_are_free_is_not_overtaken(run):
    three = run(3, "seed=0,1", "resources.processes=2")
    three._assign()
    assert gpus_of(three) == ["0,1"]
    waiting = three.next
    assert waiting is not None
    three._assign()
    assert three.next is waiting
    assert three._is_busy(waiting.stage), "it counts as under way, so that nobody trains or scores it meanwhile"
    three.workers[0].task = None
    three._assign()
    assert three.workers[0].task is waiting


def test_idle_workers_make_room_for_a_larger_one(run):
    two = run(2)
    first, second = two._start_worker((0,)), two._start_worker((1,))
    second.task = Task("evaluate", "a" * 16)
    assert two._worker_for(Task("train", "b" * 16, processes=2)) is None
    assert two.workers == [first, second]
    second.task = None
    found = two._worker_for(Task("train", "b" * 16, processes=2))
    assert found.slots == (0, 1)
    assert (two.workers, first.process.joined, second.process.joined) == ([found], True, True)
    alone = two._worker_for(Task("evaluate", "a" * 16))
    assert (alone.slots, found.process.joined) == ((0,), True)


def lose_parent(run):
    """Let a run be of a child alone, whose parent was finished by the plan and has gone since."""
    parent = next(iter(run.plan.nodes.values()))
    del run.to_train[parent.id]
    return parent


def test_a_lost_parent_is_trained_again_though_nothing_else_can_run(run):
    one = run(1)
    parent = lose_parent(one)
    assert [node.stage.parent.stage for node in one.to_train.values()] == [parent.id]
    one._assign()
    assert [worker.task.stage for worker in one.workers] == [parent.id]


def test_a_lost_parent_with_more_processes_than_fit_here_fails_and_says_so(run, monkeypatch):
    one = run(2, "resources.processes=2")
    parent = lose_parent(one)
    monkeypatch.setattr(one, "slots", slots.Slots(1, "one per GPU: 0", ("0",)))  # it was trained where there are more
    one._assign()
    [failure] = one.outcome.failures
    assert (failure.kind, failure.stage) == ("train", parent.id)
    assert "resources.processes=2 is more than there is room for here, which is 1" in failure.error
    assert (one.workers, one.next) == ([], None)


def test_a_process_of_several_that_died_is_tried_again_and_then_given_up(run):
    two = run(2, "resources.processes=2")
    for turn in range(local_run._TRIES):
        task = two._next_task()
        two._settle(worker.Result(task, "died", (worker.Problem("rank 1: killed"),)))
        assert (task.stage in two.to_train) == (turn < local_run._TRIES - 1)
    [failure] = two.outcome.failures
    assert failure.error == "rank 1: killed"


def test_a_worker_has_its_gpus_before_anything_can_start_cuda(tmp_path, monkeypatch):
    monkeypatch.setenv(slots.VISIBLE, "0,1,2")
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    run_worker(theirs, tmp_path, None, 1, "auto", "GPU-8932f937")
    assert os.environ[slots.VISIBLE] == "GPU-8932f937"
