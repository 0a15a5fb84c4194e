"""What cannot work is refused before a launch writes anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from workbench.config.kind_registry import find_kind
from workbench.config.schema import Stage, TrainingStage
from workbench.evaluate.reconcile import EvaluationError
from workbench.evaluate.suite import task_contents
from workbench.forecast.cluster_cost import check_cluster_budget, cluster_work
from workbench.forecast.corpus_estimate import estimate_corpora
from workbench.forecast.estimate import check_budget, estimate, study_slots
from workbench.forecast.slots import check_processes
from workbench.forecast.study_facts import (
    Facts,
)
from workbench.study.kind_plan import check_here
from workbench.study.warm_processes import start_importing


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
        attention = stage.numerics.attention
        if attention == "blocks" and stage.precision != "fp32":
            raise ValueError("numerics.attention='blocks' computes in fp32 alone: set precision=fp32, or use sdpa")
        if attention not in ("sdpa", "auto", "blocks") and stage.precision == "fp32":
            raise ValueError(
                f"numerics.attention={attention!r} computes in bf16 alone: set precision=bf16, or use sdpa"
            )
        if stage.numerics.products == "openblas" and stage.precision != "fp32":
            raise ValueError("numerics.products='openblas' computes in fp32 alone: set precision=fp32, or use onednn")
    missing = facts.missing()
    stages = [node.stage for node in facts.plan.nodes.values() if missing[node.id]]
    if here and stages:
        start_importing()  # meanwhile, the rest is looked at here
        check_processes(stages, study_slots(facts, workers))
        _check_devices(stages)
    _check_tokenizers(facts)
    _check_suites(facts)
    budget = facts.config.budget
    if not here:
        check_cluster_budget(budget, cluster_work(facts))
        budget = replace(budget, max_hours=None)  # of this machine
    if budget.max_flops is not None or budget.max_hours is not None:
        timed = budget.max_hours is not None
        corpora = estimate_corpora(facts, None, measure=True) if timed else []
        check_budget(budget, estimate(facts, workers, measure=timed, corpora=corpora))


def _check_devices(stages: Iterable[Stage]) -> None:
    """Refuse a device, attention backend or package that is not here; only a stage that is to be trained waits for torch."""
    from workbench.model.attention import check_attention
    from workbench.model.liger import choose_cross_entropy
    from workbench.model.matmul import check_products
    from workbench.train.loop import stage_device

    for stage in stages:
        if isinstance(stage, TrainingStage):
            device = stage_device(stage)
            check_attention(stage.numerics.attention, device)
            check_products(stage.numerics.products, device)
            if getattr(find_kind(stage.kind).run, "HAS_PLAIN_LOSS", True):
                choose_cross_entropy(stage.numerics.cross_entropy, device)
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
