"""A study's trunk, trained by several processes, and what its checkpoints hold whoever wrote them."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from training_processes import start, train

from workbench.tracking import spool
from workbench.train import checkpoint as ckpt
from workbench.train.checkpoint import checkpoints_by_tokens
from workbench.train.weights_only import is_resumable

PARALLELS = ("replicate", "shard")


TWO_BY_TWO = ("numerics.parallel=hybrid", "numerics.shard_processes=2")
"""Of four processes, two share a copy of the model; of two, all do."""


STEPS = 52


TOKENS = ("tokens=16640", "recipe.milestones=[2560]")
"""A trunk of 52 steps with a milestone after 10, and a cooldown."""


class Trunk:
    """A study's first stage, and what stands in its directory."""

    def __init__(self, facts):
        self.facts, self.node = facts, next(iter(facts.plan.nodes.values()))
        self.root, self.dir = facts.layout.root, facts.layout.stage(self.node.id)

    def train(self, size, by_rank=None, **options):
        return start(size, train, by_rank, root=self.root, stage=self.node.id, **options)

    def finish(self, size, **options):
        ended = self.train(size, **options)
        assert [(each.exit_code, each.text) for each in ended] == [(0, "")] * size
        return self

    def rows(self):
        rows = spool.read_rows(self.dir.path)
        return [{k: v for k, v in row.items() if k not in spool.WALL_CLOCK} for row in rows]

    def column(self, name):
        return [row[name] for row in spool.read_rows(self.dir.path)]

    def last(self):
        return self.dir.list_checkpoints()[-1]

    def states(self):
        present = checkpoints_by_tokens(self.dir)
        return {tokens: state_of(present[tokens]) for tokens in self.node.targets}


def state_of(checkpoint):
    """Weights and optimizer state (if it is kept) of a checkpoint, whole, however many processes wrote it."""
    files = {path.name for path in checkpoint.iterdir()}
    weights = load_file(checkpoint / "model.safetensors")
    if "manifest.json" in files and not is_resumable(ckpt.read_manifest(checkpoint)):
        assert not {"optimizer", "optimizer.safetensors"} & files
        return weights
    assert ("optimizer" in files) != ("optimizer.safetensors" in files)
    if "optimizer.safetensors" in files:
        return weights | load_file(checkpoint / "optimizer.safetensors")
    return weights | whole_shards(checkpoint / "optimizer")


def whole_shards(folder):
    """Put the shards together from what their headers say, without the reader that training uses."""
    parts, sizes = [], {}
    for path in sorted(folder.iterdir()):
        with safe_open(path, "pt") as file:
            places = json.loads(file.metadata()["DCP_SHARDING_INFO"])
            for key in file.keys():  # noqa: SIM118
                part, offsets = file.get_tensor(key), places[key]["saved_offsets"]
                ends = [a + b for a, b in zip(part.shape, offsets, strict=True)]
                sizes[key] = [max(pair) for pair in zip(ends, sizes.get(key, ends), strict=True)]
                parts.append((key, part, tuple(slice(a, b) for a, b in zip(offsets, ends, strict=True))))
    tensors = {key: torch.full(size, torch.nan) for key, size in sizes.items()}
    for key, part, where in parts:
        tensors[key][where] = part
    return tensors


def assert_equal(ours, theirs):
    """Bit for bit."""
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


def assert_same(ours, theirs):
    """Bit for bit the same rows, weights and optimizer state."""
    assert ours.rows() == theirs.rows()
    for tokens, state in ours.states().items():
        assert_equal(state, theirs.states()[tokens])
