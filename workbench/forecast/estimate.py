"""What is left of a study, and how long this machine takes for it: training, evaluations, and everything around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workbench.config.schema import BudgetConfig, SuiteConfig, TrainingStage
from workbench.forecast.slots import Slots, count_slots
from workbench.forecast.speeds import MachineSpeeds
from workbench.forecast.study_facts import Facts, pending_evaluations
from workbench.study import kind_plan
from workbench.study.kind_plan import checkpoint_bytes, passing_bytes, unprepared_bytes
from workbench.study.layout import Layout
from workbench.study.resources import CHECKPOINT_BYTES_PER_SECOND
from workbench.study.study_plan import Plan, remaining_flops
from workbench.train.targets import whole_targets

if TYPE_CHECKING:
    from workbench.forecast.corpus_estimate import CorpusWork

_EVALUATION_TOKENS = 110_000
"""Training tokens that cost as much as one evaluation by the embedded suite, until this machine has made one."""
_FULL_LIMIT = 150
"""Documents a task at which that was measured."""
_EVALUATOR_STARTS = 2.0
_STAGE_STARTS, _SHARED_STAGE_STARTS = 0.1, 1.0
_PREPARE_STARTS = 8.0
_REPORT_STARTS = 4.0
_CONVERSATION_BYTES_A_START = 600_000
"""What is paid beside training and scoring, in starts of a process: a worker's first evaluation, each stage, each process of
a stage that has several (they are new ones), the embedded text, the report, and each so many bytes of conversations, made,
rendered and packed. Imports and small files dominate the others, as they do a start."""


@dataclass(frozen=True)
class Estimate:
    """What is left to do, and what it takes."""

    flops: float
    """Training FLOPs still to be done."""
    disk_bytes: int
    """New checkpoints that stay."""
    workers: int
    """Processes at a time: stages, or those that train one together."""
    training_seconds: dict[str, float] | None
    """Of one worker, by stage, so of one process after the other; None where a speed is not known."""
    evaluations: int
    """Evaluations still to be made."""
    evaluation_seconds: dict[str, float] = field(default_factory=dict[str, float])
    """Of one worker, for all that a stage lacks; stages whose evaluations cannot be estimated are absent."""
    uncounted: int = 0
    """Evaluations without an estimate, since no suite like theirs has been scored here yet."""
    fixed_seconds: float = 0.0
    """Starting processes, preparing the embedded text, and drawing the report."""
    chain_seconds: float = 0.0
    """Training of the chain of stages that takes longest, each after its parent and by all its processes together."""
    critical_seconds: float = 0.0
    """The same with the scores of the chain's last checkpoint, which can only be made once it is there."""
    training_disk_bytes: int = 0
    """Checkpoints that come and go while stages train, at most."""
    corpora_seconds: float = 0.0
    """Making the corpora that are not there, one after another, before all stages."""
    untimed_corpora: tuple[str, ...] = ()
    """Names of those whose time is not known, and so not in `seconds`."""

    @property
    def seconds(self) -> float | None:
        """Wall time of all of it but `untimed_corpora`; None where a training speed is not known."""
        if self.training_seconds is None:
            return None
        busy = sum(self.training_seconds.values()) + sum(self.evaluation_seconds.values())
        stages = max(busy / self.workers, self.chain_seconds, self.critical_seconds)
        return self.corpora_seconds + stages + self.fixed_seconds

    @property
    def hours(self) -> float | None:
        """Hours of all of it; None where a training speed, or the time of a corpus, is not known."""
        return None if self.seconds is None or self.untimed_corpora else self.seconds / 3600


def describe(work: Estimate) -> str:
    """Say in one line how long a run will take on this machine, and what for."""
    left_out = (
        f"; {work.uncounted} evaluations not counted, since none like them was made here" if work.uncounted else ""
    )
    if work.untimed_corpora:
        left_out += f"; making data {', '.join(work.untimed_corpora)} not counted, since its time is not known"
    if work.seconds is None or work.training_seconds is None:
        return f"not estimated, since the training speed is not known{left_out}"
    training = max(sum(work.training_seconds.values()) / work.workers, work.chain_seconds)
    counted = work.evaluations - work.uncounted
    parts = [f"making data {_minutes(work.corpora_seconds)}"] if work.corpora_seconds else []
    parts += [f"training {_minutes(training)}"] if training else []
    parts += (
        [f"{counted} evaluations {_minutes(sum(work.evaluation_seconds.values()) / work.workers)}"] if counted else []
    )
    parts += [f"everything else {_minutes(work.fixed_seconds)}"] if work.fixed_seconds else []
    what = f": {', '.join(parts)}" if parts else ""
    return f"about {_minutes(work.seconds)} with {work.workers} at a time{what}{left_out}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def study_slots(facts: Facts, workers: int | None) -> Slots:
    """Count the slots that this machine has for a study."""
    stages = [node.stage for node in facts.plan.nodes.values()]
    return count_slots(stages, facts.config.numerics.threads, workers)


