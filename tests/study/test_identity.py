"""A stage's id: every field is classified, and the classification is what the arithmetic says."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.config.compose import composer
from workbench.config.kind_registry import find_kind, kind_names
from workbench.config.schema import (
    CheckpointConfig,
    MixtureSegment,
    NumericsConfig,
    Parent,
    ResourcesConfig,
    RopeScaling,
    Stage,
    StreamSource,
    TrainingStage,
)
from workbench.config.schema.stage import ROLES
from workbench.study.chain import build_chain, merge_targets
from workbench.study.identity import identity, stage_id

BEFORE: dict[str, list[str]] = json.loads(Path(__file__).with_name("ids_before_kinds.json").read_text())
"""Ids of the studies' stages, computed by the last version whose stages were all of one kind."""


@pytest.fixture
def stage(compose):
    [(_, config)] = compose(["tokens=1000000"])
    return build_chain(config, "feedfacefeedface")[0]


def change(stage: Stage, path: str, value):
    head, _, rest = path.partition(".")
    if rest:
        value = change(getattr(stage, head), rest, value)
    return replace(stage, **{head: value})


INSIDE = {
    "kind": "imported",
    "parent": Parent("0123456789abcdef", 8192),
    "inputs": {"teacher": Parent("0123456789abcdef", 8192)},
    "origin.tokens": 8192,
    "model.width": 160,
    "model.mlp": "gelu",
    "model.norm": "layernorm",
    "model.position": "none",
    "model.tie_embeddings": True,
    "model.qk_norm": True,
    "model.rope_theta": 5e5,
    "model.attention_bias": "qkv",
    "model.mlp_bias": True,
    "model.parallel_residual": True,
    "model.rotary_share": 0.5,
    "model.rope_scaling": RopeScaling("linear", 2.0),
    "model.parametrisation": "mup",
    "stream.data_fingerprint": "0" * 16,
    "stream.context_tokens": 128,
    "stream.seed": 9,
    "stream.sources": {"prose": StreamSource(unique_tokens=1000), "code": StreamSource()},
    "stream.mixture": [MixtureSegment(0, {"prose": 1, "code": 1})],
    "stream.document_mask": True,
    "stream.packing": "best_fit",
    "batch_sequences": 64,
    "schedule.peak": 0.123,
    "schedule.warmup_tokens": 1,
    "schedule.decay": "linear",
    "schedule.decay_start_tokens": 5,
    "schedule.decay_tokens": 5,
    "schedule.final_ratio": 0.3,
    "optimizer.beta1": 0.8,
    "optimizer.beta2": 0.9,
    "optimizer.eps": 1e-6,
    "optimizer.weight_decay": 0.0,
    "optimizer.clip_norm": 2.0,
    "optimizer.non_finite": "skip",
    "optimizer.kind": "muon",
    "optimizer.decay_coupling": "independent",
    "optimizer.z_loss": 1e-4,
    "precision": "bf16",
    "seed_init": 5,
}
OUTSIDE = {
    "model.name": "another",
    "stream.sources": {"prose": StreamSource(max_epochs=None), "code": StreamSource(max_epochs=4.0)},
    "optimizer.learning_rate": 1.0,
    "optimizer.base_learning_rate": 1.0,
    "optimizer.max_skips_in_a_row": 7,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.ns_steps": 4,
    "optimizer.rate_adjustment": "original",
    "model.base_width": 32,
    "model.base_head_width": 16,
    "model.base_layers": 1,
    "name": "another",
    "origin.flops": 1e18,
    "end_tokens": 10**9,
    "milestones": [1, 2, 3],
    "branch_points": [7],
    "read_points": [7],
    "numerics": NumericsConfig(threads=7, micro_batch_sequences=1, compile=True, deterministic=False),
    "checkpoint": CheckpointConfig(interval_seconds=1.0),
    "resources": ResourcesConfig(processes=4, minutes=7),
}


@pytest.mark.parametrize(("path", "value"), INSIDE.items())
def test_what_changes_the_weights_changes_the_id(stage, path, value):
    assert stage_id(change(stage, path, value)) != stage_id(stage)


@pytest.mark.parametrize(("path", "value"), OUTSIDE.items())
def test_what_does_not_change_the_weights_does_not(stage, path, value):
    assert stage_id(change(stage, path, value)) == stage_id(stage)


def test_how_many_skips_are_allowed_is_part_of_skipping(stage):
    skipping = change(stage, "optimizer.non_finite", "skip")
    assert stage_id(change(skipping, "optimizer.max_skips_in_a_row", 7)) != stage_id(skipping)


