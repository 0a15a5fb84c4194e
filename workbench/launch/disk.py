"""What a plan writes to the disk: checkpoints that stay, and those that come and go while stages train."""

from __future__ import annotations

from workbench.launch.planning import Facts
from workbench.study.kind_plan import checkpoint_bytes
from workbench.train.targets import whole_targets


def kept_bytes(facts: Facts) -> int:
    """Bytes of the checkpoints still to be written that stay: some whole, the others with their weights alone."""
    total, settled = 0, facts.settled()
    for identifier, node in facts.plan.nodes.items():
        light = checkpoint_bytes(node.stage, whole=False)
        new, whole = set(node.targets) - settled[identifier], whole_targets(node.stage)
        total += len(new & whole) * checkpoint_bytes(node.stage, whole=True) + len(new - whole) * light
        total -= len(new & facts.existing[identifier]) * light  # which are there already
    return total


def training_bytes(facts: Facts, workers: int) -> int:
    """Bytes, at most, of what the largest `workers` stages keep to resume from, and of the one that each writes."""
    each = [
        (node.stage.checkpoint.keep_last + 1) * checkpoint_bytes(node.stage, whole=True)
        for node in facts.plan.nodes.values()
        if facts.tokens_to_train()[node.id]
    ]
    return sum(sorted(each)[-workers:])
