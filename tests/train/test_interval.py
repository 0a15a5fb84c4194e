"""How often a checkpoint that nobody asked for is written."""

import pytest

from workbench.config.schema import CheckpointConfig
from workbench.train import interval, loop
from workbench.train.interval import FLOOR_SECONDS, CheckpointClock
from workbench.train.whole_stage import train_stage


@pytest.fixture
def clock_time(monkeypatch):
    """Time that passes when it is told to."""

    class Time:
        now = 1000.0

        def monotonic(self):
            return self.now

    time = Time()
    monkeypatch.setattr(interval, "time", time)
    return time


@pytest.mark.parametrize("write_seconds", [0.01, 1.0, 20.0, 300.0])
def test_writing_takes_less_than_a_hundredth_of_the_time(clock_time, write_seconds):
    clock = CheckpointClock(None, 1000)
    clock.saved(write_seconds)
    began, writing = clock_time.now, 0.0
    for _ in range(5):
        while not clock.is_due():
            clock_time.now += 0.5
        clock_time.now += write_seconds
        writing += write_seconds
        clock.saved(write_seconds)
    assert writing < 0.01 * (clock_time.now - began)


def test_a_small_model_loses_at_most_two_minutes():
    clock = CheckpointClock(None, state_bytes=10_000_000)
    assert clock.interval_seconds == FLOOR_SECONDS <= 120
    clock.saved(0.02)
    assert clock.interval_seconds == FLOOR_SECONDS


def test_a_large_first_write_waits_for_what_it_will_cost():
    assert CheckpointClock(None, state_bytes=13_000_000_000).interval_seconds == 1300


def test_an_interval_that_is_set_is_kept(clock_time):
    clock = CheckpointClock(7.0, 10**12)
    clock.saved(1000.0)
    assert clock.interval_seconds == 7.0
    clock_time.now += 7.1
    assert clock.is_due()
    clock.saved(1000.0)
    assert not clock.is_due()


def test_the_default_is_chosen_and_zero_is_refused():
    assert CheckpointConfig().interval_seconds is None
    with pytest.raises(ValueError, match=r"interval_seconds=0"):
        CheckpointConfig(interval_seconds=0)


def test_a_dear_write_puts_the_next_one_off(make_study, monkeypatch):
    """Steps and writes on a clock of their own: each step takes 30 s, and each write 3 s."""
    facts = make_study()
    trunk = next(iter(facts.plan.nodes))
    now = [0.0]
    monkeypatch.setattr(interval.time, "monotonic", lambda: now[0])
    train, write, saved = loop.train_step, loop.ckpt.write_checkpoint, []

    def step(*values, **settings):
        now[0] += 30.0
        return train(*values, **settings)

    def slow(stage_dir, number, *values, **settings):
        now[0] += 3.0
        saved.append(number)
        return write(stage_dir, number, *values, **settings)

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(loop.ckpt, "write_checkpoint", slow)
    train_stage(facts.layout, trunk)
    assert saved == [3, 14, 25, 32]  # over 60 s at first, over 300 s then; 32 is the end
