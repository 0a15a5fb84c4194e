"""Batches drawn ahead are those drawn in order; failures arrive with the batch that they belong to."""

from __future__ import annotations

import threading
import time

import pytest

from workbench.data.read_ahead import ReadAhead, batches_ahead


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_every_batch_is_the_one_asked_for_jumps_included(batches):
    ahead = ReadAhead(lambda start, count: (start, count), 10, batches, stop=1000)
    for start, count in [
        (0, 4),
        (10, 4),
        (20, 4),
        (500, 4),
        (510, 4),
        (510, 4),
        (520, 3),
        (30, 3),
        (990, 3),
        (1000, 3),
    ]:
        assert ahead(start, count) == (start, count)
    ahead.close()
    assert ahead(7, 2) == (7, 2)


def test_as_many_are_drawn_ahead_as_allowed_in_one_thread_and_none_behind_the_end():
    drawn, threads = [], set()

    def draw(start, count):
        drawn.append(start)
        threads.add(threading.get_ident())
        return start

    ahead = ReadAhead(draw, 10, 2, stop=45)
    for asked, expected in (
        (0, [0, 10, 20]),
        (10, [0, 10, 20, 30]),
        (20, [0, 10, 20, 30, 40]),
        (30, [0, 10, 20, 30, 40]),
    ):
        assert ahead(asked, 5) == asked
        until = time.monotonic() + 5
        while len(drawn) < len(expected) and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.01)
        assert drawn == expected
    assert ahead(40, 5) == 40
    ahead.close()
    assert drawn == [0, 10, 20, 30, 40]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_failure_is_raised_where_its_batch_is_asked_for():
    def draw(start, count):
        if start == 20:
            raise ValueError("000004.bin cannot be read")
        return start

    ahead = ReadAhead(draw, 10, 2, stop=1000)
    assert [ahead(0, 5), ahead(10, 5)] == [0, 10]
    with pytest.raises(ValueError, match=r"000004.bin cannot be read"):
        ahead(20, 5)
    assert ahead(30, 5) == 30
    ahead.close()


def test_closing_waits_for_the_batch_in_hand_and_leaves_no_thread():
    ahead = ReadAhead(lambda start, count: time.sleep(0.02) or start, 10, 3, stop=1000)
    assert ahead(0, 5) == 0
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_a_cpu_draws_between_steps(monkeypatch):
    assert batches_ahead("cpu") == 0
    for cores, expected in ((1, 0), (8, 2)):
        monkeypatch.setattr("workbench.data.read_ahead.usable_cores", lambda cores=cores: cores)
        assert batches_ahead("cuda") == expected