def study_speeds(layout: Layout, plan: Plan, slots: Slots) -> MachineSpeeds:
    """Speeds of a study's trainings, as many at once as it can have: the processes of stages that nothing follows."""
    followed = {reference.stage for node in plan.nodes.values() for reference in node.stage.references}
    at_once = sum(node.stage.processes for identifier, node in plan.nodes.items() if identifier not in followed)
    return MachineSpeeds(layout, slots, max(1, at_once))


def estimate(
    facts: Facts, workers: int | None = None, *, measure: bool = True, corpora: Sequence[CorpusWork] = ()
) -> Estimate:
    """Estimate the work left from speeds measured on this machine.

    Parameters
    ----------
    facts
        Plan and what exists.
    workers
        Stages at a time; None takes one per GPU, or as many as the cores allow.
    measure
        Measure training speeds that are not known yet: some seconds to start, and two for each size.
    corpora
        What the corpora that are not made yet will take on this machine
        (`workbench.forecast.corpus_estimate.estimate_corpora`); without them, making data is no part of the estimate.
    """
    todo = facts.tokens_to_train()
    slots = study_slots(facts, workers)
    speeds = study_speeds(facts.layout, facts.plan, slots)
    if measure:
        trainings = {i: node.stage for i, node in facts.plan.nodes.items() if isinstance(node.stage, TrainingStage)}
        speeds.measure(stage for i, stage in trainings.items() if todo[i])
    training = _training_seconds(facts, todo, speeds)
    clock = {i: seconds / facts.plan.nodes[i].stage.processes for i, seconds in (training or {}).items()}
    missing = missing_evaluations(facts)
    evaluation, uncounted = _evaluation_seconds(facts, missing, speeds)
    return Estimate(
        flops=remaining_flops(facts.plan, todo),
        disk_bytes=kept_bytes(facts),
        training_disk_bytes=training_bytes(facts, slots.count),
        workers=slots.count,
        training_seconds=training,
        evaluations=sum(sum(suites.values()) for suites in missing.values()),
        evaluation_seconds=evaluation,
        uncounted=uncounted,
        fixed_seconds=_fixed_seconds(facts, speeds, trains=any(facts.missing().values()), evaluates=bool(missing)),
        chain_seconds=longest_chain(facts.plan, clock) if clock else 0.0,
        critical_seconds=longest_chain(facts.plan, clock, _last_scores(missing, evaluation)) if clock else 0.0,
        corpora_seconds=sum(
            (corpus.seconds or 0.0) + sum(packing.seconds or 0.0 for packing in corpus.packing) for corpus in corpora
        ),
        untimed_corpora=tuple(corpus.name for corpus in corpora if corpus.seconds is None),
    )


