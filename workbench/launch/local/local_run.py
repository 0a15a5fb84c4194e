"""A study's graph on this machine, several stages at a time, until it is done."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from workbench.config.schema import Parent, TrainingStage
from workbench.evaluate.reconcile import EvaluationError, pending
from workbench.forecast.estimate import study_slots, study_speeds
from workbench.forecast.slots import check_processes
from workbench.forecast.study_facts import Facts, wanted_checkpoints
from workbench.launch.local import death
from workbench.launch.local.progress import Display
from workbench.launch.local.worker import Evaluated, Problem, Result, Task, problem_of, run_worker
from workbench.launch.outcome import Failure, Outcome
from workbench.study.causes import PARENT, cause_of
from workbench.study.kind_plan import flops_per_token
from workbench.study.study_plan import Node, Plan
from workbench.study.warm_processes import warm_context
from workbench.train.attempt_status import note_evaluation_error, write_status
from workbench.train.checkpoint import find_checkpoint

_TRIES = 3
"""Times a stage is tried again because its parent's checkpoint turned out damaged, or its worker died."""


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    kills_before: int | None
    """Processes that the kernel had killed for lack of memory when this one was started."""
    slots: tuple[int, ...]
    """Slots that it occupies while it has a task."""
    task: Task | None = None


class LocalRun:
    """Runs every missing stage and evaluation of a plan; safe to run again, and beside another run."""

    def __init__(
        self, facts: Facts, workers: int | None, display: Display, failed_corpora: Sequence[Failure] = ()
    ) -> None:
        self.plan, self.layout, self.config = facts.plan, facts.layout, facts.config
        self.display = display
        self.slots = study_slots(facts, workers)
        self.outcome = Outcome()
        self.scored: dict[tuple[str, str], list[float]] = {}
        self.workers: list[_Worker] = []
        self.stopping = False
        self.tries: dict[str, int] = {}
        self.given_up: set[str] = set()
        """Stages that are not trained again for a child's sake: they failed, or were trained for it already."""
        missing = facts.missing()
        todo = [n for n in self.plan.nodes.values() if missing[n.id]]
        check_processes((node.stage for node in todo), self.slots)
        without = {failure.stage for failure in failed_corpora}
        readers = {node.id: node for node in todo if node.stage.data_fingerprint in without}
        self.outcome.failures += [*failed_corpora, *(self._unread(node) for node in readers.values())]
        self.given_up |= set(readers)
        todo = [node for node in todo if node.id not in readers]
        self.to_train = {node.id: node for node in _longest_chain_first(self.plan, todo)}
        self.to_evaluate = dict(self.plan.nodes)
        self.next: Task | None = None
        """Task that waits for enough free slots; later ones wait behind it, or they could keep it out for ever."""

    def run(self) -> Outcome:
        """Do everything that is missing; Ctrl-C lets every stage write a checkpoint and end as killed."""
        self.display.begin()
        previous = {n: signal.signal(n, self._ask_to_stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            while True:
                self._assign()
                busy = [worker for worker in self.workers if worker.task is not None]
                if not busy:
                    break
                self._listen()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._end_workers()
        self._report_unreachable()
        self._remember_speeds()
        self.outcome.killed = self.stopping
        return self.outcome

    def _ask_to_stop(self, *_: object) -> None:
        if not self.stopping:
            self.stopping = True
            self.display.say("stopping: every stage writes a checkpoint; the same command continues from there")
        for worker in self.workers:
            if worker.process.is_alive():
                worker.process.terminate()

    # ------------------------------------------------------------------------------- giving out tasks

    def _assign(self) -> None:
        while not self.stopping and len(self._occupied()) < self.slots.count:
            task = self.next or self._next_task()
            worker = None if task is None else self._worker_for(task)
            self.next = task if worker is None else None
            if task is None or worker is None:
                return
            worker.task = task
            if self.stopping:
                worker.process.terminate()
                return
            try:
                worker.connection.send(task)
            except OSError:
                self._bury(worker)

    def _occupied(self) -> set[int]:
        return {slot for worker in self.workers if worker.task is not None for slot in worker.slots}

    def _worker_for(self, task: Task) -> _Worker | None:
        """Find an idle worker with as many slots as a task needs, or start one; None while too few slots are free."""
        idle = [worker for worker in self.workers if worker.task is None]
        for worker in idle:
            if len(worker.slots) == task.processes:
                return worker
        slots = self.slots.choose(task.processes, self._occupied())
        if slots is None:
            return None
        for worker in idle:
            if set(worker.slots) & set(slots):
                self._retire(worker)  # it would keep memory of a GPU that is now another's
        return self._start_worker(slots)

    def _retire(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        worker.connection.close()
        worker.process.join()

    def _next_task(self) -> Task | None:
        """Trainings whose parent is there, those with the longest way to go first; then evaluations."""
        for node in list(self.to_train.values()):
            self._bring_back_parent(node)
        for node in list(self.to_train.values()):
            if not self._is_ready(node):
                continue
            del self.to_train[node.id]
            task = Task("train", node.id, tuple(node.targets), processes=node.stage.processes)
            if self._fits(task):
                return task
        for node in list(self.to_evaluate.values()):
            if node.id in self.to_train or self._is_busy(node.id):
                continue
            del self.to_evaluate[node.id]
            pairs = self._pending(node)
            if pairs:
                return Task("evaluate", node.id, pairs=tuple(pairs))
        return None

    def _bring_back_parent(self, node: Node) -> None:
        """Train a parent that was finished by the plan, but whose checkpoint has gone since."""
        for parent in node.stage.references:
            if self._is_there(node, parent) or parent.stage in self.to_train or self._is_busy(parent.stage):
                continue
            if parent.stage not in self.given_up:
                self.given_up.add(parent.stage)
                self.to_train[parent.stage] = self.plan.nodes[parent.stage]
                self._bring_back_parent(self.plan.nodes[parent.stage])

    def _fits(self, task: Task) -> bool:
        """Fail a stage that has to be trained again, but was trained where there was room for more processes."""
        try:
            check_processes([self.plan.nodes[task.stage].stage], self.slots)
        except ValueError as error:
            self._fail(task, problem_of(error))
            return False
        return True

    def _is_ready(self, node: Node) -> bool:
        return all(self._is_there(node, reference) for reference in node.stage.references)

    def _is_there(self, node: Node, reference: Parent) -> bool:
        """Whether a checkpoint that a stage reads is there, with the optimizer's state where it is resumed from."""
        whole = reference in node.stage.resumed
        found = find_checkpoint(self.layout.stage(reference.stage), reference.tokens, resumable=whole)
        return found is not None

    def _is_busy(self, stage: str) -> bool:
        tasks = [self.next, *(worker.task for worker in self.workers)]
        return any(task is not None and task.stage == stage and task.kind == "train" for task in tasks)

    def _pending(self, node: Node) -> list[tuple[Path, str]]:
        try:
            return pending(wanted_checkpoints(self.layout, node), self.plan.evaluation, self.layout)
        except EvaluationError as error:
            self._fail(Task("evaluate", node.id), problem_of(error))
            return []

    # ------------------------------------------------------------------------------- hearing of results

    def _listen(self) -> None:
        """Wait a moment for news; a cooldown may become ready while its trunk is still running."""
        waiting = {worker.connection: worker for worker in self.workers}
        for connection in wait(list(waiting), timeout=0.5):
            worker = waiting[connection]  # pyright: ignore[reportArgumentType]
            try:
                while worker.connection.poll():
                    self._hear(worker, worker.connection.recv())
            except (EOFError, OSError):
                self._bury(worker)

    def _hear(self, worker: _Worker, message: object) -> None:
        if isinstance(message, Result):
            worker.task = None
            self._settle(message)
        elif isinstance(message, str):
            self.display.say(message)
        elif isinstance(message, Evaluated):
            self.outcome.evaluated += 1
            self.scored.setdefault((message.stage, message.suite), []).append(message.seconds)
            self.display.evaluated(message.stage)
        else:
            self.display.progress(message)

    def _settle(self, result: Result) -> None:
        task = result.task
        if task.kind == "train" and result.state == "finished":
            self.outcome.trained.append(task.stage)
            self.display.finish(task.stage)
        if task.kind == "evaluate" and result.state in ("finished", "failed"):
            note_evaluation_error(self.layout.stage(task.stage), result.problems[0].error if result.problems else None)
        if result.state == "failed":
            for problem in result.problems:
                self._fail(task, problem)
        if result.state == "died" and not self.stopping:
            self._account_for_death(task, result.problems[0])
        if result.state == "killed" and not self.stopping:
            self._try_again(task, Problem("its process was asked to stop"))
        if result.state == "parent_damaged":
            for parent in self.plan.nodes[task.stage].stage.references:
                self.to_train.setdefault(parent.stage, self.plan.nodes[parent.stage])
                self.to_evaluate.setdefault(parent.stage, self.plan.nodes[parent.stage])
            self._try_again(task, result.problems[0])

    def _try_again(self, task: Task, problem: Problem) -> bool:
        """Put a task back, or give it up after so many tries; whether it was put back."""
        self.tries[task.stage] = self.tries.get(task.stage, 0) + 1
        if self.tries[task.stage] >= _TRIES:
            self._fail(task, problem)
            return False
        if task.kind == "train":
            self.to_train[task.stage] = self.plan.nodes[task.stage]
        else:
            self.to_evaluate[task.stage] = self.plan.nodes[task.stage]
        return True

    def _bury(self, worker: _Worker) -> None:
        """Account for a worker that died: its stage continues from the last checkpoint, a few times at most."""
        self.workers.remove(worker)
        worker.process.join()
        task = worker.task
        if task is None or self.stopping:
            return
        self._account_for_death(task, death.describe(worker.process.exitcode, worker.kills_before))

    def _account_for_death(self, task: Task, problem: Problem) -> None:
        self.display.say(f"{task.kind} {task.stage}: {problem.error}")
        if not self._try_again(task, problem) and task.kind == "train":
            # The process could not say so itself.
            write_status(self.layout.stage(task.stage), "failed", problem.error, error_class=problem.error_class)

    def _fail(self, task: Task, problem: Problem) -> None:
        if task.kind == "train":
            self.given_up.add(task.stage)
        failure = self._failure(task, problem, cause_of(problem.error_class))
        self.outcome.failures.append(failure)
        self.display.say(f"failed: {failure}")

    def _failure(self, task: Task, problem: Problem, cause: str) -> Failure:
        stage = self.plan.nodes[task.stage].stage
        return Failure(task.kind, task.stage, stage.label, problem.error, cause, problem.tokens)

    def _unread(self, node: Node) -> Failure:
        corpus = self.plan.corpora[node.stage.data_fingerprint]
        problem = Problem(f"not begun, because its {corpus.spec.label} {corpus.id} failed")
        return self._failure(Task("train", node.id), problem, PARENT)

    def _report_unreachable(self) -> None:
        if not self.stopping:
            unreached = Problem("not begun, because its parent stage failed before the place where it branches off")
            self.outcome.failures += [self._failure(Task("train", i), unreached, PARENT) for i in self.to_train]

    def _remember_speeds(self) -> None:
        """Keep what trainings and evaluations took, for the next estimate; of one kind, the last stage counts."""
        speeds = study_speeds(self.layout, self.plan, self.slots)
        for identifier in self.outcome.trained:
            stage = self.plan.nodes[identifier].stage
            if isinstance(stage, TrainingStage):
                speeds.remember_training(self.layout, identifier, stage)
        for (stage, suite), seconds in self.scored.items():
            speeds.remember_evaluations(self.plan.nodes[stage].stage, self.plan.evaluation.suites[suite], seconds)

    # ------------------------------------------------------------------------------- processes

    def _start_worker(self, slots: tuple[int, ...]) -> _Worker:
        context = warm_context()
        ours, theirs = context.Pipe()
        numerics = self.config.numerics
        settings = (self.layout.root, self.plan.evaluation, numerics.threads, numerics.device)
        arguments = (theirs, *settings, self.slots.environment(slots))
        process = context.Process(target=run_worker, args=arguments, daemon=False)
        kills = death.memory_kills()
        process.start()
        theirs.close()
        worker = _Worker(process, ours, kills, slots)
        self.workers.append(worker)
        return worker

    def _end_workers(self) -> None:
        for worker in self.workers:
            worker.connection.close()
        for worker in self.workers:
            worker.process.join()


def _longest_chain_first(plan: Plan, todo: list[Node]) -> list[Node]:
    """Order stages by the FLOPs from their beginning to the end of the longest chain through them."""
    longest: dict[str, float] = {}
    for node in reversed(list(plan.nodes.values())):
        longest[node.id] = longest.get(node.id, 0.0) + node.tokens * flops_per_token(node.stage)
        for reference in node.stage.references:
            longest[reference.stage] = max(longest.get(reference.stage, 0.0), longest[node.id])
    return sorted(todo, key=lambda node: -longest[node.id])
