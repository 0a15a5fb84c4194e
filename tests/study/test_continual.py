"""The continual study: one trunk a seed, three domain branches off its end, cooldown by batch."""

from fractions import Fraction

import pytest

from workbench.data.mixture import Mixture
from workbench.study.chain import is_annealed
from workbench.study.study_plan import plan_study

BRANCHES = {"continual_prose": None, "continual_code": "code", "continual_headers": "headers"}
SHARES = {"continual_prose": Fraction(1), "continual_code": Fraction(3, 4), "continual_headers": Fraction(1, 2)}
DOMAINS = ("prose", "code", "headers")


@pytest.fixture(scope="module")
def plan():
    from workbench.config.compose import composer

    with composer() as hydra:
        points = [(point.name, point.config) for point in hydra.points(["experiments=continual"])]
    return plan_study(points, ["f" * 16] * len(points))


def chain_stages(plan, point):
    return [plan.nodes[stage].stage for stage, _ in point.chain]


def test_branches_of_a_seed_share_their_trunk(plan):
    seeds = {point.config.seed_data for point in plan.points}
    assert {point.config.recipe.name for point in plan.points} == set(BRANCHES)
    assert len(plan.points) == len(BRANCHES) * len(seeds)
    assert len({point.chain[0][0] for point in plan.points}) == len(seeds)
    assert len(plan.nodes) == len(seeds) * (1 + 2 * len(BRANCHES))


def test_the_trunk_sees_prose_alone_and_each_branch_its_domain(plan):
    for point in plan.points:
        _, continual, cooldown = chain_stages(plan, point)
        context = point.config.model.context_tokens
        begin, end = continual.start_tokens // context, cooldown.end_tokens // context
        mixture = Mixture(cooldown.stream.mixture, DOMAINS)
        assert mixture.counts(begin) == [begin, 0, 0]
        drawn = dict(zip(DOMAINS, mixture.counts(end), strict=True))
        domain, share = BRANCHES[point.config.recipe.name], SHARES[point.config.recipe.name]
        assert {name for name, count in drawn.items() if count} == {"prose", domain} - {None}
        ramp = point.config.recipe.warmup_tokens // context
        expected = (1 - share) * (end - begin - Fraction(ramp, 2))
        assert abs(sum(drawn[name] for name in DOMAINS[1:]) - expected) < 2


def test_the_ramp_is_linear_and_as_long_as_the_warm_up(plan):
    [point] = [p for p in plan.points if p.config.recipe.name == "continual_headers" and p.config.seed_data == 0]
    _, continual, _ = chain_stages(plan, point)
    first, ramped = continual.stream.mixture
    assert (first.start_sequence, first.weights["prose"]) == (0, 1)
    assert ramped.start_sequence * 256 == continual.start_tokens
    assert ramped.ramp_sequences * 256 == point.config.recipe.warmup_tokens
    mixture, start, ramp = Mixture(continual.stream.mixture, DOMAINS), ramped.start_sequence, ramped.ramp_sequences
    halfway = mixture.counts(start + ramp // 2)[2]
    assert abs(halfway - ramp / 16) < 2
    assert abs(mixture.counts(start + ramp)[2] - ramp / 4) < 2


def test_cooldown_is_by_batch_under_one_cosine(plan):
    for point in plan.points:
        basic, continual, cooldown = chain_stages(plan, point)
        assert cooldown.batch_sequences == 4 * continual.batch_sequences == 4 * basic.batch_sequences
        assert basic.schedule == continual.schedule == cooldown.schedule
        assert cooldown.stream.mixture == continual.stream.mixture
        assert is_annealed(cooldown, cooldown.end_tokens)
        assert not is_annealed(continual, continual.end_tokens)


def test_the_branches_are_scored_along_their_way(plan):
    for point in plan.points:
        basic, continual, cooldown = chain_stages(plan, point)
        ramp_end = continual.start_tokens + point.config.recipe.warmup_tokens
        assert basic.end_tokens in basic.milestones
        assert len(continual.milestones) >= 5
        assert continual.start_tokens < continual.milestones[0] < ramp_end < continual.milestones[1]
        assert len(cooldown.milestones) >= 2
