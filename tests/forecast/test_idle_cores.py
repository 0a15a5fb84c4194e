"""Stages that a study waits for get more processes where cores are idle, a measurement says that it pays, and nothing is begun."""

import json
from dataclasses import replace

import pytest

from workbench.forecast import speeds
from workbench.forecast.estimate import estimate, stages_of_longest_chain
from workbench.forecast.idle_cores import (
    describe_processes,
    idle_cores_note,
    keep_processes,
    use_idle_cores,
    with_processes,
)
from workbench.forecast.slots import Slots, check_processes
from workbench.forecast.study_facts import make_facts
from workbench.launch.local.run_study import run_study_locally
from workbench.launch.snapshot import freeze_study
from workbench.train.checkpoint import verify


@pytest.fixture
def machine(monkeypatch):
    """A machine of so many cores, on which several processes of a stage reach so many times the speed of one: call it."""

    def make(cores, gains):
        measured = []

        def shared(stage):
            measured.append(stage.processes)
            return 100.0 * gains[stage.processes], 3.0

        monkeypatch.setattr("workbench.forecast.slots.usable_cores", lambda: cores)
        monkeypatch.setattr(
            "workbench.forecast.speeds.measure_together", lambda stages, _: ([100.0] * len(stages), 3.0)
        )
        monkeypatch.setattr("workbench.forecast.speeds.measure_shared", shared)
        return measured

    return make


def processes(facts):
    return [node.stage.resources.processes for node in facts.plan.nodes.values()]


@pytest.mark.parametrize(
    ("cores", "gains", "expected"),
    [
        (1, {}, 1),
        (2, {2: 1.7}, 2),
        (3, {2: 1.7}, 2),
        (4, {2: 1.7, 4: 2.8}, 4),
        (4, {2: 1.7, 4: 1.72}, 2),  # as good as nothing more
        (4, {2: 0.9}, 1),
    ],
)
def test_a_chain_alone_gets_what_a_measurement_says_pays(make_study, machine, cores, gains, expected):
    measured = machine(cores, gains)
    facts = make_study("tokens=102400")
    chosen = use_idle_cores(facts)
    assert set(processes(chosen)) == {expected}
    assert set(measured) == set(gains)
    assert processes(facts) == [None] * len(facts.plan.nodes)
    if expected > 1:
        assert estimate(chosen).seconds < 0.95 * estimate(facts).seconds
        assert describe_processes(facts, chosen)[0].endswith(f"cooldown by {expected}")
        assert use_idle_cores(facts, measure=False) == chosen  # as the launcher chooses, by what was measured before
    else:
        assert not describe_processes(facts, chosen)


def test_a_plan_chooses_before_there_are_outputs(overrides, experiments, machine, compose, tmp_path):
    measured = machine(2, {2: 1.7})
    elsewhere = [f"paths.outputs={tmp_path / 'new'}", "tokens=102400"]
    facts = make_facts(compose([*overrides, *elsewhere], experiments))
    assert set(processes(use_idle_cores(facts))) == {2}
    assert measured == [2]  # and not anew for each estimate


def test_cores_that_other_stages_fill_are_not_idle(make_study, machine):
    measured = machine(2, {})
    facts = make_study("tokens=102400", "seed=0,1,2,3")
    assert set(processes(use_idle_cores(facts))) == {1}
    assert not measured


def test_only_the_chain_that_the_study_waits_for_gets_more(make_study, machine):
    machine(4, {2: 1.8, 4: 1.82})
    facts = make_study("tokens=10240,409600")
    chosen = use_idle_cores(facts)
    ends = {node.stage.end_tokens: node.stage.processes for node in chosen.plan.nodes.values()}
    assert ends[10240] == 1
    assert ends[409600] == 2


def test_no_more_than_divide_the_batch(make_study, machine):
    measured = machine(4, {2: 1.9})
    facts = make_study("tokens=102400")
    batch = replace(facts, plan=replace(facts.plan, nodes={i: _six(n) for i, n in facts.plan.nodes.items()}))
    assert set(processes(use_idle_cores(batch))) == {2}
    assert set(measured) == {2}


def _six(node):
    return replace(node, stage=replace(node.stage, batch_sequences=6))


def test_what_is_too_large_to_measure_is_left_alone(make_study, machine, monkeypatch):
    machine(2, {2: 1.9})
    monkeypatch.setattr("workbench.forecast.speeds._LARGEST_STEP_FLOPS", 0.0)
    facts = make_study("tokens=102400")
    assert set(processes(use_idle_cores(facts))) == {1}


def test_gpus_are_not_shared_out(make_study, machine, monkeypatch):
    machine(2, {2: 1.9})
    monkeypatch.setattr("workbench.forecast.slots.count_gpus", lambda: 2)
    facts = make_study("tokens=102400")
    assert set(processes(use_idle_cores(facts))) == {None}


def test_what_a_config_says_stays(make_study, machine):
    measured = machine(4, {1: 1.0})
    facts = make_study("tokens=102400", "resources.processes=1")
    assert use_idle_cores(facts) == facts
    assert not measured
    two = make_study("tokens=102400", "resources.processes=2")
    assert not describe_processes(two, use_idle_cores(two))
    assert not idle_cores_note(facts, estimate(facts))


