"""One study run on this machine: its data prepared, its stages frozen, what is missing run, all of it published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.config.schema import EvaluationConfig
from workbench.evaluate.reconcile import EvaluationError, Evaluator, next_checkpoint
from workbench.forecast.estimate import estimate
from workbench.forecast.idle_cores import keep_processes, use_idle_cores
from workbench.forecast.study_facts import Facts, prepare_data
from workbench.launch.local.local_run import LocalRun
from workbench.launch.local.make_corpora import make_corpora
from workbench.launch.local.progress import Display
from workbench.launch.local.publisher import Publisher
from workbench.launch.outcome import Outcome
from workbench.launch.snapshot import freeze_study
from workbench.study.layout import Layout
from workbench.train.attempt_status import note_evaluation_error


def run_study_locally(facts: Facts, workers: int | None, command: str = "", *, idle_cores: bool = False) -> Outcome:
    """Prepare the data, freeze every stage, run what is missing, and publish.

    A corpus that cannot be made fails the stages that read it, and no others. With `idle_cores`, stages get the processes
    that `workbench.forecast.idle_cores` chooses.

    Raises
    ------
    ValueError
        The study asks for more tokens than there are.
    """
    launcher = {"kind": "local", "workers": workers, "use_idle_cores": idle_cores}
    if idle_cores:
        facts = use_idle_cores(facts, workers)
        keep_processes(facts)
    with Display(facts, estimate(facts, workers, measure=False)) as display:
        failed = make_corpora(facts, display.say, command, launcher)
        prepare_data(facts, display.say, leave={failure.stage for failure in failed})
        facts = freeze_study(facts, command=command, launcher=launcher)
        publisher = Publisher(facts.layout, facts.plan.study, facts.config.tracking)
        publisher.start()
        try:
            outcome = LocalRun(facts, workers, display, failed).run()
        finally:
            error = publisher.finish()
        if error is not None:
            display.say(
                f"not (wholly) published: {error}; `workbench publish {facts.plan.study}` sends what is missing"
            )
    return outcome


def evaluate_pairs(
    layout: Layout, evaluation: EvaluationConfig, pairs: Sequence[tuple[Path, str]], threads: int, display: Display
) -> list[str]:
    """Evaluate in this process; return one line for each failure."""
    evaluator = Evaluator(layout, evaluation, threads)
    failures: list[str] = []
    errors: dict[str, str | None] = {}
    for place, (checkpoint, suite) in enumerate(pairs):
        stage = checkpoint.parents[1].name
        name = f"{suite} of {stage}/{checkpoint.name}"
        try:
            evaluator.evaluate(checkpoint, suite, next_checkpoint(pairs, place))
        except EvaluationError as error:
            failures.append(f"{name}: {error}")
            errors[stage] = failures[-1]
            display.say(f"failed: {failures[-1]}")
        else:
            errors.setdefault(stage, None)
            display.say(f"evaluated {name}")
    for stage, error in errors.items():
        note_evaluation_error(layout.stage(stage), error)
    return failures
