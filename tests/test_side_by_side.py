"""How all tests are run: none is left out, no failure is lost, and what is interrupted can put away what it has started."""

import importlib.util
import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("side_by_side.py")
_SPEC = importlib.util.spec_from_file_location("side_by_side", SCRIPT)
side_by_side = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(side_by_side)

WAITS = """
import time
try:
    print("begun", flush=True)
    open({begun!r}, "w").close()
    time.sleep(60)
except KeyboardInterrupt:
    print("put away", flush=True)
    raise SystemExit(2)
"""


@pytest.fixture
def lane():
    """Make a lane of programs; what it has shown is `(name, printed, status)` each."""

    def make(*programs):
        todo, shown = queue.SimpleQueue(), []
        for name, program in programs:
            todo.put((name, 0, [sys.executable, "-c", program]))
        made = side_by_side.Lane(todo, lambda *said: shown.append(said))
        made.start()
        return made, shown

    return make


@pytest.mark.parametrize(
    ("statuses", "told"),
    [([0, 0, 0], 0), ([0, 5, 0], 0), ([5, 5, 5], 5), ([0, 1, 0], 1), ([0, -15, 0], 15), ([1, 4], 4)],
)
def test_any_failure_is_told(statuses, told):
    assert side_by_side.gravest(statuses) == told


def test_every_test_file_is_run_once():
    found = []
    for _, _, command in side_by_side.commands([]):
        paths = [Path(word) for word in command[3:] if not word.startswith("--")]
        ignored = [Path(word.removeprefix("--ignore=")) for word in command if word.startswith("--ignore=")]
        assert all(path.exists() for path in [*paths, *ignored])
        files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("test_*.py"))]
        found += [file for file in files if not any(file.is_relative_to(path) for path in ignored)]
    assert sorted(found) == sorted(SCRIPT.parent.rglob("test_*.py"))


def test_commands_follow_one_another_whatever_becomes_of_them(lane):
    running, shown = lane(*((str(n), f"print({n}); raise SystemExit({n})") for n in (3, 0)))
    running.join()
    assert running.statuses == [3, 0]
    assert shown == [("3", b"3\n", 3), ("0", b"0\n", 0)]


def test_stopped_it_interrupts_what_runs_and_begins_nothing_more(lane, tmp_path):
    running, shown = lane(("first", WAITS.format(begun=str(tmp_path / "begun"))), ("next", "print('next')"))
    wait_for(tmp_path / "begun")
    running.stop()
    assert shown == [("first", b"begun\nput away\n", 2)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_prints_what_tests_have_said_so_far(tmp_path, number):
    begun = tmp_path / "begun"
    program = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('side_by_side', {str(SCRIPT)!r})\n"
        "script = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(script)\n"
        f"script.commands = lambda _: [('one', 0, [sys.executable, '-c', {WAITS.format(begun=str(begun))!r}])]\n"
        "script.main([])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: side_by_side._begin(0),
    )  # fmt: skip
    wait_for(begun)
    os.kill(process.pid, number)
    printed, errors = process.communicate(timeout=30)
    assert process.returncode != 0, errors
    assert "one: exit status 2" in printed
    assert printed.endswith("begun\nput away\n")


def wait_for(path):
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