def _last_scores(missing: Mapping[str, Mapping[str, int]], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of the scores of each stage's last checkpoint, which wait for the stage and hold no other up."""
    return {stage: each / max(missing[stage].values()) for stage, each in seconds.items()}


def missing_evaluations(facts: Facts) -> dict[str, dict[str, int]]:
    """Count the evaluations that each stage will lack once it is trained, by stage and suite."""
    missing: dict[str, dict[str, int]] = {}

    def add(stage: str, suite: str, count: int) -> None:
        if count:
            by_suite = missing.setdefault(stage, {})
            by_suite[suite] = by_suite.get(suite, 0) + count

    for checkpoint, suite in pending_evaluations(facts):
        add(checkpoint.parent.parent.name, suite, 1)
    for node in facts.plan.nodes.values():
        for suite in facts.plan.evaluation.suites:
            add(node.id, suite, len(set(node.stage.milestones) - facts.existing[node.id]))
    return missing


def _training_seconds(facts: Facts, todo: Mapping[str, int], speeds: MachineSpeeds) -> dict[str, float] | None:
    seconds: dict[str, float] = {}
    for identifier, missing in facts.missing().items():
        stage, tokens = facts.plan.nodes[identifier].stage, todo[identifier]
        speed = speeds.training(stage) if tokens else None
        if tokens and speed is None:
            return None
        work = tokens / speed if speed else checkpoint_bytes(stage, whole=False) / CHECKPOINT_BYTES_PER_SECOND
        starts = _STAGE_STARTS if stage.processes == 1 else _SHARED_STAGE_STARTS * stage.processes
        seconds[identifier] = work + starts * (speeds.start_seconds or 0.0) if missing else 0.0
    return seconds


def _evaluation_seconds(
    facts: Facts, missing: Mapping[str, Mapping[str, int]], speeds: MachineSpeeds
) -> tuple[dict[str, float], int]:
    """Seconds by stage, and how many evaluations they leave out."""
    seconds: dict[str, float] = {}
    uncounted = 0
    for identifier, suites in missing.items():
        stage = facts.plan.nodes[identifier].stage
        for name, count in suites.items():
            suite = facts.plan.evaluation.suites[name]
            each = speeds.evaluation(stage, suite) or _guess(suite, speeds.training(stage))
            if each is None:
                uncounted += count
            else:
                seconds[identifier] = seconds.get(identifier, 0.0) + count * each
    return seconds, uncounted


def _guess(suite: SuiteConfig, tokens_per_second: float | None) -> float | None:
    """Seconds of a first evaluation, for the project's own tasks; None for others, whose length is not known."""
    if suite.include_path != "embedded" or tokens_per_second is None:
        return None
    return _EVALUATION_TOKENS * min(1.0, (suite.limit or _FULL_LIMIT) / _FULL_LIMIT) / tokens_per_second


def _fixed_seconds(facts: Facts, speeds: MachineSpeeds, *, trains: bool, evaluates: bool) -> float:
    if not (trains or evaluates):
        return 0.0
    starts = 1.0 + _REPORT_STARTS + (_EVALUATOR_STARTS if evaluates else 0.0)
    for fingerprint in {node.stage.data_fingerprint for node in facts.plan.nodes.values()}:
        prepared = (facts.layout.data(fingerprint) / "manifest.json").exists()
        starts += 0.0 if prepared else _PREPARE_STARTS
    starts += sum(_left_to_prepare(facts).values()) / _CONVERSATION_BYTES_A_START
    return starts * (speeds.start_seconds or 0.0)


def _left_to_prepare(facts: Facts) -> dict[str, int]:
    """Bytes of text that kinds still have to prepare, by name: what several stages read is prepared once."""
    found: dict[str, int] = {}
    for node in facts.plan.nodes.values():
        found |= unprepared_bytes(node.stage, facts.layout)
    return found


def longest_chain(plan: Plan, seconds: Mapping[str, float], after: Mapping[str, float] | None = None) -> float:
    """Seconds of the chain of stages that takes longest, each after those it reads.

    Parameters
    ----------
    plan
        The graph.
    seconds
        Of each stage, on the clock.
    after
        What follows a stage and holds no other stage up, such as its scores; None is nothing.
    """
    longest = _longest(plan, seconds)
    return max((total + (after or {}).get(identifier, 0.0) for identifier, total in longest.items()), default=0.0)


def stages_of_longest_chain(plan: Plan, seconds: Mapping[str, float]) -> list[str]:
    """Name the stages of the chain that takes longest, the last one first; `seconds` are of each stage, on the clock."""
    longest = _longest(plan, seconds)
    found: list[str] = []
    following = max(longest, key=lambda identifier: longest[identifier], default=None)
    while following is not None:
        found.append(following)
        before = [reference.stage for reference in plan.nodes[following].stage.references]
        following = max(before, key=lambda identifier: longest[identifier], default=None)
    return found


def _longest(plan: Plan, seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds until each stage has ended, each after those it reads."""
    longest: dict[str, float] = {}
    for identifier, node in plan.nodes.items():
        before = [longest[reference.stage] for reference in node.stage.references]
        longest[identifier] = seconds[identifier] + max(before, default=0.0)
    return longest


def check_budget(budget: BudgetConfig, work: Estimate) -> None:
    """Refuse a plan above its budget.

    Raises
    ------
    ValueError
        With both numbers and the setting to change.
    """
    if budget.max_flops is not None and work.flops > budget.max_flops:
        raise ValueError(
            f"the plan needs {work.flops:.3g} FLOPs, more than budget.max_flops={budget.max_flops:.3g}: "
            "make the study smaller or raise the budget"
        )
    if budget.max_hours is not None and work.hours is None:
        what = (
            f"how long data {', '.join(work.untimed_corpora)} takes to make is not known: make it first (workbench prepare), "
            "state data.sources.*.size_bytes where its size is not known, or leave budget.max_hours null"
        )
        what = what if work.untimed_corpora else "no speed could be measured to hold the plan against it"
        raise ValueError(f"budget.max_hours is set, but {what}")
    if budget.max_hours is not None and work.hours is not None and work.hours > budget.max_hours:
        raise ValueError(
            f"the plan takes about {work.hours:.3g} hours, more than budget.max_hours={budget.max_hours:.3g}: "
            "make the study smaller or raise the budget"
        )


def kept_bytes(facts: Facts) -> int:
    """Bytes of the checkpoints still to be written that stay: some whole, the others with their weights alone."""
    total, settled, todo = 0, facts.settled(), facts.tokens_to_train()
    for identifier, node in facts.plan.nodes.items():
        if (exact := kind_plan.kept_bytes(node.stage, todo[identifier])) is not None:
            total += exact
            continue
        light = checkpoint_bytes(node.stage, whole=False)
        new, whole = set(node.targets) - settled[identifier], whole_targets(node.stage)
        total += len(new & whole) * checkpoint_bytes(node.stage, whole=True) + len(new - whole) * light
        total -= len(new & facts.existing[identifier]) * light  # which are there already
    return total


def training_bytes(facts: Facts, workers: int) -> int:
    """Bytes, at most, of what the largest `workers` stages keep to resume from, and of the one that each writes."""
    todo = facts.tokens_to_train()
    each = [passing_bytes(node.stage) for node in facts.plan.nodes.values() if todo[node.id]]
    return sum(sorted(each)[-workers:])
