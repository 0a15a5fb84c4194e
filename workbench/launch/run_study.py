"""One study, from its facts to its results: what every launcher does around its graph."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.config.schema import EvaluationConfig, Stage, TrainingStage
from workbench.evaluate.reconcile import EvaluationError, Evaluator
from workbench.evaluate.suite import task_contents
from workbench.launch.estimate import check_budget, estimate, study_slots
from workbench.launch.local.local_run import LocalRun
from workbench.launch.local.progress import Display
from workbench.launch.local.publisher import Publisher
from workbench.launch.local.slots import check_processes
from workbench.launch.outcome import Outcome
from workbench.launch.planning import (
    Facts,
    look,
    prepare_data,
    record_evaluations,
    write_study,
)
from workbench.launch.slurm.cost import check_cluster_budget, cluster_work
from workbench.launch.snapshot import CodeVersion, freeze_code, freeze_stage
from workbench.study.files import is_held
from workbench.study.kind_plan import check_here
from workbench.study.layout import Layout, StageDir
from workbench.train.attempt_status import note_evaluation_error, read_status, write_status
from workbench.train.targets import missing_targets


def check_before_start(facts: Facts, workers: int | None = None, *, here: bool = True) -> None:
    """Refuse what cannot work, before anything is written; `here` says that this machine is to train.

    Raises
    ------
    ValueError
        The device, attention backend or a package is not here, a tokenizer file does not fit, or the plan is
        above its budget.
    """
    trainings = [node.stage for node in facts.plan.nodes.values() if isinstance(node.stage, TrainingStage)]
    for stage in trainings:
        if stage.numerics.attention == "flash_attn" and stage.precision == "fp32":
            raise ValueError("numerics.attention='flash_attn' computes in bf16 alone: set precision=bf16, or use sdpa")
        if stage.numerics.attention == "flash_attn" and stage.stream.document_mask:
            raise ValueError(
                "numerics.attention='flash_attn' has no masks by document: use sdpa, or data.document_mask=false"
            )
    missing = facts.missing()
    stages = [node.stage for node in facts.plan.nodes.values() if missing[node.id]]
    if here and stages:
        check_processes(stages, study_slots(facts, workers))
        _check_devices(stages)
    _check_tokenizers(facts)
    _check_suites(facts)
    budget = facts.config.budget
    if not here:
        check_cluster_budget(budget, cluster_work(facts))
        budget = replace(budget, max_hours=None)  # of this machine
    if budget.max_flops is not None or budget.max_hours is not None:
        check_budget(budget, estimate(facts, workers, measure=budget.max_hours is not None))


def _check_devices(stages: Iterable[Stage]) -> None:
    """Refuse a device, attention backend or package that is not here; only a stage that is to be trained waits for torch."""
    from workbench.model.attention import check_attention
    from workbench.train.loop import stage_device

    for stage in stages:
        if isinstance(stage, TrainingStage):
            check_attention(stage.numerics.attention, stage_device(stage))
            check_here(stage)


def _check_tokenizers(facts: Facts) -> None:
    from workbench.data.tokenizer import make_tokenizer

    for point in facts.plan.points:
        if point.config.tokenizer.kind == "file":
            make_tokenizer(point.config.tokenizer, [])


def _check_suites(facts: Facts) -> None:
    for suite in facts.plan.evaluation.suites.values():
        try:
            task_contents(suite, sorted(facts.config.data.sources))
        except EvaluationError as error:
            raise ValueError(f"evaluation suite {suite.name!r}: {error}") from error


def run_study_locally(facts: Facts, workers: int | None, command: str = "") -> Outcome:
    """Prepare the data, freeze every stage, run what is missing, and publish.

    Raises
    ------
    ValueError
        The study asks for more tokens than there are.
    """
    with Display(facts, estimate(facts, workers, measure=False)) as display:
        prepare_data(facts, display.say)
        facts = freeze_study(facts, command=command, launcher={"kind": "local", "workers": workers})
        publisher = Publisher(facts.layout, facts.plan.study, facts.config.tracking)
        publisher.start()
        try:
            outcome = LocalRun(facts, workers, display).run()
        finally:
            error = publisher.finish()
        if error is not None:
            display.say(
                f"not (wholly) published: {error}; `workbench publish {facts.plan.study}` sends what is missing"
            )
    return outcome


def freeze_study(
    facts: Facts,
    code: CodeVersion | None = None,
    underway: Container[str] = (),
    command: str = "",
    launcher: Mapping[str, Any] | None = None,
) -> Facts:
    """Write `study.json` and every stage's directory; return the facts as they are then.

    Parameters
    ----------
    facts
        The study.
    code
        A frozen version of the code; None freezes the running one.
    underway
        Stages with live jobs: their targets are extended, and nothing else of them is touched.
    command
        What the user typed, to be typed again.
    launcher
        Fields of its `workbench.config.launcher_settings.Launcher`, for commands that name the study alone.
    """
    code = code or freeze_code(facts.layout)
    write_study(facts, code.commit, code.dirty, command, launcher)
    record_evaluations(facts)
    for node in facts.plan.nodes.values():
        stage_dir = facts.layout.stage(node.id)
        freeze_stage(stage_dir, node.stage, code, underway=node.id in underway)
        _settle_status(stage_dir, missing_targets(stage_dir, node.stage))
    return look(facts.plan)


def _settle_status(stage_dir: StageDir, missing: list[int]) -> None:
    """Set right the status of a stage whose process died after its last checkpoint and before saying so."""
    latest = read_status(stage_dir)
    if not missing and latest is not None and latest["state"] != "finished" and not is_held(stage_dir.lock):
        write_status(stage_dir, "finished")


def evaluate_pairs(
    layout: Layout, evaluation: EvaluationConfig, pairs: Iterable[tuple[Path, str]], threads: int, display: Display
) -> list[str]:
    """Evaluate in this process; return one line for each failure."""
    evaluator = Evaluator(layout, evaluation, threads)
    failures: list[str] = []
    errors: dict[str, str | None] = {}
    for checkpoint, suite in pairs:
        stage = checkpoint.parents[1].name
        name = f"{suite} of {stage}/{checkpoint.name}"
        try:
            evaluator.evaluate(checkpoint, suite)
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