@pytest.mark.parametrize("name", ["momentum", "nesterov", "ns_steps", "rate_adjustment"])
def test_muons_settings_are_part_of_muon(stage, name):
    muon, value = change(stage, "optimizer.kind", "muon"), OUTSIDE[f"optimizer.{name}"]
    assert stage_id(change(muon, f"optimizer.{name}", value)) != stage_id(muon)


@pytest.mark.parametrize(("parametrisation", "looks_at"), [("mup", 2), ("complete_p", 3)])
def test_base_shapes_are_part_of_the_parametrisations_that_look_at_them(stage, parametrisation, looks_at):
    """A base that is the model's own shape is the same whether it is written or not."""
    turned = change(stage, "model.parametrisation", parametrisation)
    names = ("base_width", "base_head_width", "base_layers")
    differ = [stage_id(change(turned, f"model.{name}", OUTSIDE[f"model.{name}"])) != stage_id(turned) for name in names]
    assert differ == [place < looks_at for place in range(3)]
    for name, own in zip(names, turned.model.bases, strict=True):
        assert stage_id(change(turned, f"model.{name}", own)) == stage_id(turned)


def test_ids_are_those_of_the_first_versions(compose):
    """Of a trunk and a cooldown, and of a larger model that skips: as computed before ids had the younger fields."""
    more = ["model=m1", "optimizer.non_finite=skip", "recipe=cosine"]
    ids = [
        [stage_id(each) for each in build_chain(config, "feedfacefeedface")]
        for settings in ([], more)
        for _, config in compose(["tokens=1000000", *settings])
    ]
    assert ids == [["acea748abc98f682", "8af17c46f2d8a50d"], ["1693596de05e427b"]]


def test_stages_that_stop_keep_the_ids_of_before_there_was_a_choice(stage):
    assert identity(stage)["optimizer"].keys() == {"beta1", "beta2", "eps", "weight_decay", "clip_norm"}


def test_switches_of_models_from_outside_are_in_ids_only_where_they_are_turned(stage):
    """Ids of before there were any stay."""
    assert identity(stage)["model"].keys() == {
        "num_layers",
        "width",
        "num_heads",
        "num_kv_heads",
        "mlp_width",
        "vocab_size",
        "context_tokens",
        "mlp",
        "norm",
        "position",
        "tie_embeddings",
        "qk_norm",
        "rope_theta",
        "norm_eps",
    }
    layernorm = change(stage, "model.norm", "layernorm")
    assert stage_id(change(layernorm, "model.norm_bias", True)) != stage_id(layernorm)


def test_every_field_is_classified():
    named = {path.partition(".")[0] for path in (*INSIDE, *OUTSIDE)}
    assert named == {field.name for field in dataclasses.fields(TrainingStage)}


@pytest.mark.parametrize("kind", kind_names())
def test_every_field_of_every_kind_has_a_role(kind):
    spec = find_kind(kind).spec.Spec
    # A corpus has no model: it is what stages read, and its name is the fingerprint of the data.
    assert issubclass(spec, Stage) or kind == "corpus"
    assert {field.metadata.get("role") for field in dataclasses.fields(spec)} <= set(ROLES)


@pytest.mark.parametrize("study", sorted(BEFORE))
def test_ids_of_before_there_were_kinds_stay(study):
    """Outputs of that time are found again."""
    with composer() as hydra:
        points = hydra.points([f"experiments={study}"])
    ids = [stage_id(stage) for point in points for stage in build_chain(point.config, "f" * 16)]
    assert list(dict.fromkeys(ids)) == BEFORE[study]


def test_equal_mixtures_are_equal_however_they_are_written(stage):
    tenths = change(stage, "stream.mixture", [MixtureSegment(0, {"prose": 0.7, "code": 0.3})])
    assert stage_id(tenths) == stage_id(stage)


def test_a_trunk_is_shared_and_extended_by_budgets(compose):
    chains = [build_chain(c, "f" * 16) for _, c in compose(["tokens=1000000,2000000,4000000"])]
    assert len({stage_id(chain[0]) for chain in chains}) == 1
    assert len({stage_id(chain[1]) for chain in chains}) == 3
    merged = merge_targets(merge_targets(chains[2][0], chains[0][0]), chains[1][0])
    assert merged.end_tokens == chains[2][0].end_tokens
    assert merged.branch_points == [chain[1].start_tokens for chain in chains]


def test_a_cosine_is_a_trajectory_of_its_horizon(compose):
    chains = [build_chain(c, "f" * 16) for _, c in compose(["recipe=cosine", "tokens=1000000,2000000"])]
    assert len({stage_id(chain[0]) for chain in chains}) == 2


def test_one_trajectory_is_computed_in_one_way(stage):
    other = replace(stage, numerics=NumericsConfig(threads=2))
    with pytest.raises(ValueError, match="two numerics"):
        merge_targets(stage, other)
