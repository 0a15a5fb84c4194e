"""Milestones keep their weights alone once the training has moved past them, and what that means later."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from workbench.forecast.estimate import estimate
from workbench.forecast.plan_notes import plan_json, trained_again_notes
from workbench.forecast.study_facts import make_facts
from workbench.model.weights import load_model
from workbench.study.memory import state_bytes, weights_bytes
from workbench.study.stage_states import stage_states
from workbench.study.study_plan import settled_targets, tokens_to_train
from workbench.tracking import spool
from workbench.train import checkpoint as ckpt
from workbench.train.checkpoint import checkpoints_by_tokens, find_checkpoint
from workbench.train.export import export_checkpoint
from workbench.train.hooks import Hooks, StoppedError
from workbench.train.state import load_state
from workbench.train.targets import clear_superseded, missing_targets, whole_targets
from workbench.train.weights_only import OPTIMIZER_FILE
from workbench.train.whole_stage import train_stage

MILESTONES = "recipe.milestones=[2560,5120]"
"""Of a trunk to 8,192 tokens, where a cooldown to 10,240 begins."""


@pytest.fixture
def study(make_study):
    """The small study with two milestones, frozen: its facts, the trunk and the cooldown."""
    facts = make_study(MILESTONES)
    return facts, *facts.plan.nodes.values()


def train_all(facts, hooks=None):
    for identifier, node in facts.plan.nodes.items():
        train_stage(facts.layout, identifier, hooks, wanted=node.targets)


def kinds(facts, node):
    """Tokens of a stage's checkpoints: the whole ones, and those of weights alone."""
    present, weights_only = ckpt.list_tokens(facts.layout.stage(node.id))
    return present - weights_only, weights_only


def test_milestones_that_are_passed_keep_their_weights_alone(study):
    facts, trunk, cooldown = study
    train_all(facts)
    assert kinds(facts, trunk) == ({8192}, {2560, 5120})
    assert kinds(facts, cooldown) == (set(), {10240})
    for node in (trunk, cooldown):
        for path in facts.layout.stage(node.id).list_checkpoints():
            whole = (path / OPTIMIZER_FILE).exists()
            assert (OPTIMIZER_FILE in ckpt.verify(path)["files"]) == whole == (path.name == "step_00000032")


def test_weights_alone_are_exported_and_read_and_never_resumed_from(study, tmp_path):
    facts, trunk, _ = study
    train_all(facts)
    stage_dir = facts.layout.stage(trunk.id)
    milestone = find_checkpoint(stage_dir, 2560)
    assert find_checkpoint(stage_dir, 2560, resumable=True) is None
    export_checkpoint(milestone, tmp_path / "exported")
    assert torch.equal(load_model(tmp_path / "exported").norm.weight, load_model(milestone).norm.weight)
    assert f"Prepared data `{trunk.stage.data_fingerprint}`" in (tmp_path / "exported" / "README.md").read_text()
    with pytest.raises(ValueError, match=r"step_00000010 holds weights alone: training cannot resume from it"):
        load_state(milestone, trunk.stage, torch.device("cpu"))


def test_while_it_trains_the_last_two_are_kept_to_step_back_to(study):
    facts, trunk, _ = study
    seen = []
    hooks = Hooks(on_checkpoint=lambda path: seen.append(kinds(facts, trunk)))
    train_stage(facts.layout, trunk.id, hooks)
    assert seen == [({2560}, set()), ({2560, 5120}, set()), ({8192}, {2560, 5120})]


def test_a_stage_that_begins_from_nothing_keeps_its_end_whole(make_study):
    """All of it would have to be trained again for a stage that is one day to begin there."""
    facts = make_study("recipe=cosine", "recipe.warmup_tokens=512", "recipe.batch_sequences=8", MILESTONES)
    train_all(facts)
    [node] = facts.plan.nodes.values()
    assert kinds(facts, node) == ({10240}, {2560, 5120})


