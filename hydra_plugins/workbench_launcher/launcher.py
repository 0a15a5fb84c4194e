"""The thin classes between Hydra's multirun and `workbench.launch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from workbench.config.compose import ComposedPoint, current_composer
from workbench.config.plain import whole_number
from workbench.launch.outcome import Finished, Outcome, Submitted, point_error


class _GraphLauncher(Launcher):
    """Takes all points of a batch as one graph."""

    def __init__(self) -> None:
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the multirun's config."""
        del hydra_context, task_function
        self.config = config

    def _plan(self, job_overrides: Sequence[Sequence[str]]) -> tuple[list[ComposedPoint], Any]:
        # Hydra imports every plugin at start; torch would cost each command a second.
        from workbench.forecast.study_facts import make_facts

        assert self.config is not None
        points = current_composer().compose(self.config, [list(overrides) for overrides in job_overrides])
        return points, make_facts([(point.name, point.config) for point in points])


class LocalLauncher(_GraphLauncher):
    """Runs the whole sweep as one graph on this machine and stays until it is done.

    Parameters
    ----------
    workers
        Stages at a time; None takes as many as the cores allow.
    use_idle_cores
        Give stages more processes where cores would be idle (`workbench.forecast.idle_cores`).
    """

    def __init__(self, workers: int | None = None, use_idle_cores: bool = False) -> None:
        super().__init__()
        self.workers = None if workers is None else whole_number(workers, "hydra.launcher.workers")
        self.use_idle_cores = use_idle_cores

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all points of the batch as one graph; each returns a `Finished`, or the error of its own way."""
        from workbench.launch.local.run_study import run_study_locally

        points, facts = self._plan(job_overrides)
        command = current_composer().command
        outcome = run_study_locally(facts, self.workers, command, idle_cores=self.use_idle_cores)
        ends = [_ending(facts, planned, outcome) for planned in facts.plan.points]
        outcome.incomplete.extend(point.name for point, end in zip(points, ends, strict=True) if _failed(end))
        return [
            _job_return(composed.overrides, JobStatus.FAILED if _failed(end) else JobStatus.COMPLETED, end)
            for composed, end in zip(points, ends, strict=True)
        ]


class SlurmLauncher(_GraphLauncher):
    """Submits what the sweep lacks to Slurm and returns; each point returns a `Submitted` with its job ids.

    Parameters
    ----------
    wait
        Stay and show the study until no job of it is left; Ctrl-C leaves the jobs running.
    """

    def __init__(self, wait: bool = False) -> None:
        super().__init__()
        self.wait = wait

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit all points of the batch as one graph."""
        from workbench.launch.console import say
        from workbench.launch.slurm.display import print_submission, wait_for_corpora, watch
        from workbench.launch.slurm.submit_study import submit_study

        points, facts = self._plan(job_overrides)
        submission = submit_study(facts, say, current_composer().command)
        print_submission(facts, submission)
        while self.wait and submission.preparing:
            wait_for_corpora(facts)
            submission = submit_study(facts, say, current_composer().command)
            print_submission(facts, submission)
        if self.wait:
            watch(facts)
        return [
            _job_return(composed.overrides, JobStatus.COMPLETED, _submitted(submission, planned))
            for composed, planned in zip(points, facts.plan.points, strict=True)
        ]


def _submitted(submission: Any, point: Any) -> Submitted:
    stages = [stage for stage, _ in point.chain]
    jobs = [job for stage in stages for job in submission.jobs_of(stage)]
    left = [part.stage for part in submission.left if part.kind == "train" and part.stage in stages]
    return Submitted(point.name, tuple(jobs), tuple(left))


def _ending(facts: Any, point: Any, outcome: Outcome) -> Finished | Exception:
    """Give what a point's job returns, or raises."""
    from workbench.train.checkpoint import find_checkpoint

    stage, tokens = point.chain[-1]
    checkpoint = find_checkpoint(facts.layout.stage(stage), tokens)
    return point_error(point, outcome, trained=checkpoint is not None) or Finished(point.name, str(checkpoint))


def _failed(end: Any) -> bool:
    return isinstance(end, Exception)


def _job_return(overrides: Sequence[str], status: JobStatus, value: Any) -> JobReturn:
    result = JobReturn(overrides=list(overrides), status=status)
    result.return_value = value
    return result
