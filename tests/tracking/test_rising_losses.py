"""A loss that stays finite and rises is said; one that falls, wavers or changes its data is not."""

import json
import math
import random
import re
from dataclasses import replace

import pytest

from workbench.tracking.rising_losses import rising_losses

VOCABULARY = 512


def write(facts, losses):
    """Rows of the trunk."""
    trunk = next(iter(facts.plan.nodes.values()))
    directory = facts.layout.stage(trunk.id)
    directory.path.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"step": i, "train/loss": loss}) for i, loss in enumerate(losses, 1)]
    directory.metrics.write_text("\n".join(rows) + '\n{"step": ')  # a killed writer's line is no row
    return trunk


def falling(steps, noise=0.03):
    draw = random.Random(0)
    return [(6.2 * (1 + i / 20) ** -0.3) * draw.gauss(1, noise) for i in range(steps)]


@pytest.mark.parametrize("steps", [3, 25, 200, 5000])
def test_a_falling_loss_is_not_remarked_on(make_study, steps):
    facts = make_study("tokens=10240")
    write(facts, falling(steps))
    assert rising_losses(facts.plan, facts.layout) == []


@pytest.mark.parametrize(
    ("end", "words"), [(7.5, "7.5 nats a token, above guessing"), (5.0, r"ended at 5 nats a token, after 3\.")]
)
def test_a_loss_that_rises_names_its_stage_and_rate(make_study, end, words):
    facts = make_study("tokens=10240")
    trunk = write(facts, falling(200) + [end] * 40)
    [line] = rising_losses(facts.plan, facts.layout)
    assert trunk.id in line
    assert f"its peak is {trunk.stage.schedule.peak:.3g}" in line
    assert math.log(trunk.stage.model.vocab_size) > 5
    assert re.search(words, line)


def test_nothing_trained_is_nothing_to_say(make_study):
    facts = make_study("tokens=10240")
    assert rising_losses(facts.plan, facts.layout) == []


def test_a_later_stage_is_told_its_own_settings(make_study):
    """The recipe's rate and warm-up are not a fine-tuning's."""
    facts = make_study("tokens=10240")
    trunk = write(facts, falling(200) + [7.5] * 40)
    facts.plan.nodes[trunk.id] = replace(trunk, stage=replace(trunk.stage, kind="sft"))
    [line] = rising_losses(facts.plan, facts.layout)
    assert "a lower learning_rate of its `sft` under `then` (its peak is" in line
    assert "or a longer warmup_tokens there may help" in line
