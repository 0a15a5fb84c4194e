"""Speeds that jobs measured are the next plan's."""

import json
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest

from workbench.forecast.cluster_cost import cluster_work
from workbench.forecast.estimate import estimate, study_speeds
from workbench.forecast.slots import Slots
from workbench.forecast.speeds import ClusterSpeeds, MachineSpeeds

TWO = Slots(2, "")


def write_rows(facts, node, steps):
    rows = [
        {"step": n, "tokens": 256 * n, "time": 0.0, "train/tokens_per_second": 1000.0 + 10 * n}
        for n in range(1, steps + 1)
    ]
    facts.layout.stage(node.id).metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_trained_stage_tells_the_speed_of_its_kind(make_study):
    facts = make_study("tokens=10240", "cluster.name=here")
    trunk, cooldown = facts.plan.nodes.values()
    write_rows(facts, trunk, steps=5)
    assert cluster_work(facts).gpu_hours is None
    ClusterSpeeds(facts.layout, "here").remember(facts.layout, trunk.id, trunk.stage, processes=2)
    assert ClusterSpeeds(facts.layout, "here").get(cooldown.stage) == 1030 / 2
    assert ClusterSpeeds(facts.layout, "there").get(trunk.stage) is None
    work = cluster_work(facts)
    assert work.stages[cooldown.id].resources.seconds == 2048 / 515
    assert work.gpu_hours > 0
    other = make_study("tokens=10240", "model.num_layers=2")
    assert all(ClusterSpeeds(facts.layout, "here").get(node.stage) is None for node in other.plan.nodes.values())


def test_what_a_local_run_took_replaces_what_was_measured_before_it(make_study, monkeypatch):
    facts = make_study("tokens=10240")
    trunk, cooldown = facts.plan.nodes.values()
    monkeypatch.setattr("workbench.forecast.speeds.measure_together", lambda stages, _: ([100.0] * len(stages), 3.0))
    speeds = MachineSpeeds(facts.layout, TWO)
    speeds.measure([trunk.stage])
    write_rows(facts, trunk, steps=5)
    speeds.remember_training(facts.layout, trunk.id, trunk.stage)
    assert speeds.training(trunk.stage) == 100  # five steps say little
    write_rows(facts, trunk, steps=21)
    speeds.remember_training(facts.layout, trunk.id, trunk.stage)
    assert MachineSpeeds(facts.layout, TWO).training(cooldown.stage) == 1110
    assert MachineSpeeds(facts.layout, Slots(1, "")).training(trunk.stage) is None
    muon = replace(trunk.stage, optimizer=replace(trunk.stage.optimizer, kind="muon"))
    assert MachineSpeeds(facts.layout, TWO).training(muon) is None  # whose updates take longer


def test_a_measurement_that_fails_leaves_the_speed_unknown_and_says_so(make_study, monkeypatch, caplog):
    facts = make_study("tokens=10240")
    trunk = next(iter(facts.plan.nodes.values()))

    def fails(stages, environments):
        raise BrokenProcessPool("a process was killed")

    monkeypatch.setattr("workbench.forecast.speeds.measure_together", fails)
    speeds = MachineSpeeds(facts.layout, TWO)
    speeds.measure([trunk.stage])
    assert speeds.training(trunk.stage) is None
    assert "training speed was not measured: BrokenProcessPool: a process was killed" in caplog.text


def test_a_speed_scaled_from_another_is_not_kept_as_measured(make_study, monkeypatch):
    facts = make_study("tokens=10240")
    small = next(iter(facts.plan.nodes.values())).stage
    large = replace(small, batch_sequences=10**9)
    monkeypatch.setattr("workbench.forecast.speeds.measure_together", lambda stages, _: ([100.0] * len(stages), 3.0))
    speeds = MachineSpeeds(facts.layout, TWO)
    speeds.measure([small, large])
    assert speeds.training(large) == 100
    assert MachineSpeeds(facts.layout, TWO).training(small) == 100
    assert MachineSpeeds(facts.layout, TWO).training(large) is None


def test_each_measuring_process_has_the_gpu_of_its_slot(make_study, monkeypatch):
    facts = make_study("tokens=10240")
    trunk = next(iter(facts.plan.nodes.values()))
    seen = []

    def measured(stages, environments):
        seen.extend(environments)
        return [100.0] * len(stages), 3.0

    monkeypatch.setattr("workbench.forecast.speeds.measure_together", measured)
    MachineSpeeds(facts.layout, Slots(2, "", ("4", "GPU-x"))).measure([trunk.stage])
    MachineSpeeds(facts.layout, Slots(3, "")).measure([trunk.stage])
    assert seen == ["4", "GPU-x", None, None, None]


