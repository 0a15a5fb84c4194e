"""A stage of two processes on this machine: it ends as with one, stops with a checkpoint, and dies as a whole."""

import json
import signal
import threading
from types import SimpleNamespace

import psutil
import pytest
from safetensors.torch import load_file

from workbench.launch.local import death
from workbench.launch.local.together import _failed, train_together
from workbench.launch.local.worker import Task
from workbench.study.causes import DIVERGED, MEMORY, cause_of
from workbench.tracking import spool
from workbench.train.checkpoint import checkpoints_by_tokens, verify
from workbench.train.whole_stage import train_stage

TASK = Task("train", "a" * 16, processes=2)


def failure(exit_code, message=""):
    return SimpleNamespace(exitcode=exit_code, message=message)


def test_an_error_of_one_process_keeps_its_class_and_its_traceback():
    said = []
    recorded = {"message": "NonFiniteLossError: step 3:\nloss nan", "extraInfo": {"py_callstack": "Traceback ..."}}
    result = _failed(TASK, 1, failure(1, recorded), None, said.append)
    [problem] = result.problems
    assert (result.state, problem.error) == ("failed", "NonFiniteLossError: step 3: loss nan")
    assert cause_of(problem.error_class) == DIVERGED
    assert said == ["Traceback ..."]


def test_a_process_that_was_killed_is_another_matter(monkeypatch):
    monkeypatch.setattr(death, "memory_kills", lambda: 4)
    result = _failed(TASK, 1, failure(-signal.SIGKILL), 3, print)
    assert result.state == "died"
    assert result.problems[0].error.startswith("rank 1: KilledForMemoryError")
    assert cause_of(result.problems[0].error_class) == MEMORY


class Run:
    """Processes at a study's first stage, and what they said."""

    def __init__(self, facts):
        self.node = next(iter(facts.plan.nodes.values()))
        self.layout, self.dir = facts.layout, facts.layout.stage(self.node.id)
        self.said = []

    def train(self, on_progress=lambda asked: None):
        """Train with two processes; `on_progress` is given an event that asks them to stop."""
        asked = threading.Event()
        task = Task("train", self.node.id, targets=tuple(self.node.targets), processes=2)
        return train_together(self.layout, task, asked.is_set, lambda _: on_progress(asked), self.said.append)

    def losses(self):
        return [row[spool.TRAIN_LOSS] for row in spool.read_rows(self.dir.path)]

    def weights(self):
        return load_file(checkpoints_by_tokens(self.dir)[self.node.stage.end_tokens] / "model.safetensors")

    def state(self):
        return json.loads(self.dir.status.read_text())["state"]


@pytest.mark.slow
def test_asked_to_stop_they_write_a_checkpoint_and_end_as_one_process_does(make_study, outputs):
    run = Run(make_study("tokens=20480", "resources.processes=2"))
    stopped = run.train(lambda asked: asked.set())
    assert (stopped.state, run.state()) == ("killed", "killed"), (stopped, run.said)
    assert 0 < verify(run.dir.list_checkpoints()[-1])["tokens"] < run.node.stage.end_tokens
    assert run.train().state == "finished", run.said
    assert verify(run.dir.list_checkpoints()[-1])["numerics"]["world_size"] == 2
    (outputs.parent / "alone").mkdir()
    (outputs.parent / "alone" / "data").symlink_to(outputs / "data")
    alone = Run(make_study("tokens=20480", f"paths.outputs={outputs.parent / 'alone'}"))
    train_stage(alone.layout, alone.node.id)
    assert run.losses() == pytest.approx(alone.losses(), abs=1e-5)
    theirs = alone.weights()
    assert all(tensor.allclose(theirs[name], atol=1e-4) for name, tensor in run.weights().items())


@pytest.mark.slow
def test_a_dead_process_ends_the_other_and_is_the_one_that_is_named(make_study):
    run = Run(make_study("tokens=2048000", "resources.processes=2"))
    ranks = []

    def kill(asked):
        children = psutil.Process().children()
        ranks.extend(child for child in children if "multiprocessing.spawn" in " ".join(child.cmdline()))
        max(ranks, key=lambda rank: rank.pid).kill()

    result = run.train(kill)
    assert result.state == "died", (result, run.said)
    assert "rank 1" in result.problems[0].error
    assert "SIGKILL" in result.problems[0].error
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)
