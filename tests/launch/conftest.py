"""A local run whose workers are threads of the test: they do the same tasks, and start at once."""

import multiprocessing
import os
import threading

import pytest

from workbench.launch.local import local_run
from workbench.launch.local.local_run import LocalRun
from workbench.launch.local.worker import _Worker


class Thread:
    """A worker as `LocalRun` sees one."""

    def __init__(self, connection, layout, evaluation):
        self.stop, self.exitcode = threading.Event(), 0
        self.worker = _Worker(connection, layout, evaluation, 1, "cpu", self.stop.is_set)
        self.thread = threading.Thread(target=self._run, args=(connection,))
        self.pid = os.getpid()

    def _run(self, connection):
        while not self.stop.is_set():
            try:
                connection.send(self.worker.do(connection.recv()))
            except (EOFError, OSError):
                return

    def start(self):
        self.thread.start()

    def is_alive(self):
        return self.thread.is_alive()

    def terminate(self):
        self.stop.set()

    def join(self):
        self.thread.join()


class Quiet:
    """A display that keeps what it was told."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def __getattr__(self, name):
        return lambda *_: None


@pytest.fixture
def run_in_threads(monkeypatch):
    """Run a frozen study as `LocalRun` does; gives the outcome and what was said."""

    def start(self, slots):
        ours, theirs = multiprocessing.Pipe()
        process = Thread(theirs, self.layout, self.plan.evaluation)
        process.start()
        worker = local_run._Worker(process, ours, None, slots)
        self.workers.append(worker)
        return worker

    def run(facts, workers=1, *, evaluate=False):
        display = Quiet()
        run = LocalRun(facts, workers, display)
        if not evaluate:
            run.to_evaluate.clear()
        return run.run(), display.said

    monkeypatch.setattr(LocalRun, "_start_worker", start)
    monkeypatch.setattr(LocalRun, "_ask_to_stop", lambda self, *_: None)
    return run
