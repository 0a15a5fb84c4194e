"""All tests, in groups, several of them at a time: the next begins when one has ended.

python tests/side_by_side.py [OPTION ...]    (options of pytest, given to all)
"""

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

TESTS = Path(__file__).parent
GROUPS = (
    ("slurm",),
    ("train",),
    ("data",),
    ("study", "analysis"),
    ("kinds",),
    ("evaluate", "tracking", "model"),
    ("end_to_end",),
    ("analysis/test_notebook.py",),
)
"""Those that take longest first, so that all processes end at about the same time; whatever is in none is the last."""
AT_ONCE = 3
"""Of two cores: the tests on a real Slurm, which begin, often wait for its jobs. Two clusters at once would make these miss
their limits of time."""
PATIENCE = 5
"""Niceness of all but these, whose jobs have limits of time."""
NONE_COLLECTED = 5
Command = tuple[str, int, list[str]]
"""What is said of it, its niceness, and its words."""


def main(options: list[str]) -> int:
    """Run all; what each has printed follows when it has ended. Give the gravest exit status."""
    # The processes share the cores; stages and evaluations ask for their own threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, _interrupt)
    todo: queue.SimpleQueue[Command] = queue.SimpleQueue()
    for command in commands(options):
        todo.put(command)
    lanes = [Lane(todo, show) for _ in range(AT_ONCE)]
    try:
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.ended.wait()
    finally:
        for lane in lanes:
            lane.stop()
    return gravest([status for lane in lanes for status in lane.statuses])


def commands(options: Sequence[str]) -> list[Command]:
    """List what is to be run, in this order: each test is part of one of them."""
    pytest = [sys.executable, "-m", "pytest", *options]
    named = [str(TESTS / name) for group in GROUPS for name in group]
    groups = [
        (
            ", ".join(group),
            0 if group[0].startswith("slurm") else PATIENCE,
            [*pytest, *_without(group, named), *(str(TESTS / name) for name in group)],
        )
        for group in GROUPS
    ]
    return [*groups, ("all others", PATIENCE, [*pytest, *(f"--ignore={path}" for path in named), str(TESTS)])]


def _without(group: Sequence[str], named: Sequence[str]) -> list[str]:
    """Options that leave out what is another group's within this one's folders."""
    mine = {str(TESTS / name) for name in group}
    return [f"--ignore={path}" for path in named if path not in mine and any(path.startswith(f"{m}/") for m in mine)]


def show(name: str, printed: bytes, status: int) -> None:
    """Print what tests have printed, in one piece."""
    sys.stdout.flush()
    sys.stdout.buffer.write(f"\n{f' {name}: exit status {status} ':#^100}\n".encode() + printed)
    sys.stdout.buffer.flush()


def gravest(statuses: list[int]) -> int:
    """Exit status of all: that of a process that was killed is below 0; one that found no tests is not a failure."""
    failed = [status for status in statuses if status not in (0, NONE_COLLECTED)]
    return max(map(abs, failed)) if failed else min(statuses)


class Lane(threading.Thread):
    """Commands one after another, until none is left."""

    _shows = threading.Lock()

    def __init__(self, todo: "queue.SimpleQueue[Command]", show: Callable[[str, bytes, int], None]) -> None:
        super().__init__(daemon=True)
        self.todo, self.show, self.statuses = todo, show, []
        self._running, self._stopped = None, False
        self._lock = threading.Lock()
        self.ended = threading.Event()
        """Waited for in place of `join`, which takes a thread for ended when a signal interrupts it (Python 3.11)."""

    def run(self) -> None:
        """Run them, whatever becomes of one."""
        try:
            self._run_all()
        finally:
            self.ended.set()

    def _run_all(self) -> None:
        while True:
            with tempfile.TemporaryFile() as log:
                with self._lock:
                    try:
                        name, patience, command = self.todo.get_nowait()
                    except queue.Empty:
                        return
                    if self._stopped:
                        return
                    # Ctrl-C reaches it through `stop` alone: a second would cut short what it puts away after the first.
                    self._running = subprocess.Popen(
                        command,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        preexec_fn=partial(_begin, patience),
                    )
                self.statuses.append(self._running.wait())
                log.seek(0)
                with self._shows:
                    self.show(name, log.read(), self.statuses[-1])

    def stop(self) -> None:
        """End what still runs: pytest, interrupted, ends the cluster that it has started, and tells what has failed."""
        with self._lock:
            self._stopped = True
            if self._running is not None and self._running.poll() is None:
                self._running.send_signal(signal.SIGINT)
        if self.ident is not None:
            self.ended.wait()


def _begin(patience: int) -> None:
    """Undo that a shell has its background jobs, and all that these start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.nice(patience)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
