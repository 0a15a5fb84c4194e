"""All tests in two processes at a time: those on a real Slurm, which mostly wait for jobs, beside most others.

When the first are done, the tests of whole studies and of notebooks follow in their place, so that both processes end at
about the same time.

python tests/side_by_side.py [OPTION ...]    (options of pytest, given to all)
"""

import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

TESTS = Path(__file__).parent
IN_TURN = (TESTS / "slurm", TESTS / "end_to_end", TESTS / "analysis" / "test_notebook.py")
NONE_COLLECTED = 5


def main(options: list[str]) -> int:
    """Run all; what the first ones printed follows when the others have ended. Give the gravest exit status."""
    pytest = [sys.executable, "-m", "pytest", *options]
    with tempfile.TemporaryFile() as log:
        lane = Lane([[*pytest, str(path)] for path in IN_TURN], log)
        lane.start()
        try:
            others = subprocess.call([*pytest, *(f"--ignore={path}" for path in IN_TURN), str(TESTS)])
            lane.join()
        finally:
            lane.stop()
        log.seek(0)
        sys.stdout.buffer.write(log.read())
    return gravest([others, *lane.statuses])


def gravest(statuses: list[int]) -> int:
    """Exit status of all: that of a process that was killed is below 0; one that found no tests is not a failure."""
    failed = [status for status in statuses if status not in (0, NONE_COLLECTED)]
    return max(map(abs, failed)) if failed else min(statuses)


class Lane(threading.Thread):
    """Commands one after another, whose output goes to a file."""

    def __init__(self, commands, log) -> None:
        super().__init__(daemon=True)
        self.commands, self.log, self.statuses = commands, log, []
        self._running, self._stopped = None, False
        self._lock = threading.Lock()

    def run(self) -> None:
        """Run them all, whatever becomes of one."""
        for command in self.commands:
            with self._lock:
                if self._stopped:
                    return
                # Ctrl-C reaches it through `stop` alone: a second would cut short what it puts away after the first.
                self._running = subprocess.Popen(
                    command,
                    stdout=self.log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_hear_interrupts,
                )
            self.statuses.append(self._running.wait())

    def stop(self) -> None:
        """End what still runs: pytest, interrupted, ends the cluster that it has started."""
        with self._lock:
            self._stopped = True
            if self._running is not None and self._running.poll() is None:
                self._running.send_signal(signal.SIGINT)
        self.join()


def _hear_interrupts() -> None:
    """Undo that a shell has its background jobs, and all that these start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
