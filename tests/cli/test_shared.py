"""A study that is named alone: which launcher its latest launch had."""

import argparse
import json
from pathlib import Path

import pytest

from workbench.cli.shared import asked_launcher, make_study_facts
from workbench.cli.study_verbs import run
from workbench.launch.planning import make_facts, record_evaluations, write_study
from workbench.study.study_record import read_record


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
    monkeypatch.setattr("workbench.launch.planning.data_fingerprint", lambda *_: "e" * 16)
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
