"""A job whose checkpoints take longer than Slurm's signal leaves warns itself in time for all of them."""

import json
import time
from datetime import datetime

import pytest

from workbench.config.plain import to_dict
from workbench.launch.slurm.early_warning import EarlyWarning
from workbench.launch.slurm.on_node import FINISHED, STOPPED, Job
from workbench.train import checkpoint as ckpt

WRITE_SECONDS = 2.0


class Clock:
    """Time, the job's end as Slurm says it, and what was warned of."""

    def __init__(self, end):
        self.now, self.end, self.asked = 1000.0, end, 0

    def ask_end(self):
        self.asked += 1
        return self.end


@pytest.fixture
def warning(tmp_path, monkeypatch):
    """An `EarlyWarning` of a job that has until 10,000, and its clock."""

    def make(writes=2, end=10_000.0):
        clock = Clock(end)
        monkeypatch.setattr("workbench.launch.slurm.early_warning.time.time", lambda: clock.now)
        return EarlyWarning(120, writes, tmp_path / "writes-0.json", clock.ask_end), clock

    return make


def test_writes_that_fit_into_the_signals_lead_ask_nobody(warning):
    early, clock = warning()
    assert early.patience_seconds == 110
    early.written(36.0)  # 2 * 1.5 * 36 = 108, and 10 to go back into the queue
    clock.now = 9_999.0
    assert not early.is_due()
    assert (early.patience_seconds, clock.asked) == (110, 0)


@pytest.mark.parametrize(("writes", "needed"), [(1, 160.0), (2, 310.0)])
def test_the_lead_is_for_all_writes_of_a_stop_at_their_slowest(warning, writes, needed):
    early, clock = warning(writes)
    for seconds in (100.0, 40.0):
        early.written(seconds)
    assert early.patience_seconds == needed - 10
    clock.now = 10_000.0 - needed - 1
    assert not early.is_due()
    clock.now += 1
    assert early.is_due()


def test_a_limit_that_was_extended_meanwhile_counts(warning):
    early, clock = warning()
    early.written(100.0)
    clock.now, clock.end = 9_800.0, 20_000.0
    assert not early.is_due()
    assert clock.asked == 2
    clock.now = 19_700.0
    assert early.is_due()


def test_without_an_end_there_is_no_warning(warning):
    early, clock = warning(end=None)
    early.written(1e6)
    clock.now = 1e9
    assert not early.is_due()


def test_a_job_remembers_over_its_turns_in_the_queue(warning):
    early, _ = warning()
    early.written(100.0)
    again, clock = warning()
    assert again.patience_seconds == 300.0
    clock.now = 9_700.0
    assert again.is_due()


def test_a_warning_that_comes_late_gives_only_what_is_left(warning):
    early, clock = warning(writes=1)
    early.written(100.0)
    clock.now = 9_939.0  # a write or a long step was under way when it fell due, at 9,840
    assert early.is_due()
    assert early.left_seconds() == 51.0  # and ten seconds to go back into the queue
    clock.now = 9_999.0
    assert early.left_seconds() == 1.0


def test_a_slow_write_of_a_turn_before_does_not_count_once_this_one_has_written(warning):
    early, _ = warning()
    early.written(600.0)
    again, _ = warning()
    assert again.write_seconds == 600.0
    again.written(2.0)
    assert again.patience_seconds == 110
    assert warning()[0].write_seconds == 2.0


def test_half_of_a_turn_is_for_training_however_long_writes_take(warning):
    early, clock = warning(end=2_800.0)  # half an hour
    early.written(600.0)
    clock.now = 1_899.0
    assert not early.is_due()
    clock.now = 1_900.0
    assert early.is_due()


def test_an_end_that_was_known_stays_known_while_slurm_is_silent(warning):
    early, clock = warning()
    early.written(100.0)
    clock.now, clock.end = 9_700.0, None
    assert early.is_due()


def test_a_note_that_cannot_be_kept_ends_no_training(warning, monkeypatch):
    early, _ = warning()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workbench.launch.slurm.early_warning.write_atomically", fail)
    early.written(100.0)
    assert early.write_seconds == 100.0


@pytest.fixture
def job(make_study, tmp_path, monkeypatch):
    """A job whose writer is slow: call it with the seconds that Slurm leaves it."""

    def make(seconds_left, *settings):
        facts = make_study("tokens=102400", *settings)
        node = next(node for node in facts.plan.nodes.values() if node.stage.parent is None)
        file, frozen = tmp_path / "batch.json", to_dict(node.stage)
        element = {"name": "1", "stage": node.id, "targets": node.targets, "milestones": [], "frozen": frozen}
        batch = {
            "token": "wb-1", "study": "small", "outputs": str(facts.layout.root), "kind": "train",
            "code": {"copy": "c"}, "cluster": {"name": "none", "signal_seconds": 1}, "evaluation": {}, "tracking": {},
            "threads": 1, "elements": {"0": element},
        }  # fmt: skip
        file.write_text(json.dumps(batch))
        scontrol = tmp_path / "bin" / "scontrol"
        scontrol.parent.mkdir()
        end = datetime.fromtimestamp(time.time() + seconds_left).isoformat(timespec="seconds")
        scontrol.write_text(f"#!/bin/sh\necho 'JobId=7 JobState=RUNNING EndTime={end} PreemptTime=None'\n")
        scontrol.chmod(0o755)
        monkeypatch.setenv("PATH", f"{scontrol.parent}:/usr/bin:/bin")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        made = Job(file)
        alone = {"rank": 0, "size": 1, "local_rank": 0, "address": "", "port": 0}
        monkeypatch.setattr(made, "_rendezvous", lambda: alone)
        left = []
        made.interrupt._leave = lambda: left.append(True)  # of the real one pytest would end
        return made, facts.layout.stage(node.id), left

    original = ckpt.write_checkpoint

    def slowly(*values, **settings):
        time.sleep(WRITE_SECONDS)
        return original(*values, **settings)

    monkeypatch.setattr(ckpt, "write_checkpoint", slowly)
    return make


@pytest.mark.parametrize("way", ["inline", "background"])
def test_a_job_stops_in_time_for_its_writes_though_no_signal_has_come(job, way, monkeypatch):
    """Forty seconds are left, and the signal would leave one: after the first write it is known to be too few."""
    constants = {
        "RESERVE_SECONDS": 1.0,
        "WRITE_MARGIN": 20.0,
        "TRAINING_SHARE": 0.0,
    }  # however fast this machine trains
    for name, value in constants.items():
        monkeypatch.setattr(f"workbench.launch.slurm.early_warning.{name}", value)
    made, stage_dir, left = job(40, "checkpoint.interval_seconds=1e-9", f"checkpoint.writes={way}")
    assert made.train() == STOPPED
    made.interrupt.finish()
    assert made.interrupt.is_asked()
    assert made.is_to_return()
    assert left == []
    steps = sorted(ckpt.read_manifest(path)["step"] for path in stage_dir.list_checkpoints())
    assert steps[-1] > steps[0] >= 1
    assert "the limit is near for checkpoints that take " in stage_dir.log.read_text(encoding="utf-8")


def test_a_job_with_time_enough_trains_to_its_end(job):
    made, stage_dir, _ = job(3600, "tokens=5120", "checkpoint.writes=background")
    assert made.train() == FINISHED
    assert not made.interrupt.is_asked()
    assert stage_dir.list_checkpoints()
