"""What `workbench plan` says beside its tables: notes on points, data and checkpoints, and the plan for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.config.schema import DataConfig, to_dict
from workbench.data.inputs import some_names
from workbench.data.packed_index import is_packed, packing_lines, read_packing
from workbench.data.store import open_prepared
from workbench.data.store_summary import ignored_percent
from workbench.data.stream import SourceCounts
from workbench.data.tokenizer import load_saved
from workbench.forecast.estimate import Estimate
from workbench.forecast.study_facts import (
    Facts,
    check_streams,
    packed_contexts,
    point_counts,
    point_stream,
    pretraining,
    stores,
)
from workbench.study.kind_plan import check_here, flops_per_token
from workbench.study.study_plan import Node, Point
from workbench.study.study_record import read_record

_BYTES_PER_TOKEN = 4
"""Bytes of a token, as they are taken to be where no tokenizer can count: most have 3 to 5 of English text or code."""
_FIRST_BUCKET = 16
"""Positions of the first bucket of the suite `positions` (`workbench.evaluate.position_suite.positions`)."""


def unique_token_notes(facts: Facts) -> list[str]:
    """Lines on sources whose `unique_tokens` exceed what the prepared stores have, so that all of them are used."""
    streams = [stream for point in facts.plan.points if (stream := point_stream(facts, point)) is not None]
    notes = [
        f"source {name!r}: unique_tokens={wanted} exceed what the store has: all of its {stored} tokens count"
        for stream in streams
        for name, (wanted, stored) in stream.shortages().items()
    ]
    return list(dict.fromkeys(notes))


def heldout_percent_notes(facts: Facts) -> list[str]:
    """Lines on a `data.heldout_percent` that a corpus does not take."""
    notes = [note for config in stores(facts.plan).values() for note in ignored_percent(to_dict(config.data))]
    return list(dict.fromkeys(notes))


def packing_notes(facts: Facts) -> list[str]:
    """Lines on packed documents: the padding among the positions that are trained on, and the documents that are cut."""
    notes: list[str] = []
    for (fingerprint, context), sources in packed_contexts(facts.plan).items():
        folder = facts.layout.data(fingerprint)
        if not (folder / "manifest.json").exists() or not is_packed(
            prepared := open_prepared(folder), context, sources
        ):
            notes.append(
                f"packing into {context:,} tokens: padding is known once `workbench prepare` has packed the data"
            )
            continue
        lines = packing_lines(read_packing(prepared, context, sources))
        notes += [f"packing into {context:,} tokens: {line}" for line in lines]
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
    if facts.data_notes:  # whose points have other ids for now
        return []
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


def published_cost_note(facts: Facts) -> list[str]:
    """Line on what others say that the tokens left to train would take; empty without `published_cost`."""
    cost = facts.config.published_cost
    if cost is None:
        return []
    todo = facts.tokens_to_train()
    tokens = sum(todo[i] for i, node in facts.plan.nodes.items() if node.stage.model.name == cost.model)
    return [
        f"published: {cost.gpu_hours:,.6g} hours of {cost.gpu} for {cost.tokens / 1e9:,.6g}B tokens of {cost.model} "
        f"({cost.source}), which is {cost.gpu_hours * tokens / cost.tokens:,.0f} for the {tokens / 1e9:,.6g}B tokens of it "
        "to train here"
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


def short_heldout_notes(facts: Facts) -> list[str]:
    """Lines on longer contexts that are to be scored by position on held-out documents too short to reach beyond the old.

    Exactly, by the documents of the prepared store and its tokenizer; before there is one, by `_BYTES_PER_TOKEN`.
    """
    if all(suite.include_path != "positions" for suite in facts.plan.evaluation.suites.values()):
        return []
    configs, notes = stores(facts.plan), list[str]()
    for node in facts.plan.nodes.values():
        parent, fingerprint = node.stage.parent, node.stage.data_fingerprint
        if node.stage.kind != "rescale" or parent is None or fingerprint not in configs:
            continue
        old, new = facts.plan.nodes[parent.stage].stage.model.context_tokens, node.stage.model.context_tokens
        needed = tokens_beyond(old)
        if needed <= new:
            notes += _too_short(configs[fingerprint].data, facts.layout.data(fingerprint), old, new, needed)
    return list(dict.fromkeys(notes))


def tokens_beyond(context_tokens: int) -> int:
    """Tokens of the shortest document that fills a bucket of positions which goes beyond a context; buckets double."""
    needed = _FIRST_BUCKET
    while needed <= context_tokens:
        needed *= 2
    return needed


def _too_short(data: DataConfig, store: Path, old: int, new: int, needed: int) -> list[str]:
    """Lines on the sources none of whose held-out documents has the tokens that are needed."""
    names = [name for name, source in data.sources.items() if source.heldout_bytes]
    if (store / "manifest.json").exists():
        longest = {name: _longest_heldout(store, name) for name in names}
        short = [f"source {name!r}: the longest held-out document has {longest[name]:,} tokens" for name in names]
        short = [line for name, line in zip(names, short, strict=True) if longest[name] < needed]
    elif names and data.heldout_document_bytes < needed * _BYTES_PER_TOKEN:
        cut = f"data.heldout_document_bytes={data.heldout_document_bytes:,}"
        tokens = data.heldout_document_bytes // _BYTES_PER_TOKEN
        short = [f"held-out documents end at {cut}, some {tokens:,} tokens at {_BYTES_PER_TOKEN} bytes each"]
    else:
        short = []
    return [
        f"{line}, and a score beyond the old context of {old:,} tokens takes {needed:,}: raise data.heldout_document_bytes "
        f"(some {new * _BYTES_PER_TOKEN} for the new context of {new:,}), and data.sources.*.heldout_bytes with it"
        for line in short
    ]


def _longest_heldout(store: Path, source: str) -> int:
    """Tokens of a source's longest held-out document, without those that begin or end a text."""
    tokenizer = load_saved(store / "tokenizer")
    with open_prepared(store).heldout_path(source).open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    return max((len(each.ids) for each in tokenizer.encode_batch(texts, add_special_tokens=False)), default=0)


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
                "data": node.stage.data_fingerprint,
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
            *published_cost_note(facts),
            *facts.data_notes,
            *heldout_percent_notes(facts),
            *unique_token_notes(facts),
            *packing_notes(facts),
            *trained_again_notes(facts),
            *short_heldout_notes(facts),
            *leaving_points_note(facts),
            *refusal_note(facts),
        ],
    }


def _padded_share(counts: Mapping[str, SourceCounts]) -> float:
    """Share of padding among the positions that a point draws, where each source has its mean."""
    drawn = sum(count.drawn_tokens for count in counts.values())
    return sum(count.padded_share * count.drawn_tokens for count in counts.values()) / drawn if drawn else 0.0


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
        "padded_share": None if counts is None else _padded_share(counts),
        "flops": point.flops,
        "flops_6nd": point.flops_6nd,
        "learning_rate": None if (stage := pretraining(facts.plan, point)) is None else stage.schedule.peak,
        "seed_init": point.config.seed_init,
        "seed_data": point.config.seed_data,
        "chain": [{"stage": identifier, "tokens": tokens} for identifier, tokens in point.chain],
    }
