"""A process that does one task after another: trains stages, and evaluates their checkpoints.

It is kept alive between tasks, so that imports and the evaluator's start-up are paid once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from workbench.config.schema import EvaluationConfig
from workbench.forecast.slots import VISIBLE
from workbench.study.layout import Layout


@dataclass(frozen=True)
class Task:
    """One thing to do."""

    kind: str
    """`train` or `evaluate`."""
    stage: str
    """Id of the stage."""
    targets: tuple[int, ...] = ()
    """`train`: tokens this launch wants checkpoints at."""
    pairs: tuple[tuple[Path, str], ...] = ()
    """`evaluate`: checkpoints and suites."""
    processes: int = 1
    """`train`: processes of this machine that train it together."""


@dataclass(frozen=True)
class Problem:
    """One thing that went wrong."""

    error: str
    """What, in one line."""
    error_class: str = ""
    """Name of the error's class."""
    tokens: int | None = None
    """`evaluate`: of the checkpoint that could not be scored; None where it is the whole task."""


@dataclass(frozen=True)
class Result:
    """How a task ended."""

    task: Task
    """The task."""
    state: str
    """`finished`, `failed`, `killed`, `died` (a process of several), or `parent_damaged`."""
    problems: tuple[Problem, ...] = ()
    """What went wrong."""


@dataclass(frozen=True)
class Evaluated:
    """News of one evaluation."""

    stage: str
    """Whose checkpoint it was."""
    suite: str
    """Key of the suite."""
    seconds: float
    """What it took, start-up included."""


def problem_of(error: BaseException) -> Problem:
    """Say an error in one line that begins with its class."""
    name = type(error).__name__
    return Problem(f"{name}: {' '.join(str(error).split())}", name)


def run_worker(
    connection: Connection,
    outputs: Path,
    evaluation: EvaluationConfig,
    threads: int,
    device: str,
    gpus: str | None = None,
) -> None:
    """Do the tasks that come over `connection` until it closes; send progress, log lines and results.

    `gpus` is CUDA_VISIBLE_DEVICES of this process and its children; None leaves it as it is.
    """
    if gpus is not None:
        os.environ[VISIBLE] = gpus  # before anything here starts CUDA, which reads it once
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    worker = _Worker(connection, Layout(outputs), evaluation, threads, device, stop.is_set)
    while not stop.is_set():
        try:
            if not connection.poll(0.5):
                continue
            task = connection.recv()
        except (EOFError, OSError):
            return
        result = worker.do(task)
        try:
            connection.send(result)
        except OSError:
            return


def _watch_parent(stop: threading.Event) -> None:
    """Ask for a checkpoint and an end when whoever started this process has died, however it did."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        stop.set()


class _Worker:
    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        evaluation: EvaluationConfig,
        threads: int,
        device: str,
        should_stop: Callable[[], bool],
    ) -> None:
        self.connection, self.layout, self.evaluation = connection, layout, evaluation
        self.threads, self.device, self.should_stop = threads, device, should_stop
        self.evaluator: Any = None
        self.last_progress = 0.0

    def do(self, task: Task) -> Result:
        try:
            return self.train(task) if task.kind == "train" else self.evaluate(task)
        except Exception as error:
            self._log_file(task, traceback.format_exc())
            return Result(task, "failed", (problem_of(error),))

    def train(self, task: Task) -> Result:
        if task.processes > 1:
            from workbench.launch.local.together import train_together

            return train_together(
                self.layout, task, self.should_stop, self._progress, lambda text: self._log(task, text)
            )
        from workbench.train.checkpoint import DamagedCheckpointError
        from workbench.train.hooks import Hooks, StoppedError
        from workbench.train.whole_stage import train_stage

        hooks = Hooks(self.should_stop, self._progress, log=lambda text: self._log(task, text))
        try:
            train_stage(self.layout, task.stage, hooks, wanted=task.targets)
        except StoppedError as error:
            return Result(task, "killed", (Problem(str(error)),))
        except DamagedCheckpointError as error:
            self._log(task, str(error))
            return Result(task, "parent_damaged", (Problem(str(error)),))
        return Result(task, "finished")

    def evaluate(self, task: Task) -> Result:
        from workbench.evaluate.reconcile import EvaluationError, Evaluator, next_checkpoint
        from workbench.train.checkpoint import read_manifest

        if self.evaluator is None:
            self.evaluator = Evaluator(self.layout, self.evaluation, self.threads, self.device)
        problems: list[Problem] = []
        for place, (checkpoint, suite) in enumerate(task.pairs):
            if self.should_stop():
                return Result(task, "killed", (Problem("asked to stop"),))
            began = time.monotonic()
            try:
                self.evaluator.evaluate(checkpoint, suite, next_checkpoint(task.pairs, place))
                self._send(Evaluated(task.stage, suite, time.monotonic() - began))
            except EvaluationError as error:
                text = f"{suite} of {checkpoint.parent.parent.name}/{checkpoint.name}: {error}"
                problems.append(Problem(text, type(error).__name__, read_manifest(checkpoint)["tokens"]))
                self._log(task, text)
        return Result(task, "failed" if problems else "finished", tuple(problems))

    def _progress(self, progress: Any) -> None:
        now = time.monotonic()
        if now - self.last_progress > 0.3:
            self.last_progress = now
            self._send(progress)

    def _log(self, task: Task, text: str) -> None:
        self._log_file(task, text)
        self._send(f"{task.stage}: {text}")

    def _log_file(self, task: Task, text: str) -> None:
        # On a full disk the result under way still reaches the parent.
        with contextlib.suppress(OSError), self.layout.stage(task.stage).log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def _send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError:
            # The parent is gone; _watch_parent ends this process at the next step.
            return
