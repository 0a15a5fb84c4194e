"""What a plan asks of a cluster: resources of every stage's jobs, GPU hours, cost, and the budget against them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.config.schema import BudgetConfig, ClusterConfig
from workbench.forecast.estimate import longest_chain
from workbench.forecast.job_graph import Part, training_parts
from workbench.forecast.speeds import ClusterSpeeds
from workbench.forecast.study_facts import Facts
from workbench.study.resources import Resources, stage_resources
from workbench.study.study_plan import Plan


@dataclass(frozen=True)
class StageWork:
    """What is left of one stage, as jobs of a cluster."""

    jobs: int
    """One for each piece between branch points."""
    resources: Resources
    """Of each job: the longest time limit among them, and the seconds of all together."""
    gpu_hours: float | None
    """Estimate for all of them, in hours of a node where there are no GPUs; None where the speed is not known."""


@dataclass(frozen=True)
class ClusterWork:
    """What is left of a study, as jobs of a cluster; evaluations are not counted."""

    cluster: ClusterConfig
    """Where."""
    stages: dict[str, StageWork]
    """By id; those with nothing left are absent."""
    hours: float | None
    """Estimated hours of the longest chain of stages: what it takes if no job waits."""
    unknown: list[str]
    """Models whose speed the cluster's config does not tell."""

    @property
    def gpu_hours(self) -> float | None:
        """Of all stages; None where the speed of one is not known."""
        if self.unknown:
            return None
        return math.fsum(work.gpu_hours or 0.0 for work in self.stages.values())

    @property
    def cost(self) -> float | None:
        """Of all stages, in the cluster's currency; None without a price, or without a speed."""
        price = self.cluster.price_per_gpu_hour
        return None if price is None or self.gpu_hours is None else price * self.gpu_hours

    @property
    def peak_memory_bytes(self) -> int:
        """Largest estimated peak of a process; 0 where nothing is left."""
        return max((work.resources.peak_memory_bytes for work in self.stages.values()), default=0)


def cluster_work(facts: Facts) -> ClusterWork:
    """Turn what is left of a study into the resources of its jobs.

    Raises
    ------
    ValueError
        The cluster has no room for a stage, or the stage asks for what it does not have.
    """
    cluster, by_stage = facts.config.cluster, dict[str, list[Part]]()
    for part in training_parts(facts.plan, facts.settled(), {}):
        by_stage.setdefault(part.stage, []).append(part)
    stages = {stage: _stage_work(facts, cluster, parts) for stage, parts in by_stage.items()}
    unknown = sorted({facts.plan.nodes[i].stage.model.name for i, work in stages.items() if work.gpu_hours is None})
    seconds = {i: stages[i].resources.seconds or 0.0 if i in stages else 0.0 for i in facts.plan.nodes}
    hours = None if unknown else longest_chain(facts.plan, seconds) / 3600
    return ClusterWork(cluster, stages, hours, unknown)


def _stage_work(facts: Facts, cluster: ClusterConfig, parts: Sequence[Part]) -> StageWork:
    stage = facts.plan.nodes[parts[0].stage].stage
    speed = ClusterSpeeds(facts.layout, cluster.name).get(stage)
    each = [
        stage_resources(stage, cluster, part_tokens(facts.plan, part, facts.resumable(part.stage)), speed)
        for part in parts
    ]
    minutes = max(resources.minutes for resources in each)
    known = [resources for resources in each if resources.seconds is not None]
    if len(known) < len(each):
        return StageWork(len(parts), replace(each[0], minutes=minutes, seconds=None), None)
    seconds = math.fsum(resources.seconds or 0.0 for resources in known)
    hours = math.fsum((resources.seconds or 0.0) / 3600 * _devices(resources, cluster) for resources in known)
    return StageWork(len(parts), replace(each[0], minutes=minutes, seconds=seconds), hours)


def part_tokens(plan: Plan, part: Part, resumable: set[int]) -> int:
    """Count the tokens that a training job adds: from the resumable checkpoint, or the job, before it."""
    before = part.after.targets if isinstance(part.after, Part) and part.after.stage == part.stage else ()
    there = [tokens for tokens in resumable if tokens < part.targets[-1]]
    return part.targets[-1] - max([plan.nodes[part.stage].stage.start_tokens, *before, *there])


def _devices(resources: Resources, cluster: ClusterConfig) -> float:
    """GPUs that are paid for, or without them nodes, by the share of their cores."""
    if resources.gpus_per_node:
        return resources.nodes * resources.gpus_per_node
    return resources.processes * resources.cpus_per_process / cluster.cpus_per_node


def check_cluster_budget(budget: BudgetConfig, work: ClusterWork) -> None:
    """Refuse a plan above its budget of GPU hours or of money.

    Raises
    ------
    ValueError
        With both numbers and the setting to change; also where there is no estimate to hold against the budget.
    """
    if budget.max_cost is not None and work.cluster.price_per_gpu_hour is None:
        raise ValueError("budget.max_cost is set, but cluster.price_per_gpu_hour is not")
    for name, most, needed, unit in (
        ("max_gpu_hours", budget.max_gpu_hours, work.gpu_hours, "GPU hours"),
        ("max_cost", budget.max_cost, work.cost, work.cluster.currency),
    ):
        if most is not None and needed is None:
            raise ValueError(f"budget.{name} is set, but {unknown_speed(work)}")
        if most is not None and needed is not None and needed > most:
            raise ValueError(
                f"the plan takes about {needed:.3g} {unit}, more than budget.{name}={most:.3g}: "
                "make the study smaller or raise the budget"
            )


def unknown_speed(work: ClusterWork) -> str:
    """Say which setting an estimate lacks."""
    models = ", ".join(work.unknown)
    return (
        f"the speed of {models} on cluster {work.cluster.name!r} is not known: set cluster.tokens_per_second "
        "or cluster.flops_per_second"
    )


def cluster_json(work: ClusterWork) -> dict[str, Any]:
    """Machine-readable; see `workbench plan --json`."""
    return {
        "cluster": work.cluster.name,
        "gpu_hours": work.gpu_hours,
        "cost": work.cost,
        "currency": work.cluster.currency,
        "hours_longest_chain": work.hours,
        "peak_memory_bytes": work.peak_memory_bytes,
        "evaluations": "not counted",
        "stages": {
            identifier: {"jobs": stage.jobs, "gpu_hours": stage.gpu_hours, **vars(stage.resources)}
            for identifier, stage in work.stages.items()
        },
    }
