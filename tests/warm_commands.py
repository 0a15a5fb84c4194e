"""Commands of `workbench`, each in a process of its own that begins with everything imported.

On a slow machine, importing takes longer than most of what tests have commands do. `test_study.py`'s first run and the rerun
that is timed, what is interrupted or loses its first process there, and whatever looks at imports start a fresh Python.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path

from workbench.study.warm_processes import IMPORTED, warm_context

IMPORTED_BY_COMMANDS = (
    "workbench.cli",
    "workbench.cli.show",
    "workbench.launch.local.run_study",
    "hydra_plugins.workbench_launcher.launcher",
    "hydra.main",
    "analysis.report",
    "scipy.stats",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.backends.backend_pdf",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
)


def _prepare_server() -> None:
    """Have the server, if it is not there yet, import these beside what the workbench's own imports."""
    forkserver.set_forkserver_preload([*IMPORTED[:-1], *IMPORTED_BY_COMMANDS, IMPORTED[-1]])
    if sys.platform == "linux":
        forkserver.ensure_running()


class Command:
    """A running command, with what `subprocess.Popen` has of it; it is the first of a process group of its own."""

    def __init__(
        self,
        arguments: Sequence[object],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        merge: bool = False,
    ) -> None:
        """Start it; `merge` sends what it writes to stderr the same way as what it writes to stdout."""
        _prepare_server()
        context = warm_context()
        self.args = [str(argument) for argument in arguments]
        ours, theirs = zip(*(context.Pipe(duplex=False) for _ in range(1 if merge else 2)), strict=True)
        environment = dict(os.environ if env is None else env)
        self._process = context.Process(
            target=_run, args=(self.args, environment, str(cwd or Path.cwd()), theirs[0], theirs[-1])
        )
        self._process.start()
        for connection in theirs:
            connection.close()
        self._connections: list[Connection] = list(ours)
        self._written = [b"" for _ in ours]
        self.pid = self._process.pid
        while self.poll() is None and not self._has_group():
            time.sleep(0.001)

    def _has_group(self) -> bool:
        try:
            return os.getpgid(self.pid) == self.pid
        except ProcessLookupError:
            return True

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end and give what it has written.

        Raises
        ------
        subprocess.TimeoutExpired
            It has not ended; it goes on.
        """
        until = None if timeout is None else time.monotonic() + timeout
        left = {connection: place for place, connection in enumerate(self._connections) if not connection.closed}
        while left:
            ready = wait(list(left), None if until is None else max(0.0, until - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout or 0, *self._written[:1])
            for connection in ready:
                chunk = os.read(connection.fileno(), 1 << 16)  # pyright: ignore[reportAttributeAccessIssue]
                self._written[left[connection]] += chunk  # pyright: ignore[reportArgumentType]
                if not chunk:
                    left.pop(connection)  # pyright: ignore[reportArgumentType]
                    connection.close()  # pyright: ignore[reportAttributeAccessIssue]
        self.wait(timeout)
        texts = [text.decode().replace("\r\n", "\n") for text in self._written]
        return texts[0], texts[1] if len(texts) > 1 else ""

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode


def run_command(arguments: Sequence[object], *, timeout: float = 300, **options) -> subprocess.CompletedProcess[str]:
    """Do as `subprocess.run` does with `capture_output` and `text`: kill it when its time is over."""
    command = Command(arguments, **options)
    try:
        out, err = command.communicate(timeout)
    except BaseException:
        os.killpg(command.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command.args, command.returncode or 0, out, err)


def _run(arguments: list[str], environment: dict[str, str], folder: str, out: Connection, err: Connection) -> None:
    """Do as `python -m workbench.cli` does."""
    os.setpgid(0, 0)
    for number, connection in ((1, out), (2, err)):
        os.dup2(connection.fileno(), number)
    out.close()
    err.close()
    # Its own processes are forked from the same server: Python would start another one.
    forkserver.ensure_running = forkserver._forkserver.ensure_running = lambda: None
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # A fresh Python would take these from the environment as it starts.
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [folder, *filter(None, given), *(path for path in sys.path if _is_installed(path))]
    sys.argv[:] = ["workbench.cli", *arguments]
    runpy.run_module("workbench.cli", run_name="__main__", alter_sys=True)


def _is_installed(path: str) -> bool:
    return path.startswith((sys.base_prefix, sys.prefix)) and not path.endswith("tests-only")
