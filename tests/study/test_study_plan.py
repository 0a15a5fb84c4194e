"""The graph: shared trunks, what is left to do, what it costs."""

import pytest

from workbench.study.flops import training_flops_per_token
from workbench.study.study_plan import plan_study, remaining_flops, tokens_to_train

FINGERPRINT = "f" * 16


def plan_of(compose, *overrides):
    points = compose(list(overrides))
    return plan_study(points, [FINGERPRINT] * len(points))


def test_default_study_shares_its_trunks(compose):
    plan = plan_of(compose, "experiments=token_scaling")
    sizes = {point.config.model.name for point in plan.points}
    budgets = {point.tokens for point in plan.points}
    assert len(sizes) >= 4
    assert len(budgets) >= 4
    assert len(plan.points) == len(sizes) * len(budgets)
    trunks = [node for node in plan.nodes.values() if node.stage.parent is None]
    assert len(trunks) == len(sizes)
    assert len(plan.nodes) == len(trunks) + len(plan.points)
    assert plan.tokens_shared < 0.7 * plan.tokens_unshared
    assert {node.trajectory for node in plan.nodes.values()} == {trunk.id for trunk in trunks}


def test_parents_come_first(compose):
    seen = set()
    for node in plan_of(compose, "recipe=three_stage", "tokens=1000000,2000000").nodes.values():
        assert node.stage.parent is None or node.stage.parent.stage in seen
        seen.add(node.id)


def test_a_larger_budget_adds_the_difference(compose):
    small = plan_of(compose, "tokens=1000000,2000000")
    large = plan_of(compose, "tokens=1000000,2000000,4000000")
    done = {node.id: set(node.targets) for node in small.nodes.values()}
    left = {i: tokens_to_train(node, done.get(i, set())) for i, node in large.nodes.items()}
    trunk, cooldown = large.points[-1].chain
    assert sum(left.values()) == left[trunk[0]] + left[cooldown[0]]
    assert left[trunk[0]] == trunk[1] - small.points[-1].chain[0][1]
    assert left[cooldown[0]] == cooldown[1] - trunk[1]
    per_token = training_flops_per_token(large.points[0].config.model)
    assert remaining_flops(large, left) == sum(left.values()) * per_token


def test_a_missing_milestone_is_trained_from_the_one_before_it(compose):
    plan = plan_of(compose, "tokens=1000000", "recipe.milestones=[204800,409600]")
    trunk = next(node for node in plan.nodes.values() if node.stage.parent is None)
    assert trunk.targets == [204800, 409600, trunk.stage.end_tokens]
    assert tokens_to_train(trunk, set(trunk.targets) - {409600}) == 204800
    assert tokens_to_train(trunk, set(trunk.targets) - {204800}) == 204800
    assert tokens_to_train(trunk, set(trunk.targets)) == 0
    assert tokens_to_train(trunk, set()) == trunk.stage.end_tokens


def test_one_study_is_evaluated_in_one_way(compose):
    with pytest.raises(ValueError, match="evaluation differs"):
        plan_of(compose, "evaluation=embedded,none")


WIDER_HEADS = ["model=m0_03,m0_3", "model.base_width=32", "model.base_layers=2", "optimizer.learning_rate=0.01"]
"""Heads 16 and 32 wide."""


@pytest.mark.parametrize("parametrisation", ["mup", "complete_p"])
def test_heads_that_differ_in_width_need_a_base(compose, parametrisation):
    """Each would be its own base, and the scores of attention scaled as under `standard`."""
    overrides = [*WIDER_HEADS, f"model.parametrisation={parametrisation}"]
    with pytest.raises(ValueError, match=r"^[^\n]*model\.base_head_width[^\n]*$") as error:
        plan_of(compose, *overrides)
    assert "model=m0_03" in str(error.value)
    assert "model=m0_3" in str(error.value)
    assert "16" in str(error.value)
    assert "32" in str(error.value)
    assert len(plan_of(compose, *overrides, "model.base_head_width=16").points) == 2


def test_a_teachers_heads_need_the_base_where_no_other_point_has_such(compose):
    """The message names the teacher's own setting, which the point's `model.base_head_width` does not set."""
    teacher = "then.distill.teacher.model"
    overrides = ["then=distill", f"model@{teacher}=m0_3", "tokens=327680", "optimizer.learning_rate=0.01"]
    overrides += ["model=m0_03", "model.parametrisation=mup", "model.base_width=32"]
    overrides += [f"{teacher}.parametrisation=mup", f"{teacher}.base_width=32"]
    with pytest.raises(ValueError, match=r"^[^\n]*teacher\.model\.base_head_width[^\n]*$") as error:
        plan_of(compose, *overrides)
    assert "m0_03 of point" in str(error.value)
    assert "m0_3 of point" in str(error.value)
    bases = ["model.base_head_width=16", f"{teacher}.base_head_width=16"]
    with pytest.raises(ValueError, match=r"teacher\.model\.base_head_width"):
        plan_of(compose, *overrides, bases[0])
    assert len(plan_of(compose, *overrides, *bases).points) == 1


def test_heads_of_one_width_and_heads_under_standard_need_none(compose):
    assert len(plan_of(compose, *WIDER_HEADS).points) == 2
    equal = [
        "model=w32,w64",
        "model.parametrisation=standard,mup",
        "model.base_width=32",
        "optimizer.learning_rate=0.01",
    ]
    assert len(plan_of(compose, *equal).points) == 4
