"""A plan with its facts: what exists and what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.config.kind_registry import plugin_folders
from workbench.config.schema import Config, TrainingStage
from workbench.data.fingerprint import data_fingerprint, heldout_fingerprint
from workbench.data.hub import pin_revisions
from workbench.data.inputs import some_names
from workbench.data.special_tokens import choose
from workbench.data.store import open_prepared, prepare
from workbench.data.store_summary import notes
from workbench.data.stream import SourceCounts, Stream
from workbench.evaluate.reconcile import evaluation_id_on, pending
from workbench.study.kind_plan import check as check_inputs
from workbench.study.kind_plan import check_here, flops_per_token, resolve, standing_tokens, tokens_left
from workbench.study.kind_plan import prepare as prepare_inputs
from workbench.study.layout import Layout
from workbench.study.study_plan import (
    Node,
    Plan,
    Point,
    missing_targets,
    plan_study,
    settled_targets,
    study_record,
    tokens_to_train,
)
from workbench.study.study_record import change_record, read_record
from workbench.train.checkpoint import checkpoints_by_tokens, list_tokens

if TYPE_CHECKING:
    from workbench.launch.estimate import Estimate


@dataclass(frozen=True)
class Facts:
    """A plan, and what this machine says about it."""

    plan: Plan
    """The graph."""
    layout: Layout
    """The outputs."""
    existing: dict[str, set[int]]
    """Tokens up to which each stage has done its work: those of its checkpoints."""
    weights_only: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    """Those among them without the optimizer's state, which no training can resume from."""
    left: dict[str, int] = field(default_factory=dict[str, int])
    """Tokens still to be done of the stages whose checkpoints do not tell."""

    @property
    def config(self) -> Config:
        """The first point's config, for what is one a study."""
        return self.plan.points[0].config

    def tokens_to_train(self) -> dict[str, int]:
        """Tokens still to be trained, by stage."""
        nodes = self.plan.nodes.items()
        return {i: tokens_to_train(node, self.existing[i], self._bare(i)) for i, node in nodes} | self.left

    def missing(self) -> dict[str, list[int]]:
        """Targets still to be reached, by stage; a stage may add no tokens and still lack its checkpoint."""
        return {i: missing_targets(node, self.existing[i], self._bare(i)) for i, node in self.plan.nodes.items()}

    def settled(self) -> dict[str, set[int]]:
        """Tokens of the checkpoints that need no more training, by stage."""
        return {i: settled_targets(node, self.existing[i], self._bare(i)) for i, node in self.plan.nodes.items()}

    def resumable(self, stage: str) -> set[int]:
        """Tokens of the checkpoints of one stage that training can resume from."""
        return self.existing[stage] - self._bare(stage)

    def _bare(self, stage: str) -> set[int]:
        return self.weights_only.get(stage, set())


def make_facts(points: Sequence[tuple[str, Config]], stored: Sequence[str] | None = None) -> Facts:
    """Plan a study and look at what exists.

    Parameters
    ----------
    points
        Names and configs.
    stored
        Fingerprints of the data that each point's recorded launch was trained on; None takes the data as they are now,
        and the texts of this Python environment where they are embedded.

    Raises
    ------
    ValueError
        The points do not make a study (see `plan_study`), or a source cannot be found.
    """
    if stored is not None:
        return look(plan_study(points, stored))
    # Recorded with the study, so that a branch of the hub that moves on does not make another study of it.
    points = [(name, resolve(replace(config, data=pin_revisions(config.data)))) for name, config in points]
    fingerprints: dict[str, str] = {}
    for _, config in points:
        key = repr((config.data, config.tokenizer))
        if key not in fingerprints:
            fingerprints[key] = data_fingerprint(config.data, config.tokenizer)
    return look(plan_study(points, [fingerprints[repr((c.data, c.tokenizer))] for _, c in points]))


def look(plan: Plan) -> Facts:
    """Look at what exists of a plan."""
    layout = Layout(Path(plan.points[0].config.paths.outputs))
    found = {i: list_tokens(layout.stage(i)) for i in plan.nodes}
    existing = {i: standing_tokens(plan.nodes[i].stage, layout.stage(i), pair[0]) for i, pair in found.items()}
    left = {
        i: tokens for i, node in plan.nodes.items() if (tokens := tokens_left(node.stage, layout.stage(i))) is not None
    }
    return Facts(plan, layout, existing, {i: pair[1] for i, pair in found.items()}, left)


def wanted_checkpoints(layout: Layout, node: Node) -> list[Path]:
    """Complete checkpoints among a stage's milestones."""
    present = checkpoints_by_tokens(layout.stage(node.id))
    return [present[tokens] for tokens in node.stage.milestones if tokens in present]


def pending_evaluations(facts: Facts) -> list[tuple[Path, str]]:
    """Every (checkpoint, suite) of a study without a valid result."""
    wanted = [path for node in facts.plan.nodes.values() for path in wanted_checkpoints(facts.layout, node)]
    return pending(wanted, facts.plan.evaluation, facts.layout)