def test_a_branch_from_a_passed_milestone_is_planned_and_trained_again_bit_for_bit(study, make_study, outputs):
    """The plan says so; the trajectory, its rows and its scores stay, and the optimizer's state is the one of then."""
    facts, trunk, _ = study
    train_all(facts)
    stage_dir = facts.layout.stage(trunk.id)
    milestone = find_checkpoint(stage_dir, 5120)
    (milestone / "evals").mkdir()
    (milestone / "evals" / "scores.json").write_text("{}")
    rows = spool.read_rows(stage_dir.path)

    later = make_study(MILESTONES, "tokens=6400,10240")
    assert later.tokens_to_train()[trunk.id] == 5120
    [note] = trained_again_notes(later)
    assert note.startswith(
        f"stage {trunk.id} (m0_03 trunk): another stage begins at 5,120 tokens, where only the weights"
    )
    assert "trained again from 0 tokens" in note
    assert note in plan_json(later, estimate(later, measure=False))["notes"]
    assert [state.state for state in stage_states(later.plan, later.layout, later.existing)] != ["finished"] * 3
    assert {
        s.state for s in stage_states(later.plan, later.layout, later.existing, weights_only=later.weights_only)
    } == {
        "planned",
        "finished",
    }
    train_all(later)
    assert find_checkpoint(stage_dir, 5120, resumable=True) == milestone
    assert (milestone / "evals" / "scores.json").exists()
    assert spool.read_rows(stage_dir.path) == rows
    assert kinds(later, trunk) == ({5120, 8192}, {2560})
    assert make_facts([(p.name, p.config) for p in later.plan.points]).tokens_to_train() == dict.fromkeys(
        later.plan.nodes, 0
    )

    root = outputs.parent / "at_once"
    root.mkdir()
    (root / "data").symlink_to(outputs / "data")
    at_once = make_study(f"paths.outputs={root}", MILESTONES, "tokens=6400,10240")
    train_all(at_once)
    for identifier in later.plan.nodes:
        ours, theirs = (checkpoints_by_tokens(f.layout.stage(identifier)) for f in (later, at_once))
        assert ours.keys() == theirs.keys()
        for tokens, path in ours.items():
            files = ckpt.verify(path)["files"]
            assert files.keys() == ckpt.verify(theirs[tokens])["files"].keys()
            for name in ("model.safetensors", OPTIMIZER_FILE):
                if name in files:
                    assert (path / name).read_bytes() == (theirs[tokens] / name).read_bytes()


def test_it_is_trained_again_from_the_nearest_whole_checkpoint(make_study):
    train_all(make_study("tokens=3200,10240", MILESTONES))  # branches at 2,560, so that one is whole
    later = make_study("tokens=6400,10240", MILESTONES)
    trunk = next(iter(later.plan.nodes))
    assert later.tokens_to_train()[trunk] == 5120 - 2560
    assert "trained again from 2,560 tokens" in trained_again_notes(later)[0]
    steps = []
    train_stage(later.layout, trunk, Hooks(on_progress=lambda progress: steps.append(progress.step)))
    assert steps == list(range(11, 21))


def test_killed_while_it_is_trained_again_it_ends_the_same(study, make_study):
    facts, trunk, _ = study
    train_all(facts)
    later = make_study(MILESTONES, "tokens=6400,10240")
    seen = []
    with pytest.raises(StoppedError):
        train_stage(later.layout, trunk.id, Hooks(should_stop=lambda: seen.append(1) or len(seen) == 7))
    weights = load_file(find_checkpoint(facts.layout.stage(trunk.id), 5120) / "model.safetensors")
    train_all(later)
    again = find_checkpoint(later.layout.stage(trunk.id), 5120, resumable=True)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_file(again / "model.safetensors").items())


def test_a_trunks_earlier_end_stays_whole_when_a_longer_budget_passes_it(study, make_study):
    facts, trunk, _ = study
    train_all(facts)
    longer = make_study(MILESTONES, "tokens=20480")
    assert longer.tokens_to_train()[trunk.id] == 16384 - 8192
    train_all(longer)
    assert kinds(longer, trunk) == ({8192, 16384}, {2560, 5120})


def test_milestones_filled_in_later_leave_the_end_whole(make_study):
    facts = make_study()
    train_all(facts)
    trunk = next(iter(facts.plan.nodes.values()))
    filled = make_study(MILESTONES)
    train_all(filled)
    assert kinds(filled, trunk) == ({8192}, {2560, 5120})


