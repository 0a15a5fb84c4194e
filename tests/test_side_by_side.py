"""How all tests are run: no failure is lost, and what is interrupted can put away what it has started."""

import importlib.util
import sys
import time
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("side_by_side", Path(__file__).with_name("side_by_side.py"))
side_by_side = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(side_by_side)

WAITS = """
import time
try:
    print("begun", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("put away", flush=True)
    raise SystemExit(2)
"""


@pytest.mark.parametrize(
    ("statuses", "told"),
    [([0, 0, 0], 0), ([0, 5, 0], 0), ([5, 5, 5], 5), ([0, 1, 0], 1), ([0, -15, 0], 15), ([1, 4], 4)],
)
def test_any_failure_is_told(statuses, told):
    assert side_by_side.gravest(statuses) == told


def test_commands_follow_one_another_whatever_becomes_of_them(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        lane = side_by_side.Lane([[sys.executable, "-c", f"print({n}); raise SystemExit({n})"] for n in (3, 0)], log)
        lane.start()
        lane.join()
    assert lane.statuses == [3, 0]
    assert (tmp_path / "log").read_text() == "3\n0\n"


def test_stopped_it_interrupts_what_runs_and_begins_nothing_more(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        lane = side_by_side.Lane([[sys.executable, "-c", WAITS], [sys.executable, "-c", "print('next')"]], log)
        lane.start()
        until = time.monotonic() + 30
        while "begun" not in (tmp_path / "log").read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
        lane.stop()
    assert lane.statuses == [2]
    assert (tmp_path / "log").read_text() == "begun\nput away\n"
