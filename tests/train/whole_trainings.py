"""Whole trainings in this process, and what they leave, bit for bit."""

import torch
from safetensors.torch import load_file

from workbench.tracking import spool
from workbench.train import checkpoint as ckpt
from workbench.train.checkpoint import checkpoints_by_tokens
from workbench.train.hooks import Hooks
from workbench.train.state import OPTIMIZER_FILE
from workbench.train.whole_stage import train_stage


def train_all(facts, hooks=None):
    for identifier in facts.plan.nodes:
        train_stage(facts.layout, identifier, hooks)


def rows_of(facts):
    """Rows of every stage, wall-clock columns aside."""
    return {
        i: [
            {k: v for k, v in row.items() if k not in spool.WALL_CLOCK}
            for row in spool.read_rows(facts.layout.stage(i).path)
        ]
        for i in facts.plan.nodes
    }


def weights_of(facts):
    """Weights of every kept checkpoint, and the optimizer's state where it is kept."""
    return {
        (i, tokens, name): load_file(path / name)
        for i, node in facts.plan.nodes.items()
        for tokens, path in checkpoints_by_tokens(facts.layout.stage(i)).items()
        if tokens in node.targets
        for name in ("model.safetensors", OPTIMIZER_FILE)
        if name in ckpt.read_manifest(path)["files"]
    }


def assert_same(first, second):
    """Bit for bit the same weights, optimizer state, losses and metrics."""
    assert rows_of(first) == rows_of(second)
    ours, theirs = weights_of(first), weights_of(second)
    assert ours.keys() == theirs.keys()
    for key, tensors in ours.items():
        assert tensors.keys() == theirs[key].keys()
        assert all(torch.equal(tensors[name], theirs[key][name]) for name in tensors), key


def stop_after(steps):
    """Hooks that stop a stage after so many of its steps."""
    seen = []
    return Hooks(should_stop=lambda: seen.append(1) or len(seen) >= steps)
