"""What lies behind a stage, as its run says it; and that a teacher which the chain trains too keeps both's targets."""

from dataclasses import replace

import pytest

from workbench.config.kind_registry import find_kind
from workbench.study.chain import build_chain
from workbench.tracking.intended import _kinds


def plan_of(*stages):
    """Stages as `study.json` has them, each the parent of the next: kind, tokens where it begins, its origin's."""
    plan, parent = {}, None
    for number, (kind, start, origin) in enumerate(stages):
        values = {"kind": kind, "parent": parent and {"stage": parent, "tokens": start}, "origin": {"tokens": origin}}
        plan[str(number)] = {"stage": values}
        parent = str(number)
    return {"stages": plan}


@pytest.mark.parametrize(
    ("stages", "kinds"),
    [
        ([("pretrain", 0, 0), ("pretrain", 80, 0)], ["pretrain"]),
        ([("pretrain", 0, 0), ("pretrain", 80, 80)], ["pretrain", "pretrain"]),  # begun anew from weights
        ([("imported", 0, 0), ("pretrain", 80, 80), ("pretrain", 90, 80)], ["imported", "pretrain"]),
        (
            [("pretrain", 0, 0), ("rescale", 80, 0), ("extend", 80, 80), ("rescale", 90, 0)],
            ["pretrain", "rescale", "extend", "rescale"],
        ),
    ],
)
def test_kinds_keep_their_order_and_only_one_training_is_one(stages, kinds):
    assert _kinds(plan_of(*stages), str(len(stages) - 1)) == kinds


def test_records_from_before_there_were_kinds_are_of_pretraining():
    plan = plan_of(("pretrain", 0, 0), ("pretrain", 80, 0))
    for entry in plan["stages"].values():
        del entry["stage"]["kind"], entry["stage"]["origin"]
    assert _kinds(plan, "1") == ["pretrain"]


def test_a_teacher_that_the_chain_trains_too_reaches_both_their_ends(compose, overrides, experiments):
    more = ["recipe=constant", "recipe.warmup_tokens=512", "recipe.batch_sequences=8", "then=distill"]
    [(_, config)] = compose([*overrides, *more], experiments)
    settings = config.then["distill"]
    teacher = replace(settings.teacher, model=config.model, tokens=20480)
    student = replace(settings, student="chain", teacher=teacher)
    assert isinstance(student, find_kind("distill").spec.Settings)
    stages = build_chain(replace(config, then={"distill": student}), "f" * 16)
    [trunk] = [stage for stage in stages if stage.kind == "pretrain"]
    assert {10240, 20480} <= set(trunk.targets)
