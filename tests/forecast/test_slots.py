"""A slot per GPU that is visible, or per share of the cores; and what a stage of several processes may ask for."""

from dataclasses import replace

import pytest

from workbench.forecast import slots
from workbench.forecast.slots import (
    Slots,
    check_processes,
    count_slots,
    describe_slots,
    parse_visible,
    visible_gpus,
)

UUIDS = ("GPU-8932f937", "GPU-1b2c3d4e")
PARTS = ("MIG-1", "MIG-2", "MIG-3")


@pytest.fixture
def machine(monkeypatch):
    """A machine of so many GPUs and cores: call it."""

    def make(gpus, cores=8, visible=None):
        monkeypatch.setattr(slots, "count_gpus", lambda: gpus)
        monkeypatch.setattr(slots, "usable_cores", lambda: cores)
        if visible is None:
            monkeypatch.delenv(slots.VISIBLE, raising=False)
        else:
            monkeypatch.setenv(slots.VISIBLE, visible)

    return make


@pytest.fixture
def stage(make_study):
    return next(iter(make_study("tokens=2560").plan.nodes.values())).stage


def on(stage, device="auto", **resources):
    numerics = replace(stage.numerics, device=device)
    return replace(stage, numerics=numerics, resources=replace(stage.resources, **resources))


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("0,1", ("0", "1")),
        (" 2 , 0 ", ("2", "0")),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
        ("none", ()),
        ("1,1", ()),
        (",".join(UUIDS), UUIDS),
        (",".join(PARTS), PARTS),
    ],
)
def test_the_setting_is_read_as_cuda_reads_it(setting, found):
    assert parse_visible(setting) == found


@pytest.mark.parametrize(
    ("gpus", "visible", "found"),
    [
        (4, None, ("0", "1", "2", "3")),
        (2, "3,1", ("3", "1")),
        (2, "3,1,9", ("3", "1")),
        (0, "0,1", ()),
        (2, ",".join(UUIDS), UUIDS),
        (1, ",".join(PARTS), PARTS),
    ],
)
def test_gpus_are_named_as_their_workers_will_see_them(machine, gpus, visible, found):
    machine(gpus, visible=visible)
    assert visible_gpus() == found


def test_no_gpu_is_looked_for_where_none_may_be_seen(machine, monkeypatch):
    machine(4, visible="")
    monkeypatch.setattr(slots, "count_gpus", lambda: pytest.fail("counted"))
    assert visible_gpus() == ()


def test_one_slot_per_gpu(machine, stage):
    machine(4, cores=64, visible="4,5,6,7")
    found = count_slots([on(stage)], threads=1)
    assert (found.count, found.gpus) == (4, ("4", "5", "6", "7"))
    assert describe_slots(found) == "slots: 4 (one per GPU: 4, 5, 6, 7)"
    assert [found.environment([slot]) for slot in range(4)] == ["4", "5", "6", "7"]
    assert found.environment([1, 3]) == "5,7"


def test_on_the_cpu_the_cores_decide(machine, stage):
    machine(4, cores=8)
    found = count_slots([on(stage, "cpu")], threads=3)
    assert (found.count, found.gpus, found.environment([0])) == (2, (), None)
    assert describe_slots(found) == "slots: 2 (8 cores, numerics.threads=3)"
    machine(0, cores=1)
    assert count_slots([on(stage)], threads=3).count == 1


def test_as_many_workers_as_asked_for(machine, stage):
    machine(2)
    assert count_slots([on(stage)], threads=1, workers=1).gpus == ("0",)
    shared = count_slots([on(stage)], threads=1, workers=3)
    assert shared.gpus == ("0", "1", "0")
    assert describe_slots(shared) == "slots: 3 (hydra.launcher.workers=3 on GPUs 0, 1)"
    assert shared.room == 2
    assert describe_slots(count_slots([on(stage, "cpu")], 1, 5)) == "slots: 5 (hydra.launcher.workers=5)"


def test_processes_of_one_stage_have_a_gpu_each():
    shared = Slots(4, "", ("0", "1", "0", "1"))
    assert shared.choose(2, ()) == (0, 1)
    assert shared.choose(2, {0}) == (1, 2)
    assert shared.choose(2, {0, 2}) is None
    assert Slots(3, "").choose(2, {1}) == (0, 2)
    assert Slots(3, "").choose(2, {1, 2}) is None


@pytest.mark.parametrize(
    ("resources", "gpus", "says"),
    [
        ({"processes": 3}, 2, r"resources.processes=3 is more than .* is 2 \(one per GPU: 0, 1\)"),
        ({"processes": 4}, 0, r"resources.processes=4 is more than .* is 2 \(2 cores, numerics.threads=1\)"),
        ({"processes": 2, "nodes": 2}, 2, r"resources.nodes=2, but the local launcher trains on one machine"),
        ({"processes": 3}, 4, r"resources.processes=3 does not divide the batch of 8 sequences"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(machine, stage, resources, gpus, says):
    machine(gpus, cores=2)
    asking = on(stage, **resources)
    with pytest.raises(ValueError, match=says) as raised:
        check_processes([on(stage), asking], count_slots([asking], 1))
    assert "\n" not in str(raised.value)
    check_processes([on(stage, processes=2)], count_slots([asking], 1))


def test_parts_of_a_gpu_do_not_train_together(machine, stage):
    machine(1, visible=",".join(PARTS))
    found = count_slots([on(stage)], 1)
    assert found.count == 3
    check_processes([on(stage)], found)
    with pytest.raises(ValueError, match=r"parts of a GPU .* cannot train one stage together"):
        check_processes([on(stage, processes=2)], found)


def test_too_many_processes_are_refused_before_anything_is_prepared(machine, make_study, monkeypatch):
    from workbench.launch import before_start

    machine(0, cores=2)
    facts = make_study("tokens=2560", "resources.processes=4")
    monkeypatch.setattr(before_start, "_check_suites", lambda facts: pytest.fail("went on"))
    with pytest.raises(ValueError, match=r"resources.processes=4"):
        before_start.check_before_start(facts)
    study_without = make_study("tokens=2560", "resources.processes=4")
    with pytest.raises(ValueError, match=r"hydra.launcher.workers=1"):
        before_start.check_before_start(study_without, workers=1)
