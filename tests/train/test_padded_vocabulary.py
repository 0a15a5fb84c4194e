"""A stage whose output head is padded while it trains: the same model, the same files, and a record that says so."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from workbench.launch.snapshot import CodeVersion, freeze_stage
from workbench.study.identity import stage_id
from workbench.tracking import spool
from workbench.train import checkpoint as ckpt
from workbench.train.checkpoint import checkpoints_by_tokens
from workbench.train.hooks import Hooks, StoppedError
from workbench.train.whole_stage import train_stage

ODD = 517
"""Rows of a model with more than its tokenizer has ids, as checkpoints from elsewhere have them."""


@pytest.fixture
def trained(make_study, outputs):
    """Train 16 steps of a trunk under other outputs: call it and get the stage's directory."""

    def make(name, vocab_size, pad_vocabulary, stops=()):
        root = outputs.parent / name
        root.mkdir()
        (root / "data").symlink_to(outputs / "data")
        facts = make_study(f"paths.outputs={root}")
        stage = next(node.stage for node in facts.plan.nodes.values() if node.stage.parent is None)
        numerics = replace(stage.numerics, pad_vocabulary=pad_vocabulary)
        stage = replace(stage, model=replace(stage.model, vocab_size=vocab_size), numerics=numerics)
        stage_dir = facts.layout.stage(stage_id(stage))
        freeze_stage(stage_dir, stage, CodeVersion("commit", False, ""))
        for steps in stops:
            hooks = stop_after(steps)
            with pytest.raises(StoppedError):
                train_stage(facts.layout, stage_dir.id, hooks, wanted=[4096])
        return train_stage(facts.layout, stage_dir.id, wanted=[4096])

    return make


def stop_after(steps):
    seen = []
    return Hooks(should_stop=lambda: seen.append(1) or len(seen) >= steps)


def last(stage_dir):
    return checkpoints_by_tokens(stage_dir)[4096]


def test_it_is_the_same_stage_with_the_same_shapes(trained):
    plain, padded = (trained(str(each), ODD, each) for each in (False, True))
    assert plain.id == padded.id
    for name in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(last(each) / name) for each in (padded, plain))
        assert {key: tensor.shape for key, tensor in ours.items()} == {key: t.shape for key, t in theirs.items()}
        assert all(tensor.isfinite().all() for tensor in ours.values())
    ours, theirs = (spool.read_rows(each.path) for each in (padded, plain))
    assert len(ours) == 16
    for mine, its in zip(ours, theirs, strict=True):
        assert mine[spool.TRAIN_LOSS] == pytest.approx(its[spool.TRAIN_LOSS], abs=1e-5)
    manifests = [ckpt.verify(last(each)) for each in (padded, plain)]
    assert [manifest["numerics"]["pad_vocabulary"] for manifest in manifests] == [True, False]
    assert manifests[0]["params"] == manifests[1]["params"]
    assert manifests[0]["flops"] == manifests[1]["flops"]


def test_stopping_it_changes_no_bit(trained):
    untouched, stopped = trained("untouched", ODD, True), trained("stopped", ODD, True, stops=(3, 5))
    for name in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(last(each) / name) for each in (stopped, untouched))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_the_record_says_so_only_where_it_makes_a_difference(trained):
    default, even = trained("default", ODD, None), trained("even", 512, True)
    assert ckpt.read_manifest(last(default))["numerics"]["pad_vocabulary"] is False
    assert "pad_vocabulary" not in ckpt.read_manifest(last(even))["numerics"]