def prepare_data(facts: Facts, log: Callable[[str], None]) -> None:
    """Prepare every token store the study reads, and check that each stage's stream is long enough.

    Raises
    ------
    ValueError
        A stage asks for more tokens than exist without allowing repetition, or `data.unique_tokens` for more
        distinct ones than exist; both numbers are named.
    """
    for fingerprint, config in stores(facts.plan).items():
        if (facts.layout.data(fingerprint) / "manifest.json").exists():
            continue
        log(f"preparing data {config.data.name} ...")
        if config.tokenizer.kind == "file":
            log(f"{config.tokenizer.path}: {choose(config.tokenizer)}")
        for note in notes(prepare(config.data, config.tokenizer, facts.layout)):
            log(note)
    for point in facts.plan.points:
        for identifier, _ in point.chain:
            prepare_inputs(facts.plan.nodes[identifier].stage, point.config, facts.layout, log)
    check_streams(facts)


def check_streams(facts: Facts) -> None:
    """Refuse stages that draw more than their prepared data has; what is not prepared yet is not looked at.

    Raises
    ------
    ValueError
        As `prepare_data`.
    """
    for node in facts.plan.nodes.values():
        check_inputs(node.stage, facts.layout)
    for point in facts.plan.points:
        _check_unique_tokens(facts, point)


def _check_unique_tokens(facts: Facts, point: Point) -> None:
    """Refuse a point whose `data.unique_tokens` its store lacks: it would be another point's twin."""
    asked = point.config.data.unique_tokens
    stream = None if asked is None else _stream(facts, point)
    for name, (wanted, stored) in (stream.shortages() if stream else {}).items():
        raise ValueError(
            f"data.unique_tokens={asked} gives source {name!r} {wanted} tokens, but the store has {stored}: "
            f"raise data.sources.{name}.max_bytes, or lower data.unique_tokens"
        )


def stores(plan: Plan) -> dict[str, Config]:
    """Token stores a plan reads: fingerprint, and a config that gives it."""
    return {point.data_fingerprint: point.config for point in plan.points}


def point_counts(facts: Facts, point: Point) -> dict[str, SourceCounts] | None:
    """Count what a point draws from each source, exactly; None while its data is not prepared.

    Empty where its recipe trains nothing.
    """
    stage, stream = pretraining(facts.plan, point), _stream(facts, point)
    if stage is None:
        return {}
    return None if stream is None else stream.counts(stage.sequences(stage.end_tokens))


def pretraining(plan: Plan, point: Point) -> TrainingStage | None:
    """Last stage of a point's recipe; None where it trains nothing on text."""
    stages = [plan.nodes[identifier].stage for identifier, _ in point.chain]
    found = [stage for stage in stages if isinstance(stage, TrainingStage) and stage.follows_recipe]
    return found[-1] if found else None


def _stream(facts: Facts, point: Point) -> Stream | None:
    """Stream of a point's whole recipe; None while its data is not prepared, or where it trains on none."""
    stage = pretraining(facts.plan, point)
    if stage is None or not (facts.layout.data(stage.data_fingerprint) / "manifest.json").exists():
        return None
    return Stream(open_prepared(facts.layout.data(stage.data_fingerprint)), stage.stream)


def unique_token_notes(facts: Facts) -> list[str]:
    """Lines on sources whose `unique_tokens` exceed what the prepared stores have, so that all of them are used."""
    streams = [stream for point in facts.plan.points if (stream := _stream(facts, point)) is not None]
    notes = [
        f"source {name!r}: unique_tokens={wanted} exceed what the store has: all of its {stored} tokens count"
        for stream in streams
        for name, (wanted, stored) in stream.shortages().items()
    ]
    return list(dict.fromkeys(notes))


def trained_again_notes(facts: Facts) -> list[str]:
    """Lines on the checkpoints from which a stage is to begin, but whose optimizer's state is gone."""
    return [
        _trained_again(facts, node, tokens)
        for node in facts.plan.nodes.values()
        for tokens in sorted(facts.weights_only.get(node.id, set()) & set(node.stage.branch_points))
    ]


def _trained_again(facts: Facts, node: Node, tokens: int) -> str:
    before = [t for t in facts.resumable(node.id) if t <= tokens]
    begin = max(before, default=node.stage.start_tokens)
    return (
        f"stage {node.id} ({node.stage.model.name} {node.stage.name}): another stage begins at {tokens:,} tokens, where "
        f"only the weights were kept; it is trained again from {begin:,} tokens to have the optimizer's state"
    )


def leaving_points_note(facts: Facts) -> list[str]:
    """Line on the points that the study had and this launch does not name: its table and figures lose them."""
    study = facts.plan.study
    if not facts.layout.study_file(study).exists():
        return []
    named = {point.chain[-1] for point in facts.plan.points}
    ends = [(point, point["chain"][-1]) for point in read_record(facts.layout, study)["points"]]
    leaving = [point["name"] for point, end in ends if (end["stage"], end["tokens"]) not in named]
    if not leaving:
        return []
    some = f"{len(leaving)} of the {len(ends)} points of its last launch are not in this one, and"
    these = some if len(leaving) < len(ends) else "this launch has other points than its last one, which"
    return [
        f"study {study!r}: {these} leave its table and figures ({some_names(leaving, most=3)}); their trainings stay. Name "
        "this launch otherwise (study=...) to keep both"
    ]


