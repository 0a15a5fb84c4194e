"""A PostgreSQL of one's own and an MLflow server before it, both on the loopback address.

    python tests/tracking/servers.py DIR

starts them under a new folder, prints the server's address and ends them on Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

USERS = ("postgres", "nobody")
"""PostgreSQL refuses root; root starts it as the first of these that exists."""


def free_port() -> int:
    """Name a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def missing_for_postgres() -> str | None:
    """Say what a PostgreSQL cannot be started for; None where it can."""
    if shutil.which("postgres") is None:
        return "there is no `postgres` on the path"
    if not (_programs() / "initdb").exists():
        return f"there is no initdb beside {_programs() / 'postgres'}"
    return None


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Start PostgreSQL in a new folder that its user can reach; give the address of its empty database."""
    import psycopg

    port, owner = free_port(), _owner()
    folder.mkdir()
    if owner:
        shutil.chown(folder, **owner)
    as_user = {**owner, "extra_groups": []} if owner else {}
    initialise = ["initdb", "-D", "data", "-A", "trust", "-U", "mlflow", "--no-sync", "--locale=C", "-E", "UTF8"]
    initialise[0] = str(_programs() / "initdb")
    subprocess.run(initialise, cwd=folder, check=True, stdout=subprocess.DEVNULL, **as_user)
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
    command = [str(_programs() / "postgres"), "-D", "data", *(f"--{key}={value}" for key, value in options.items())]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **as_user)
    try:
        for _ in range(100):
            with contextlib.suppress(psycopg.OperationalError):
                with psycopg.connect(f"postgresql://mlflow@127.0.0.1:{port}/postgres", autocommit=True) as admin:
                    admin.execute("create database mlflow")
                break
            time.sleep(0.1)
        else:
            raise AssertionError((folder / "log.txt").read_text())
        yield f"mlflow@127.0.0.1:{port}/mlflow"
    finally:
        # SIGINT is PostgreSQL's fast shutdown: it does not wait for those who are connected.
        process.send_signal(signal.SIGINT)
        process.wait()


class MlflowServer:
    """`mlflow server` on a port that it keeps over stops and starts."""

    def __init__(self, folder: Path, backend: str, workers: int = 1) -> None:
        self.uri = f"http://127.0.0.1:{free_port()}"
        self.artifacts = folder / "server-artifacts"
        self._log = folder / "server.log"
        self._options = ["--workers", str(workers), "--port", self.uri.rpartition(":")[2]]
        self._options += ["--backend-store-uri", backend, "--artifacts-destination", str(self.artifacts)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *self._options],
                env={**os.environ, **quiet},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
                return
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.25)
        raise AssertionError(self._log.read_text())

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it with all its workers."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, how)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def mlflow_server(folder: Path, backend: str, workers: int = 1) -> Iterator[MlflowServer]:
    """Start an MLflow server; its artifacts and its log lie in the folder."""
    server = MlflowServer(folder, backend, workers)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _programs() -> Path:
    found = shutil.which("postgres")
    assert found is not None
    return Path(found).resolve().parent


def _owner() -> dict[str, int]:
    if os.geteuid() != 0:
        return {}
    import pwd

    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = next(known[name] for name in USERS if name in known)
    return {"user": entry.pw_uid, "group": entry.pw_gid}


def main() -> None:
    """Start both and stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    folder.mkdir()
    # A shell starts what is in the background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with (
        postgres(folder / "postgres") as address,
        mlflow_server(folder, f"postgresql+psycopg://{address}") as server,
    ):
        sys.stdout.write(f"export MLFLOW_TRACKING_URI={server.uri}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
