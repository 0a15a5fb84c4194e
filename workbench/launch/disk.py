"""What a plan writes to the disk: checkpoints that stay, and those that come and go while stages train."""

from __future__ import annotations

from workbench.launch.planning import Facts
from workbench.study.flops import count_parameters
from workbench.study.memory import state_bytes, weights_bytes
from workbench.train.targets import whole_targets


def kept_bytes(facts: Facts) -> int:
    """Bytes of the checkpoints still to be written that stay: some whole, the others with their weights alone."""
    total, settled = 0, facts.settled()
    for identifier, node in facts.plan.nodes.items():
        params = count_parameters(node.stage.model).total
        new, whole = set(node.targets) - settled[identifier], whole_targets(node.stage)
        total += len(new & whole) * state_bytes(params) + len(new - whole) * weights_bytes(params)
        total -= len(new & facts.existing[identifier]) * weights_bytes(params)  # which are there already
    return total


def training_bytes(facts: Facts, workers: int) -> int:
    """Bytes, at most, of what the largest `workers` stages keep to resume from, and of the one that each writes."""
    each = [
        (node.stage.checkpoint.keep_last + 1) * state_bytes(count_parameters(node.stage.model).total)
        for node in facts.plan.nodes.values()
        if facts.tokens_to_train()[node.id]
    ]
    return sum(sorted(each)[-workers:])