def refusal_note(facts: Facts) -> list[str]:
    """Line on what `run` would refuse now that the data is prepared."""
    try:
        check_streams(facts)
    except ValueError as error:
        return [f"`workbench run` will refuse this: {error}"]
    return []


def missing_here_note(facts: Facts) -> list[str]:
    """Line on what this machine lacks for the stages that are left to train, for plans of training here."""
    missing = facts.missing()
    try:
        for node in facts.plan.nodes.values():
            if missing[node.id]:
                check_here(node.stage)
    except ValueError as error:
        return [f"`workbench run` will refuse this: {error}"]
    return []


def plan_json(facts: Facts, work: Estimate) -> dict[str, Any]:
    """Machine-readable plan; see `workbench plan --json`."""
    todo = facts.tokens_to_train()
    return {
        "study": facts.plan.study,
        "points": [_point_json(facts, point) for point in facts.plan.points],
        "stages": [
            {
                "id": node.id,
                "kind": node.stage.kind,
                "name": node.stage.name,
                "model": node.stage.model.name,
                "parent": None if node.stage.parent is None else vars(node.stage.parent),
                "trajectory": node.trajectory,
                "points": list(node.points),
                "start_tokens": node.stage.start_tokens,
                "end_tokens": node.stage.end_tokens,
                "tokens": node.tokens,
                "tokens_to_train": todo[node.id],
                "flops_to_train": float(todo[node.id] * flops_per_token(node.stage)),
                "milestones": node.stage.milestones,
            }
            for node in facts.plan.nodes.values()
        ],
        "tokens_unshared": facts.plan.tokens_unshared,
        "tokens_shared": facts.plan.tokens_shared,
        "tokens_to_train": sum(todo.values()),
        "flops_to_train": work.flops,
        "hours": work.hours,
        "evaluations": work.evaluations,
        "evaluations_not_in_hours": work.uncounted,
        "disk_bytes": work.disk_bytes,
        "training_disk_bytes": work.training_disk_bytes,
        "workers": work.workers,
        "notes": [
            *unique_token_notes(facts),
            *trained_again_notes(facts),
            *leaving_points_note(facts),
            *refusal_note(facts),
        ],
    }


def _point_json(facts: Facts, point: Point) -> dict[str, Any]:
    counts = point_counts(facts, point)
    return {
        "name": point.name,
        "model": point.config.model.name,
        "params": point.params,
        "params_non_embedding": point.params_non_embedding,
        "tokens": point.tokens,
        "unique_tokens": None if counts is None else sum(c.distinct_tokens for c in counts.values()),
        "epochs": None if counts is None else {name: c.epochs for name, c in counts.items()},
        "flops": point.flops,
        "flops_6nd": point.flops_6nd,
        "learning_rate": None if (stage := pretraining(facts.plan, point)) is None else stage.schedule.peak,
        "seed_init": point.config.seed_init,
        "seed_data": point.config.seed_data,
        "chain": [{"stage": identifier, "tokens": tokens} for identifier, tokens in point.chain],
    }


def write_study(
    facts: Facts, commit: str, dirty: bool, command: str = "", launcher: Mapping[str, Any] | None = None
) -> None:
    """Write `study.json`, keeping the time it was first made; `command` launches the study again, by `launcher`."""

    def replaced(before: dict[str, Any]) -> dict[str, Any]:
        record = study_record(facts.plan, created=before.get("created", time.time()), commit=commit, dirty=dirty)
        record["evaluation_ids"] = before.get("evaluation_ids", {})
        record["command"] = command or before.get("command", "")
        record["launcher"] = launcher or before.get("launcher")
        record["plugins"] = [str(folder) for folder in plugin_folders()]
        return record

    change_record(facts.layout, facts.plan.study, replaced)


def _heldout(layout: Layout, fingerprint: str, config: Config) -> str:
    """Fingerprint of the held-out documents: the store's own, where there is one."""
    if (layout.data(fingerprint) / "manifest.json").exists():
        return open_prepared(layout.data(fingerprint)).heldout_fingerprint
    return heldout_fingerprint(config.data)


def record_evaluations(facts: Facts) -> None:
    """Say in `study.json` which evaluation of each suite counts now; frames leave the suite's others out."""
    evaluation = facts.plan.evaluation
    if not facts.layout.study_file(facts.plan.study).exists():
        return
    counted: dict[str, list[str]] = {}
    for suite in evaluation.suites.values():
        ids: set[str] = set()
        for fingerprint, config in stores(facts.plan).items():
            heldout = _heldout(facts.layout, fingerprint, config)
            ids.add(evaluation_id_on(suite, evaluation.precision, facts.layout, fingerprint, heldout))
        counted[suite.name] = sorted(ids)

    def with_ids(record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "evaluation_ids": {**record.get("evaluation_ids", {}), **counted}}

    change_record(facts.layout, facts.plan.study, with_ids)
