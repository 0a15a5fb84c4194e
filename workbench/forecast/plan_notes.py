"""What `workbench plan` says beside its tables: notes on points, data and checkpoints, and the plan for machines."""

from __future__ import annotations

from typing import Any

from workbench.data.inputs import some_names
from workbench.forecast.estimate import Estimate
from workbench.forecast.study_facts import Facts, check_streams, point_counts, point_stream, pretraining
from workbench.study.kind_plan import check_here, flops_per_token
from workbench.study.study_plan import Node, Point
from workbench.study.study_record import read_record


def unique_token_notes(facts: Facts) -> list[str]:
    """Lines on sources whose `unique_tokens` exceed what the prepared stores have, so that all of them are used."""
    streams = [stream for point in facts.plan.points if (stream := point_stream(facts, point)) is not None]
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
