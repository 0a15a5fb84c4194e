"""A study that is named alone: which launcher its latest launch had."""

import argparse
import json
from pathlib import Path

import pytest

from workbench.cli.shared import asked_launcher, make_study_facts
from workbench.cli.study_verbs import run, status
from workbench.data import fingerprint
from workbench.forecast.study_facts import make_facts
from workbench.launch.snapshot import record_evaluations, write_study
from workbench.study.study_record import read_record, recorded_points


def named(study):
    return argparse.Namespace(overrides=[study], experiments=None)


@pytest.fixture
def facts(compose, outputs, base_overrides, experiments, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(outputs))
    return make_facts(compose([*base_overrides, f"paths.outputs={outputs}"], experiments))


def test_a_launch_records_its_launcher(facts):
    write_study(facts, "c0ffee", False, "workbench run experiments=mine", {"kind": "slurm"})
    assert asked_launcher(named("small")).submits
    write_study(facts, "c0ffee", False, "workbench run hydra/launcher=slurm", {"kind": "local", "workers": 3})
    assert asked_launcher(named("small")).kind == "local"
    assert asked_launcher(named("small")).workers == 3


def test_a_record_without_a_launcher_is_read_by_its_command(facts):
    for command, kind in (("workbench run hydra/launcher=slurm a=b", "slurm"), ("workbench run a=b", "local")):
        write_study(facts, "c0ffee", False, command)
        path = facts.layout.study_file("small")
        record = json.loads(path.read_text())
        del record["launcher"]
        path.write_text(json.dumps(record))
        assert asked_launcher(named("small")).kind == kind


def test_a_study_named_alone_is_of_the_data_it_was_trained_on(facts, monkeypatch):
    """Somebody else's Python holds other embedded texts, and a file may have changed: the stages stay the same."""
    write_study(facts, "c0ffee", False)
    monkeypatch.setattr("workbench.forecast.study_facts.data_fingerprint", lambda *_: "e" * 16)
    assert set(make_study_facts(named("small")).plan.nodes) == set(facts.plan.nodes)


def test_evaluation_ids_and_the_launch_stay_whoever_writes(facts):
    write_study(facts, "c0ffee", False, "workbench run", {"kind": "slurm"})
    record_evaluations(facts)
    ids = read_record(facts.layout, "small")["evaluation_ids"]
    write_study(facts, "c0ffee", False)
    record = read_record(facts.layout, "small")
    assert ids
    assert (record["evaluation_ids"], record["command"], record["launcher"]) == (
        ids,
        "workbench run",
        {"kind": "slurm"},
    )


def test_a_study_named_alone_is_run_by_the_command_of_its_latest_launch(facts, monkeypatch):
    seen = []
    monkeypatch.setattr("workbench.cli.study_verbs.compose_and_run", lambda parsed: seen.append(parsed) or 0)
    write_study(facts, "c0ffee", False, "workbench run --experiments '/a b' experiments=mine 'seed=range(3)'")
    assert run(named("small")) == 0
    assert seen[0].overrides == ["experiments=mine", "seed=range(3)"]
    assert seen[0].experiments == Path("/a b")
    write_study(facts, "c0ffee", False, "made by hand")
    with pytest.raises(ValueError, match="not recorded how study 'small' was launched"):
        run(named("small"))


def test_the_state_of_a_study_composes_and_hashes_nothing(facts, monkeypatch, capsys):
    write_study(facts, "c0ffee", False)
    monkeypatch.setattr("workbench.config.compose.composer", lambda *_: pytest.fail("composed"))
    monkeypatch.setattr("workbench.data.fingerprint.sha256", lambda *_: pytest.fail("hashed an input"))
    fingerprint._hashes.clear()
    parsed = argparse.Namespace(overrides=["small"], experiments=None, watch=False, json=True)
    assert status(parsed) == 0
    assert {state["stage"] for state in json.loads(capsys.readouterr().out)} == set(facts.plan.nodes)


def test_equal_parts_of_a_records_points_are_one_object(facts):
    write_study(facts, "c0ffee", False)
    record = read_record(facts.layout, "small")
    record["points"] += read_record(facts.layout, "small")["points"]
    record["points"][1]["config"]["data"]["heldout_percent"] = 7.0
    record["points"] += read_record(facts.layout, "small")["points"]
    first, other, last = (config for _, config in recorded_points(record))
    assert first == last == facts.plan.points[0].config
    assert first.data is last.data is not other.data
    assert (other.data.heldout_percent, other.model is first.model) == (7.0, True)
