"""Stages cut into jobs, and jobs grouped into arrays."""

import pytest

from workbench.forecast.job_graph import Part, evaluation_parts, make_batches, training_parts
from workbench.study.study_plan import plan_study

TOKENS = "tokens=10240,20480,40960"


@pytest.fixture
def plan(overrides, experiments, compose):
    def make(*more):
        points = compose([*overrides, *more], experiments)
        return plan_study(points, ["f" * 16] * len(points))

    return make


def nothing(plan):
    return {node: set() for node in plan.nodes}


def alike(plan):
    return lambda part: (part.kind, plan.nodes[part.stage].stage.model.name, plan.nodes[part.stage].stage.name)


def test_a_trunk_is_cut_at_its_branch_points(plan):
    study = plan(TOKENS)
    parts = training_parts(study, nothing(study), {})
    trunk, *cooldowns = study.nodes.values()
    segments = [part for part in parts if part.stage == trunk.id]
    assert [part.targets for part in segments] == [(8192,), (16384,), (32768,)]
    assert [part.after for part in segments] == [None, *segments[:-1]]
    for node, segment in zip(cooldowns, segments, strict=True):
        [part] = [part for part in parts if part.stage == node.id]
        assert part.after == segment
        assert part.targets == (node.stage.end_tokens,)


def test_milestones_between_branch_points_belong_to_the_segment_they_lie_in(plan):
    study = plan("tokens=20480,40960", "recipe.milestones=[4096,24576]")
    trunk = next(iter(study.nodes))
    segments = [part.targets for part in training_parts(study, nothing(study), {}) if part.stage == trunk]
    assert segments == [(4096, 16384), (24576, 32768)]


def test_what_exists_or_is_under_way_is_not_submitted(plan):
    study = plan(TOKENS)
    trunk, *cooldowns = study.nodes
    existing = {**nothing(study), trunk: {8192}}
    underway = {trunk: {16384: "7"}, cooldowns[0]: {10240: "8"}}
    parts = training_parts(study, existing, underway)
    assert [(part.stage, part.targets, part.after) for part in parts] == [
        (trunk, (32768,), "7"),
        (cooldowns[1], (20480,), "7"),
        (cooldowns[2], (40960,), parts[0]),
    ]


def test_alike_stages_are_one_array_paired_element_by_element(plan):
    study = plan(TOKENS, "seed=range(5)")
    parts = training_parts(study, nothing(study), {})
    assert len(parts) == 5 * (3 + 3)
    batches = make_batches(parts, alike(study), 1000)
    assert len(batches) == 6
    first, *rest = batches
    assert (first.after, first.indices) == (None, (0, 1, 2, 3, 4))
    for batch in rest:
        assert batch.paired
        parent = batches[batch.after]
        where = dict(zip(parent.parts, parent.indices, strict=True))
        assert [where[part.after] for part in batch.parts] == list(batch.indices)


def test_the_number_of_submissions_does_not_grow_with_alike_points(plan):
    sizes = []
    for seeds in (2, 20):
        study = plan(TOKENS, f"seed=range({seeds})")
        sizes.append(len(make_batches(training_parts(study, nothing(study), {}), alike(study), 1000)))
    assert sizes[0] == sizes[1]


def test_every_predecessor_comes_before_its_successors_and_long_arrays_are_cut(plan):
    study = plan(TOKENS, "seed=range(7)", "model=m0_03")
    training = training_parts(study, nothing(study), {})
    parts = [*training, *evaluation_parts(study, "d", training, {}, set(), set())]
    batches = make_batches(parts, alike(study), 3)
    place = {part: n for n, batch in enumerate(batches) for part in batch.parts}
    assert place.keys() == set(parts)
    assert all(place[part.after] < place[part] for part in parts if part.after is not None)
    assert all(max(batch.indices) < 3 for batch in batches)
    assert all(len(set(batch.indices)) == len(batch.indices) for batch in batches)


def test_two_children_of_one_kind_of_an_arrays_element_are_paired_by_two_arrays():
    parents = [Part("train", str(n), "a") for n in range(2)]
    children = [Part("train", f"{n}{k}", "b", (), parents[n]) for n in range(2) for k in range(2)]
    batches = make_batches([*parents, *children], lambda part: part.stage, 100)
    assert [batch.indices for batch in batches] == [(0, 1), (0, 1), (0, 1)]
    assert all(batch.paired for batch in batches[1:])


def test_children_of_a_single_job_are_one_array_that_waits_for_it():
    parent = Part("train", "p", "a")
    children = [Part("train", str(n), "b", (), parent) for n in range(4)]
    batches = make_batches([parent, *children], lambda part: part.stage, 100)
    assert [(b.indices, b.after, b.paired) for b in batches] == [((0,), None, False), ((0, 1, 2, 3), 0, False)]


def test_each_stage_is_evaluated_once_after_the_last_of_its_trainings(plan):
    study = plan(TOKENS)
    training = training_parts(study, nothing(study), {})
    parts = evaluation_parts(study, "d", training, {}, set(), set())
    assert [part.stage for part in parts] == list(study.nodes)
    last = {part.stage: part for part in training}
    assert all(part.after == last[part.stage] for part in parts)
    claimed = {(part.stage, part.name) for part in parts}
    assert evaluation_parts(study, "d", training, {}, set(), claimed) == []
    assert len(evaluation_parts(study, "e", training, {}, set(), claimed)) == len(parts)
    assert [part.after for part in evaluation_parts(study, "d", [], {}, {list(study.nodes)[1]}, set())] == [None]
