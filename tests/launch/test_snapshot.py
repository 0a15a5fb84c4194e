"""Freezing: targets add up, provenance stays that of the training."""

import json

import pytest

from workbench.forecast.study_facts import make_facts
from workbench.launch.snapshot import CodeVersion, freeze_code, freeze_stage
from workbench.study.files import exclusive, is_held, read_stage
from workbench.study.layout import Layout
from workbench.study.stage_states import stage_states
from workbench.train.attempt_status import write_status
from workbench.train.checkpoint import checkpoints_by_tokens
from workbench.train.whole_stage import train_stage


def test_targets_of_every_launch_are_kept_but_only_this_ones_are_trained(make_study):
    """A budget asked for by mistake and given up is not trained by the next launch."""
    make_study("tokens=1024000")
    facts = make_study("tokens=10240")
    trunk, node = next(iter(facts.plan.nodes.items()))
    stage_dir = facts.layout.stage(trunk)
    assert read_stage(stage_dir).end_tokens == 819200
    train_stage(facts.layout, trunk, wanted=node.targets)
    assert sorted(checkpoints_by_tokens(stage_dir)) == [8192]


def test_code_version_is_that_of_the_training(make_study):
    facts = make_study()
    identifier, node = next(iter(facts.plan.nodes.items()))
    stage_dir = facts.layout.stage(identifier)
    freeze_stage(stage_dir, node.stage, CodeVersion("a" * 40, False, ""))
    train_stage(facts.layout, identifier)
    freeze_stage(stage_dir, node.stage, CodeVersion("b" * 40, True, "diff"))
    assert json.loads((stage_dir.code / "version.json").read_text()) == {
        "commit": "a" * 40,
        "dirty": False,
        "copy": "",
    }
    assert (stage_dir.code / "diff.patch").read_text() == ""
    longer = next(iter(make_study("tokens=20480").plan.nodes.values()))
    freeze_stage(stage_dir, longer.stage, CodeVersion("b" * 40, True, "diff"))
    assert json.loads((stage_dir.code / "version.json").read_text())["commit"] == "b" * 40


def test_an_edited_stage_is_refused(make_study):
    facts = make_study()
    stage_dir = facts.layout.stage(next(iter(facts.plan.nodes)))
    stage_dir.config.write_text(stage_dir.config.read_text().replace("batch_sequences: 8", "batch_sequences: 16"))
    with pytest.raises(ValueError, match="was changed or is old"):
        read_stage(stage_dir)


def test_a_stage_whose_process_is_gone_does_not_run(make_study):
    facts = make_study()
    stage_dir = facts.layout.stage(next(iter(facts.plan.nodes)))
    write_status(stage_dir, "running")
    with exclusive(stage_dir.lock):
        assert is_held(stage_dir.lock)
        assert stage_states(facts.plan, facts.layout, facts.existing)[0].state == "running"
    assert stage_states(facts.plan, facts.layout, facts.existing)[0].state == "killed"


def test_a_finished_stage_says_so_after_a_death_before_its_last_word(make_study):
    facts = make_study()
    identifier = next(iter(facts.plan.nodes))
    train_stage(facts.layout, identifier)
    write_status(facts.layout.stage(identifier), "running")
    facts = make_study()
    assert json.loads(facts.layout.stage(identifier).status.read_text())["state"] == "finished"


@pytest.fixture
def project(tmp_path):
    """A project's root with some code."""
    root = tmp_path / "project"
    (root / "workbench").mkdir(parents=True)
    (root / "workbench" / "__init__.py").write_text("one = 1\n")
    (root / "requirements.lock").write_text("a==1\n")
    return root


def test_the_code_is_copied_once_a_version_untracked_files_included(project, tmp_path):
    layout = Layout(tmp_path / "outputs")
    first = freeze_code(layout, project)
    assert freeze_code(layout, project).copy == first.copy
    (project / "workbench" / "new.py").write_text("two = 2\n")
    second = freeze_code(layout, project)
    assert second.copy != first.copy
    assert sorted(path.name for path in (tmp_path / "outputs" / "code").iterdir()) == sorted([first.copy, second.copy])
    assert not (layout.code_copy(first.copy) / "workbench" / "new.py").exists()
    assert (layout.code_copy(second.copy) / "workbench" / "new.py").read_text() == "two = 2\n"


def test_a_stage_with_a_live_job_keeps_what_the_job_was_submitted_with(make_study, overrides, experiments, compose):
    facts = make_study("tokens=10240")
    identifier = next(iter(facts.plan.nodes))
    stage_dir = facts.layout.stage(identifier)
    before = json.loads((stage_dir.code / "version.json").read_text())
    points = compose([*overrides, "tokens=20480", "checkpoint.interval_seconds=7"], experiments)
    later = make_facts(points).plan.nodes[identifier].stage
    freeze_stage(stage_dir, later, CodeVersion("c" * 40, True, "diff"), underway=True)
    stage = read_stage(stage_dir)
    assert stage.end_tokens == later.end_tokens == 16384
    assert stage.checkpoint.interval_seconds != 7
    assert json.loads((stage_dir.code / "version.json").read_text()) == before
