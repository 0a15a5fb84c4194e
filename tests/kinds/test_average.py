"""The average of checkpoints of one training."""

import pytest
import torch
from safetensors.torch import load_file

from workbench.forecast.study_facts import make_facts, pending_evaluations
from workbench.kinds.average.spec import Settings
from workbench.train.checkpoint import checkpoints_by_tokens, read_manifest
from workbench.train.whole_stage import train_stage

AVERAGE = ["recipe=constant", "recipe.warmup_tokens=512", "recipe.batch_sequences=8", "then=average"]


def average(facts):
    return list(facts.plan.nodes.values())[-1]


@pytest.mark.parametrize(("weighting", "weights"), [("uniform", [1, 1, 1]), ("exponential", [1, 4, 16])])
def test_it_is_the_weighted_mean(make_study, run_local, weighting, weights):
    settings = ["then.average.checkpoints=3", f"then.average.weighting={weighting}", "then.average.decay=0.25"]
    facts = make_study(*AVERAGE, *settings)
    run_local(facts)
    node = average(facts)
    trunk = facts.layout.stage(node.stage.parent.stage)
    found = checkpoints_by_tokens(trunk)
    parts = [load_file(found[r.tokens] / "model.safetensors") for r in (*node.stage.inputs.values(), node.stage.parent)]
    [path] = checkpoints_by_tokens(facts.layout.stage(node.id)).values()
    for name, tensor in load_file(path / "model.safetensors").items():
        mean = sum(w * part[name].double() for w, part in zip(weights, parts, strict=True)) / sum(weights)
        torch.testing.assert_close(tensor.double(), mean, atol=1e-7, rtol=1e-6)
    assert not pending_evaluations(facts)  # it was scored, as any checkpoint
    assert read_manifest(path)["flops"] == facts.plan.points[0].flops


def test_what_it_reads_is_kept_and_costs_no_second_training(make_study, run_local):
    plain = make_study("recipe=constant", *AVERAGE[1:3])
    facts = make_study(*AVERAGE)
    assert set(plain.plan.nodes) < set(facts.plan.nodes)
    trunk = facts.plan.nodes[average(facts).stage.parent.stage]
    assert len(trunk.stage.read_points) == 5
    assert trunk.stage.milestones == [trunk.stage.end_tokens]  # none of them is scored for it
    run_local(facts, evaluate=False)
    assert set(trunk.stage.read_points) <= set(checkpoints_by_tokens(facts.layout.stage(trunk.id)))


def test_it_needs_what_it_reads(make_study):
    facts = make_study(*AVERAGE)
    with pytest.raises(ValueError, match="has no checkpoint there"):
        train_stage(facts.layout, average(facts).id)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoints": 1}, "at least 2"),
        ({"span": 0.0}, r"\(0, 1\]"),
        ({"weighting": "median"}, "not one of uniform"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


def test_more_checkpoints_than_steps_are_refused(compose, overrides, experiments):
    points = compose([*overrides, *AVERAGE, "then.average.checkpoints=40"], experiments)
    with pytest.raises(ValueError, match="needs more than its 40 steps"):
        make_facts(points)
