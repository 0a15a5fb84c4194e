"""From a point to its stages: whole steps, milestones, mixtures, schedules."""

import itertools

import pytest

from workbench.config.schema import MixtureSegment
from workbench.study.chain import build_chain, is_annealed
from workbench.study.flops import training_flops_per_token


def chain_of(compose, *overrides):
    [(_, config)] = compose(list(overrides))
    return config, build_chain(config, "f" * 16)


def test_phases_join_and_are_whole_steps(compose):
    for recipe in ("wsd", "cosine", "three_stage"):
        config, chain = chain_of(compose, f"recipe={recipe}", "tokens=3000001")
        assert chain[0].start_tokens == 0
        for before, after in itertools.pairwise(chain):
            assert after.start_tokens == before.end_tokens in before.branch_points
        for stage in chain:
            assert (stage.end_tokens - stage.start_tokens) % stage.batch_tokens == 0
            assert stage.end_tokens in stage.milestones
        assert abs(chain[-1].end_tokens - config.tokens) <= chain[-1].batch_tokens


def test_three_stages_of_tinyllama(compose):
    _, (basic, continual, cooldown) = chain_of(compose, "recipe=three_stage", "tokens=4000000")
    assert cooldown.batch_sequences == 4 * basic.batch_sequences
    assert basic.schedule == continual.schedule == cooldown.schedule
    first, ramped = continual.stream.mixture
    assert first == MixtureSegment(0, {"prose": 7, "code": 3})
    assert ramped.start_sequence == basic.end_tokens // 256
    assert (ramped.weights, ramped.ramp_sequences) == ({"prose": 3, "code": 7}, 32)
    assert cooldown.stream.mixture == continual.stream.mixture


def test_log_milestones_halve_down_to_the_warm_up(compose):
    _, (trunk, _) = chain_of(compose, "tokens=4000000", "recipe.log_milestones=1")
    ratios = [b / a for a, b in zip(trunk.milestones, trunk.milestones[1:], strict=False)]
    assert len(ratios) >= 4
    assert ratios == pytest.approx([2] * len(ratios), rel=0.1)
    assert trunk.milestones[0] > trunk.schedule.warmup_tokens


def test_milestones_are_rounded_to_steps_of_their_phase(compose):
    _, (trunk, cooldown) = chain_of(compose, "tokens=1000000", "recipe.milestones=[100000,900000]")
    assert [t for t in trunk.milestones if t != trunk.end_tokens] == [98304]
    assert [t - cooldown.start_tokens for t in cooldown.milestones if t != cooldown.end_tokens] == [98304]


def test_only_the_end_of_a_decay_is_annealed(compose):
    _, (trunk, cooldown) = chain_of(compose, "tokens=1000000")
    assert not is_annealed(trunk, trunk.end_tokens)
    assert is_annealed(cooldown, cooldown.end_tokens)
    assert not is_annealed(cooldown, cooldown.end_tokens - cooldown.batch_tokens)


def test_a_phase_shorter_than_a_step_is_refused(compose):
    with pytest.raises(ValueError, match=r"shorter than one step of 8192"):
        chain_of(compose, "tokens=66000", "recipe.phases=[{name: a, share: 0.99}, {name: b, share: 0.01}]")


def test_a_budget_in_flops_buys_tokens(compose):
    for model in ("m0_03", "m1"):
        config, chain = chain_of(compose, f"model={model}", "tokens=null", "flops=4e12")
        paid = training_flops_per_token(config.model) * chain[-1].end_tokens
        assert paid == pytest.approx(4e12, abs=training_flops_per_token(config.model) * chain[-1].batch_tokens)


def test_flops_that_do_not_pay_for_the_warm_up_are_refused(compose):
    with pytest.raises(ValueError, match=r"flops=1e\+10 allows 3894 tokens of m0_1"):
        chain_of(compose, "tokens=null", "flops=1e10")


def test_distinct_tokens_are_divided_by_weight(compose):
    _, chain = chain_of(compose, "data.unique_tokens=128000")
    for stage in chain:
        assert {name: source.unique_tokens for name, source in stage.stream.sources.items()} == {
            "prose": 350 * 256,
            "code": 150 * 256,
        }


def test_distinct_tokens_need_one_mixture_and_a_weight_for_every_source(compose):
    with pytest.raises(ValueError, match=r"unique_tokens=128000 .* recipe phase 'continual'"):
        chain_of(compose, "data.unique_tokens=128000", "recipe=three_stage")
    with pytest.raises(ValueError, match=r"unique_tokens=128000 .* \['code'\]"):
        chain_of(compose, "data.unique_tokens=128000", "data.sources.code.weight=0")
    with pytest.raises(ValueError, match=r"unique_tokens=128000 .* \['code'\]"):
        chain_of(compose, "data.unique_tokens=128000", "+variant.mixture={prose: 1}")
    _, chain = chain_of(compose, "data.unique_tokens=128000", "variant=more_code")
    assert {source.unique_tokens for source in chain[0].stream.sources.values()} == {64000}


def test_distinct_tokens_that_leave_a_source_nothing_are_refused(compose):
    with pytest.raises(ValueError, match="unique_tokens=300 leaves a source"):
        chain_of(compose, "data.unique_tokens=300")