def test_a_stage_too_large_to_measure_holds_no_other_of_its_chain_back(make_study, machine, monkeypatch):
    machine(2, {2: 1.9})
    facts = make_study("tokens=102400")
    trunk, *others = facts.plan.nodes
    large = replace(facts.plan.nodes[trunk].stage, batch_sequences=8192)
    nodes = facts.plan.nodes | {trunk: replace(facts.plan.nodes[trunk], stage=large)}
    monkeypatch.setattr(speeds, "_LARGEST_STEP_FLOPS", speeds._step_flops(large) / 2)
    monkeypatch.setattr("workbench.forecast.idle_cores._LEAST_GAIN", 0.001)
    chosen = use_idle_cores(replace(facts, plan=replace(facts.plan, nodes=nodes))).plan.nodes
    assert chosen[trunk].stage.processes == 1
    assert [chosen[other].stage.processes for other in others] == [2]


def test_a_launch_that_died_while_it_froze_its_stages_is_gone_on_with(make_study, machine):
    machine(2, {2: 1.9})
    facts = make_study("tokens=102400")
    keep_processes(use_idle_cores(facts))
    known = facts.layout.root / "speeds.json"
    known.write_text(json.dumps(dict.fromkeys(json.loads(known.read_text()), 1.0)))
    assert set(processes(use_idle_cores(facts))) == {2}
    assert json.loads((facts.layout.study(facts.plan.study) / "processes.json").read_text()) == dict.fromkeys(
        facts.plan.nodes, 2
    )


def test_a_stage_keeps_what_it_was_frozen_with(make_study, machine):
    machine(2, {2: 1.9})
    facts = use_idle_cores(make_study("tokens=102400"))
    assert set(processes(facts)) == {2}
    freeze_study(facts)
    known = facts.layout.root / "speeds.json"
    known.write_text(json.dumps(dict.fromkeys(json.loads(known.read_text()), 1.0)))  # two are no faster any more
    again = with_processes(facts, dict.fromkeys(facts.plan.nodes))
    assert set(processes(use_idle_cores(again))) == {2}


def test_what_a_larger_machine_settled_is_open_until_it_is_begun(make_study, machine):
    machine(4, {2: 1.9, 4: 3.5})
    facts = use_idle_cores(make_study("tokens=102400"))
    assert set(processes(facts)) == {4}
    freeze_study(facts)
    machine(2, {2: 1.9})
    again = with_processes(facts, dict.fromkeys(facts.plan.nodes))
    assert set(processes(use_idle_cores(again))) == {2}
    trunk = next(iter(facts.plan.nodes))
    begun = use_idle_cores(replace(again, existing=again.existing | {trunk: {5120}})).plan.nodes
    assert begun[trunk].stage.processes == 4  # which is then refused, rather than other bits made in silence
    with pytest.raises(ValueError, match=r"resources\.processes=4 is more than there is room for here, which is 2"):
        check_processes([begun[trunk].stage], Slots(2, "2 cores"))


def test_a_stage_that_has_a_checkpoint_goes_on_as_it_began(make_study, machine):
    machine(2, {2: 1.9})
    facts = make_study("tokens=102400")
    trunk, *others = facts.plan.nodes
    begun = replace(facts, existing=facts.existing | {trunk: {5120}})
    chosen = use_idle_cores(begun).plan.nodes
    assert chosen[trunk].stage.processes == 1
    assert [chosen[other].stage.processes for other in others] == [2]


def test_a_plan_says_that_cores_are_idle(make_study, machine):
    machine(4, {})
    facts = make_study("tokens=102400")
    [line] = idle_cores_note(facts, estimate(facts))
    assert "takes 17.1 min" in line
    assert "hydra.launcher.use_idle_cores=true" in line
    filled = make_study("tokens=102400", "seed=0,1,2,3")
    assert not idle_cores_note(filled, estimate(filled))
    assert not idle_cores_note(facts, estimate(facts), workers=1)


def test_the_longest_chain_is_followed_back_to_its_beginning(make_study):
    facts = make_study("tokens=5120,10240")
    nodes = facts.plan.nodes
    seconds = {i: float(node.tokens) for i, node in nodes.items()}
    chain = stages_of_longest_chain(facts.plan, seconds)
    assert nodes[chain[0]].stage.end_tokens == 10240
    assert nodes[chain[-1]].stage.parent is None
    assert [nodes[after].stage.parent.stage for after in chain[:-1]] == chain[1:]


@pytest.mark.slow
def test_a_run_trains_as_was_chosen(overrides, experiments, machine, compose):
    machine(2, {2: 1.9})
    settings = [*overrides, "tokens=20480", "tracking.publish=false"]
    facts = make_facts(compose(settings, experiments))
    outcome = run_study_locally(facts, None, idle_cores=True)
    assert set(outcome.trained) == set(facts.plan.nodes)
    made = [path for i in facts.plan.nodes for path in facts.layout.stage(i).list_checkpoints()]
    assert made
    assert {verify(path)["numerics"]["world_size"] for path in made} == {2}
    assert not run_study_locally(make_facts(compose(settings, experiments)), None, idle_cores=True).trained