def test_spares_go_when_all_is_reached(make_study):
    facts = make_study(MILESTONES, "checkpoint.interval_seconds=1e-9")
    train_all(facts)
    trunk, cooldown = facts.plan.nodes.values()
    assert kinds(facts, trunk) == ({8192}, {2560, 5120})
    assert kinds(facts, cooldown) == (set(), {10240})


def test_the_plan_counts_what_stays_on_the_disk(make_study, overrides, experiments, compose):
    points = compose([*overrides, MILESTONES, "tokens=6400,10240"], experiments)
    planned = estimate(make_facts(points), 1, measure=False)
    facts = make_study(MILESTONES, "tokens=6400,10240")
    train_all(facts)
    params = facts.plan.points[0].params
    found = [kinds(facts, node) for node in facts.plan.nodes.values()]
    assert planned.disk_bytes == sum(
        len(whole) * state_bytes(params) + len(bare) * weights_bytes(params) for whole, bare in found
    )
    assert planned.training_disk_bytes == 3 * state_bytes(params)
    done = estimate(make_facts(points), 1, measure=False)
    assert (done.disk_bytes, done.training_disk_bytes, done.flops) == (0, 0, 0)


def fake_checkpoint(stage_dir, tokens):
    """Directory of a whole checkpoint, as far as its manifest is concerned; the latest so far."""
    path = stage_dir.checkpoint(tokens // 256)
    path.mkdir(parents=True)
    (path / OPTIMIZER_FILE).write_text("moments")
    manifest = {"tokens": tokens, "files": {OPTIMIZER_FILE: {}, "model.safetensors": {}}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    ages = [p.stat().st_mtime_ns for p in stage_dir.checkpoints.glob("*/manifest.json")]
    later = max(ages) + 10**9
    os.utime(path / "manifest.json", ns=(later, later))


def test_a_goal_far_back_never_costs_the_furthest_state(study):
    """Early milestones are the last ones written then; what a longer budget, given up or not, goes on from stays."""
    facts, trunk, _ = study
    stage_dir = facts.layout.stage(trunk.id)
    stage = replace(trunk.stage, branch_points=[], milestones=[1024, 2048, 3072, 5120, 8192], end_tokens=16384)
    for tokens in (5120, 8192, 1024, 2048, 3072):
        fake_checkpoint(stage_dir, tokens)
    clear_superseded(stage_dir, stage, [1024, 2048, 3072, 4096])  # 4,096 is still to come
    assert kinds(facts, trunk) == ({2048, 3072, 8192}, {1024, 5120})
    clear_superseded(stage_dir, stage, [1024, 2048, 3072])
    assert kinds(facts, trunk) == ({8192}, {1024, 2048, 3072, 5120})


def test_what_is_missing_and_what_it_costs(study):
    facts, trunk, cooldown = study
    assert whole_targets(trunk.stage) == {8192}
    assert whole_targets(cooldown.stage) == set()
    assert whole_targets(replace(cooldown.stage, branch_points=[10240])) == {10240}
    branching = replace(trunk, stage=replace(trunk.stage, branch_points=[5120, 8192]))
    existing, bare = {2560, 5120, 8192}, {2560, 5120}
    assert settled_targets(trunk, existing, bare) == existing
    assert settled_targets(branching, existing, bare) == {2560, 8192}
    assert tokens_to_train(trunk, existing, bare) == 0
    assert tokens_to_train(branching, existing, bare) == 5120
    assert tokens_to_train(branching, existing, {5120}) == 2560
    assert tokens_to_train(branching, existing) == 0
    stage_dir = facts.layout.stage(trunk.id)
    for tokens in existing:
        fake_checkpoint(stage_dir, tokens)
    clear_superseded(stage_dir, trunk.stage, sorted(existing))
    assert missing_targets(stage_dir, trunk.stage) == []
    assert missing_targets(stage_dir, branching.stage) == [5120]
    shutil.rmtree(stage_dir.checkpoints)
    assert missing_targets(stage_dir, branching.stage) == [2560, 5120, 8192]
