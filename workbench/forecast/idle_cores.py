"""More processes for the stages that a study waits for, where cores of this machine would be idle and a measurement says that it pays.

How many processes train a stage changes the last bits of its weights. So the choice is made once, before anything of a stage
is written, and stands in the study's folder (`processes.json`) and in the stage's frozen config, where later launches find it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from workbench.config.schema import Stage, TrainingStage
from workbench.forecast.estimate import Estimate, estimate, stages_of_longest_chain, study_slots, study_speeds
from workbench.forecast.slots import Slots
from workbench.forecast.study_facts import Facts
from workbench.study.files import read_stage, write_atomically
from workbench.train.throughput import trains_plainly

_LEAST_GAIN = 0.05
"""Share of the time of the whole study that more processes must save: less may be other work's, or the estimate's error."""
_WORTH_SAYING_SECONDS, _WORTH_SAYING_SHARE = 60.0, 0.2
"""What idle cores must cost for `workbench plan` to speak of them."""

Processes = Mapping[str, int]
"""Processes by stage."""


def use_idle_cores(facts: Facts, workers: int | None = None, *, measure: bool = True) -> Facts:
    """Give each stage of a study that may be trained by any number of processes the number that is to train it.

    As long as the longest chain of stages takes more than an even share of all work, its stages are tried with twice as
    many processes, and these are kept if the whole study is estimated to take 5% less by them. Trainings on the CPU alone are
    given more than one, by speeds that were measured and not scaled. What a stage was begun with, or its config says, stays.

    Parameters
    ----------
    facts
        The study.
    workers
        Stages at a time, as for `workbench.forecast.estimate.estimate`.
    measure
        Measure speeds that are not known yet, each in a few seconds, and keep them beside the stages.

    Returns
    -------
    Facts
        With `resources.processes` in each stage that may have several.
    """
    slots, settled = study_slots(facts, workers), _settled(facts)
    growing = {i for i, n in facts.plan.nodes.items() if _is_open(n.stage) and _may_grow(n.stage, slots)}
    begun = {i: _begun_with(facts, i, settled.get(i), slots) for i in growing}
    chosen = {i: processes or 1 for i, processes in begun.items()}
    free = {i for i, processes in begun.items() if processes is None}
    facts = with_processes(facts, chosen)
    if slots.count < 2 or not free:
        return facts
    if measure:
        facts.layout.root.mkdir(parents=True, exist_ok=True)  # where speeds are kept, for the next estimate
    work = estimate(facts, workers, measure=measure)
    while work.training_seconds is not None and work.seconds is not None and _waits(work):
        clock = {i: seconds / facts.plan.nodes[i].stage.processes for i, seconds in work.training_seconds.items()}
        chain = [i for i in stages_of_longest_chain(facts.plan, clock) if i in free and clock[i]]
        more = {i: 2 * chosen[i] for i in chain if _divides(facts.plan.nodes[i].stage, 2 * chosen[i], slots)}
        if not more:
            break
        tried, tried_work = _try(facts, more, workers, measure)
        speeds = study_speeds(facts.layout, tried.plan, slots)
        measured = {i: n for i, n in more.items() if speeds.is_measured(_training(tried.plan.nodes[i].stage))}
        if not measured:
            break
        if measured != more:
            tried, tried_work = _try(facts, measured, workers, measure)
        if tried_work.seconds is None or tried_work.seconds >= (1 - _LEAST_GAIN) * work.seconds:
            break
        facts, work, chosen = tried, tried_work, chosen | measured
    return facts


def _try(facts: Facts, processes: Processes, workers: int | None, measure: bool) -> tuple[Facts, Estimate]:
    tried = with_processes(facts, processes)
    return tried, estimate(tried, workers, measure=measure)


def keep_processes(facts: Facts) -> None:
    """Write down in a study's folder what `use_idle_cores` has settled, before any of its stages is frozen.

    So a launch that is killed while it freezes them, and whatever chooses again, finds all of it.
    """
    settled = _settled(facts) | {
        i: node.stage.resources.processes
        for i, node in facts.plan.nodes.items()
        if isinstance(node.stage, TrainingStage) and node.stage.resources.processes is not None
    }
    path = _kept(facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(settled, indent=1))


def _kept(facts: Facts) -> Path:
    return facts.layout.study(facts.plan.study) / "processes.json"


def _settled(facts: Facts) -> dict[str, int]:
    return json.loads(_kept(facts).read_text(encoding="utf-8")) if _kept(facts).exists() else {}


def with_processes(facts: Facts, processes: Processes) -> Facts:
    """Give stages their numbers of processes."""
    nodes = {
        i: replace(node, stage=replace(node.stage, resources=replace(node.stage.resources, processes=processes[i])))
        if i in processes
        else node
        for i, node in facts.plan.nodes.items()
    }
    return replace(facts, plan=replace(facts.plan, nodes=nodes))


def describe_processes(before: Facts, after: Facts) -> list[str]:
    """Line on the stages still to be trained to which `use_idle_cores` gave several processes; none where there are none."""
    missing = after.missing()
    several = Counter(
        (node.stage.label, node.stage.processes)
        for node in after.plan.nodes.values()
        if missing[node.id] and node.stage.processes > 1 and before.plan.nodes[node.id].stage != node.stage
    )
    parts = [
        f"{label} by {processes}{f' ({count} stages)' if count > 1 else ''}"
        for (label, processes), count in several.items()
    ]
    return [f"for cores that would be idle, more processes: {', '.join(parts)}"] if parts else []


def idle_cores_note(facts: Facts, work: Estimate, workers: int | None = None) -> list[str]:
    """Line on cores that are idle for a good part of a study, since it waits for one chain of stages."""
    slots, missing = study_slots(facts, workers), facts.missing()
    free = [n for n in facts.plan.nodes.values() if missing[n.id] and _is_open(n.stage) and _may_grow(n.stage, slots)]
    if not free or slots.count < 2 or work.training_seconds is None:
        return []
    even = sum(work.training_seconds.values()) / work.workers
    idle = work.chain_seconds - even
    if idle < _WORTH_SAYING_SECONDS or idle < _WORTH_SAYING_SHARE * work.chain_seconds:
        return []
    return [
        f"cores are idle: the longest chain of stages takes {work.chain_seconds / 60:.1f} min, an even share of all training "
        f"{even / 60:.1f}; hydra.launcher.use_idle_cores=true gives its stages more processes where a measurement says that "
        "it pays"
    ]


def _waits(work: Estimate) -> bool:
    """Whether a study waits for its longest chain rather than for the sum of all work."""
    assert work.training_seconds is not None
    busy = sum(work.training_seconds.values()) + sum(work.evaluation_seconds.values())
    return max(work.chain_seconds, work.critical_seconds) > busy / work.workers


def _is_open(stage: Stage) -> bool:
    """Whether a stage's config leaves the number of its processes open."""
    return isinstance(stage, TrainingStage) and stage.resources.processes is None and stage.resources.nodes is None


def _begun_with(facts: Facts, identifier: str, settled: int | None, slots: Slots) -> int | None:
    """Give the processes of a stage that earlier launches leave no choice of; None where nothing was settled.

    That is what this study has settled, else what another has frozen, else 1 where it was begun without a word. What was
    settled on a larger machine and not begun is open again.
    """
    stage_dir, begun = facts.layout.stage(identifier), bool(facts.existing[identifier])
    if settled is None and stage_dir.config.exists():
        settled = read_stage(stage_dir).resources.processes
    if settled is None:
        return 1 if begun else None
    return settled if begun or settled <= slots.count else None


def _may_grow(stage: Stage, slots: Slots) -> bool:
    """Whether several processes of a stage can be measured and train here."""
    return not slots.gpus and trains_plainly(_training(stage)) and stage.numerics.parallel == "replicate"


def _divides(stage: Stage, processes: int, slots: Slots) -> bool:
    return processes <= slots.count and _training(stage).batch_sequences % processes == 0


def _training(stage: Stage) -> TrainingStage:
    assert isinstance(stage, TrainingStage)
    return stage
