"""Checkpoints of a training that are damaged, find no room, or are no longer needed."""

import errno
import re
import shutil
import subprocess
import sys

import pytest
from whole_trainings import assert_same, stop_after, train_all

from workbench.train import checkpoint as ckpt
from workbench.train import loop
from workbench.train.checkpoint import checkpoints_by_tokens
from workbench.train.hooks import Hooks, StoppedError
from workbench.train.whole_stage import train_stage


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(fresh, harm):
    untouched = fresh("untouched", "recipe.milestones=[2560,5120]")
    train_all(untouched)
    facts = fresh("damaged", "recipe.milestones=[2560,5120]")
    trunk = next(iter(facts.plan.nodes))
    with pytest.raises(StoppedError):
        train_stage(facts.layout, trunk, stop_after(25))
    damage(facts.layout.stage(trunk).list_checkpoints()[-1], harm)
    said = []
    train_all(facts, Hooks(log=said.append))
    assert_same(untouched, facts)
    if harm != "manifest":
        assert any("step_00000025" in line and "model.safetensors" in line for line in said)
    assert (facts.layout.stage(trunk).checkpoints / "step_00000025.damaged").exists()


def damage(checkpoint, harm):
    path = checkpoint / ("manifest.json" if harm == "manifest" else "model.safetensors")
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif harm == "remove":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2])


def test_a_parents_damaged_checkpoint_stops_the_child_and_is_named(make_study):
    facts = make_study()
    trunk, cooldown = facts.plan.nodes
    train_stage(facts.layout, trunk)
    damage(facts.layout.stage(trunk).list_checkpoints()[-1], "flip")
    with pytest.raises(ckpt.DamagedCheckpointError, match=r"step_00000032: model\.safetensors"):
        train_stage(facts.layout, cooldown)
    train_all(facts)
    assert facts.layout.stage(cooldown).list_checkpoints()


def test_disk_full_leaves_the_last_good_checkpoint(make_study, monkeypatch):
    facts = make_study("recipe.milestones=[2560]")
    trunk = next(iter(facts.plan.nodes))
    original = loop.save_state

    def full(state, directory, *rest):
        written = original(state, directory, *rest)
        if state.tokens > 2560:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written

    monkeypatch.setattr(loop, "save_state", full)
    with pytest.raises(ckpt.DiskFullError, match=r"needs \d+\.\d MB and \d+\.\d MB are free"):
        train_stage(facts.layout, trunk)
    stage_dir = facts.layout.stage(trunk)
    [good] = stage_dir.list_checkpoints()
    assert ckpt.verify(good)["tokens"] == 2560
    assert sorted(path.name for path in stage_dir.checkpoints.iterdir()) == [good.name]
    monkeypatch.undo()
    train_stage(facts.layout, trunk)
    assert sorted(checkpoints_by_tokens(stage_dir)) == [2560, 8192]


def test_a_file_system_that_refuses_is_disk_full(make_study):
    """A real refusal in the middle of a file, by the limit on a file's size."""
    facts = make_study("recipe.milestones=[2560]")
    trunk = next(iter(facts.plan.nodes))
    train_stage(facts.layout, trunk, wanted=[2560])
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from workbench.study.layout import Layout; from workbench.train.whole_stage import train_stage\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "train_stage(Layout(Path(sys.argv[1])), sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(facts.layout.root), trunk]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert re.search(r"DiskFullError: no room for checkpoint .*it needs \d+\.\d MB", run.stderr), run.stderr
    [good] = facts.layout.stage(trunk).list_checkpoints()
    assert ckpt.verify(good)["tokens"] == 2560
    train_stage(facts.layout, trunk)
    assert sorted(checkpoints_by_tokens(facts.layout.stage(trunk))) == [2560, 8192]


def test_too_little_room_is_found_before_writing(make_study, monkeypatch):
    facts = make_study()
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ckpt.DiskFullError, match=r"0\.0 MB are free"):
        train_stage(facts.layout, next(iter(facts.plan.nodes)))


def test_spare_checkpoints_go_and_needed_ones_stay(make_study):
    facts = make_study("checkpoint.interval_seconds=1e-9", "checkpoint.keep_last=2", "recipe.milestones=[2560]")
    trunk = next(iter(facts.plan.nodes))
    with pytest.raises(StoppedError):
        train_stage(facts.layout, trunk, stop_after(20))
    assert sorted(checkpoints_by_tokens(facts.layout.stage(trunk))) == [2560, 19 * 256, 20 * 256]
    train_stage(facts.layout, trunk)
    assert {2560, 8192} <= set(checkpoints_by_tokens(facts.layout.stage(trunk)))


def test_a_later_study_never_loses_an_earlier_ones_milestones(make_study):
    train_all(make_study("recipe.milestones=[2560,5120]"))
    facts = make_study("tokens=40960", "checkpoint.interval_seconds=1e-9", "checkpoint.keep_last=1")
    train_all(facts)
    trunk = next(iter(facts.plan.nodes))
    assert {2560, 5120, 8192} <= set(checkpoints_by_tokens(facts.layout.stage(trunk)))