def test_a_chain_is_measured_as_it_will_train_alone(make_study, monkeypatch):
    seen = []

    def measured(stages, environments):
        seen.append(len(environments))
        return [100.0] * len(stages), 3.0

    monkeypatch.setattr("workbench.forecast.speeds.measure_together", measured)
    chain, two_ends = make_study("tokens=10240"), make_study("tokens=5120,10240")
    for facts in (chain, two_ends):
        trunk = next(iter(facts.plan.nodes.values()))
        study_speeds(facts.layout, facts.plan, Slots(4, "")).measure([trunk.stage])
    assert seen == [1, 2]


def test_a_stage_of_two_processes_is_measured_as_they_train_it_together(make_study, monkeypatch):
    alone, together = [], []

    def measured(stages, environments):
        alone.append(len(environments))
        return [100.0] * len(stages), 3.0

    def measured_together(stage):
        together.append(stage.processes)
        return 170.0, 4.0

    monkeypatch.setattr("workbench.forecast.speeds.measure_together", measured)
    monkeypatch.setattr("workbench.forecast.speeds.measure_shared", measured_together)
    facts = make_study("tokens=10240", "resources.processes=2")
    stage = next(iter(facts.plan.nodes.values())).stage
    speeds = study_speeds(facts.layout, facts.plan, Slots(4, ""))
    speeds.measure([stage, replace(stage, resources=replace(stage.resources, processes=1))])
    assert (alone, together) == ([2], [2])
    assert speeds.training(stage) == 85
    assert speeds.start_seconds == 3  # of the others, where there are some
    # On GPUs, where a stage's processes talk otherwise, and where they share the model out.
    on_gpus = MachineSpeeds(facts.layout, Slots(2, "", ("0", "1")), 2)
    on_gpus.measure([replace(stage, batch_sequences=2 * stage.batch_sequences)])
    sharded = replace(stage, numerics=replace(stage.numerics, parallel="shard"))
    speeds.measure([sharded])
    assert (alone, together) == ([2, 2, 2], [2])


def test_one_measurement_that_fails_keeps_no_other_from_being_made(make_study, monkeypatch, caplog):
    def fails(*_):
        raise MemoryError("no room")

    monkeypatch.setattr("workbench.forecast.speeds.measure_together", fails)
    monkeypatch.setattr("workbench.forecast.speeds.measure_shared", lambda stage: (170.0, 4.0))
    stage = next(iter(make_study("tokens=10240", "resources.processes=2").plan.nodes.values())).stage
    alone = replace(stage, resources=replace(stage.resources, processes=1))
    speeds = MachineSpeeds(make_study("tokens=10240").layout, TWO)
    speeds.measure([alone, stage])
    assert (speeds.training(alone), speeds.training(stage)) == (None, 85)
    assert "MemoryError: no room" in caplog.text


def test_what_two_processes_took_together_is_the_speed_of_two(make_study):
    facts = make_study("tokens=10240", "resources.processes=2")
    trunk = next(iter(facts.plan.nodes.values()))
    alone = replace(trunk.stage, resources=replace(trunk.stage.resources, processes=None))
    write_rows(facts, trunk, steps=21)
    MachineSpeeds(facts.layout, TWO).remember_training(facts.layout, trunk.id, trunk.stage)
    assert MachineSpeeds(facts.layout, TWO).training(trunk.stage) == 1110 / 2
    assert MachineSpeeds(facts.layout, TWO).training(alone) is None  # which sums no gradients


def test_processes_that_train_a_stage_together_need_less_of_the_clock(make_study, monkeypatch):
    monkeypatch.setattr("workbench.forecast.speeds.measure_together", lambda stages, _: ([100.0] * len(stages), 0.0))
    monkeypatch.setattr("workbench.forecast.speeds.measure_shared", lambda stage: (100.0 * stage.processes, 0.0))
    monkeypatch.setattr("workbench.forecast.slots.usable_cores", lambda: 2)
    one, two = (estimate(make_study("tokens=10240", *more)) for more in ([], ["resources.processes=2"]))
    assert one.chain_seconds == 10240 / 100
    assert two.chain_seconds == one.chain_seconds / 2
    assert two.critical_seconds == pytest.approx(one.critical_seconds - one.chain_seconds / 2)
    assert sum(two.training_seconds.values()) == sum(one.training_seconds.values())  # of a slot, of which it has two
