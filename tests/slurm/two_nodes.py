"""A real Slurm on this machine, for tests and for trying the launcher: two nodes, accounting, no systemd.

    python tests/slurm/two_nodes.py start DIR     start it, and print what to type; nothing happens where it is up
    python tests/slurm/two_nodes.py env DIR       print the line that points a shell at it
    python tests/slurm/two_nodes.py stop DIR      end it and everything that runs on it; what was queued goes on at the next start

Everything it writes goes under DIR, but for one line in /etc/hosts that `stop` takes away: a process group that
spans both nodes meets under their names. Logs stay in DIR/log. It needs root and the packages below; it opens
sockets on the loopback address alone, with keys and passwords made at the start. Several may run side by side.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PACKAGES = "slurm-wlm munge slurmdbd mariadb-server"
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacctmgr")
NODES = ("n1", "n2")
DAEMONS = ("slurmd-n1", "slurmd-n2", "slurmctld", "slurmdbd", "mariadbd", "munged")
HOSTS = Path("/etc/hosts")
START_SECONDS = 180.0
SOCKET_PATH_BYTES = 107
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL"}


def missing() -> str | None:
    """Say what this machine lacks; None where a cluster can be started."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: apt-get install {PACKAGES})"
    return None if os.geteuid() == 0 else "starting a Slurm needs root"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Cluster:
    """One cluster under one folder.

    Parameters
    ----------
    folder
        Configuration, state and logs; made where it is not there.
    cpus
        CPUs each node is said to have, whatever the machine has.
    """

    def __init__(self, folder: Path, cpus: int = 4) -> None:
        self.folder, self.cpus = folder.resolve(), cpus
        self.config = self.folder / "slurm.conf"
        self.env = {**os.environ, "SLURM_CONF": str(self.config), "PATH": _path()}
        # Each launch copies the code, and every job of it would compile that anew.
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)
        self._hosts_line = f"127.0.0.1 {' '.join(NODES)} # a Slurm in {self.folder}\n"

    # ---------------------------------------------------------------------------------- up and down

    def start(self) -> None:
        """Start every daemon and wait until both nodes answer; a cluster that is up stays as it is.

        Raises
        ------
        RuntimeError
            The machine lacks something, or a daemon does not answer; its log is named.
        """
        lack = missing()
        if lack:
            raise RuntimeError(lack)
        if len(f"{self.folder}/munge/socket.lock") > SOCKET_PATH_BYTES:
            raise RuntimeError(f"{self.folder} is too long a path for the sockets in it")
        if self.is_up():
            return
        self.stop()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End daemons and running processes, and take the line out of /etc/hosts; jobs wait for the next start."""
        for name in DAEMONS:
            self._kill(name, signal.SIGKILL if name.startswith("slurmd-") else signal.SIGTERM)
        self._kill_jobs(NODES)
        if self._hosts_line in HOSTS.read_text():
            self._name_nodes(False)

    def is_up(self) -> bool:
        """Tell whether every daemon runs and both nodes answer."""
        if not all(self._pid(name) for name in DAEMONS):
            return False
        # A trailing `*` says that the node does not answer.
        states = self.run(["sinfo", "-h", "-N", "-o", "%T"]).split()
        return not any("*" in state or state in ("down", "unknown") for state in states)

    def _start(self) -> None:
        for name in ("state", "spool/n1", "spool/n2", "log", "munge", "db", "pid"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        names = ("controller_port", "accounting_port", "database_port", "n1_port", "n2_port")
        values = dict(zip(names, _free_ports(len(names)), strict=True))
        values |= {"folder": self.folder, "host": socket.gethostname(), "cpus": self.cpus}
        values |= {"password": secrets.token_hex(16)}
        self._write("slurm.conf", values, 0o644)
        self._write("cgroup.conf", values, 0o644)
        self._write("slurmdbd.conf", values, 0o600)
        self._name_nodes(True)
        self._start_munge()
        self._start_database(values["database_port"], values["password"])
        self._start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self._until(self.is_up, "both nodes to answer")

    def _start_munge(self) -> None:
        place = self.folder / "munge"
        key = place / "key"
        key.unlink(missing_ok=True)
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        options = {"socket": place / "socket", "key-file": key, "log-file": self.folder / "log" / "munged"}
        options |= {"pid-file": self._pid_file("munged"), "seed-file": place / "seed"}
        # --force: a test's folder need not be as private as munge would have it.
        self._daemon(["munged", "--force", *_options(options)])

    def _start_database(self, port: int, password: str) -> None:
        place = self.folder / "db"
        if not (place / "mysql").exists():
            # Root comes in through the socket and as root alone, without a password.
            options = {"user": "root", "datadir": place, "auth-root-authentication-method": "socket"}
            options |= {"auth-root-socket-user": "root"}
            self._daemon(["mariadb-install-db", "--no-defaults", "--skip-test-db", *_options(options)])
        options = {"datadir": place, "socket": place / "socket", "pid-file": self._pid_file("mariadbd")}
        options |= {"port": port, "bind-address": "127.0.0.1", "user": "root", "innodb-flush-log-at-trx-commit": 0}
        server = ["mariadbd", "--no-defaults", *_options(options)]
        # It does not go into the background by itself.
        log = shlex.quote(str(self.folder / "log" / "mariadbd"))
        self._daemon(["sh", "-c", f'setsid "$@" > {log} 2>&1 &', "sh", *server])
        client = ["mariadb", "--no-defaults", f"--socket={place / 'socket'}", "--user=root", "-e"]
        self._until(lambda: self._answers([*client, "select 1"]), "MariaDB")
        user = "'slurm'@'127.0.0.1'"
        self.run(
            [*client, f"create database if not exists accounting; drop user if exists {user}; "
             f"create user {user} identified by '{password}'; grant all on accounting.* to {user};"]
        )  # fmt: skip

    def _start_accounting(self) -> None:
        self._daemon(["slurmdbd"])
        show = ["sacctmgr", "-n", "show"]
        self._until(lambda: self._answers([*show, "cluster"]), "slurmdbd")
        # Before the controller: one that finds its cluster unknown needs a restart.
        if "demo" not in self.run([*show, "cluster", "format=cluster"]):
            self.run(["sacctmgr", "-i", "add", "cluster", "demo"])

    # ---------------------------------------------------------------------------------- faults

    def start_controller(self) -> None:
        """Start slurmctld, or start it again, and wait until it answers."""
        self._daemon(["slurmctld"])
        self._until(lambda: self._answers(["scontrol", "ping"]), "slurmctld")

    def stop_controller(self) -> None:
        """End slurmctld as an administrator does: it saves its state first, and jobs go on."""
        self._kill("slurmctld", signal.SIGTERM)

    def kill_controller(self) -> None:
        """SIGKILL slurmctld: started again, it knows what it last saved.

        A job submitted just before is forgotten, and one that has begun since is ended and started anew under its id.
        """
        self._kill("slurmctld", signal.SIGKILL)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd, or start it again."""
        # The name marks the daemons of its steps, which take over its environment.
        self._daemon(["slurmd", "-N", node], SLURMD_NODENAME=node)

    def wait_until_down(self, node: str) -> float:
        """Wait until the controller has noticed that a node is gone; return the seconds it took."""
        began = time.monotonic()
        self._until(lambda: "down" in self.run(["sinfo", "-h", "-n", node, "-o", "%T"]), f"{node} to go down")
        return time.monotonic() - began

    def kill_node(self, node: str) -> None:
        """SIGKILL a node's slurmd and all that runs on the node, as a power cut would."""
        self.kill_slurmd(node)
        self._kill_jobs([node])

    def kill_slurmd(self, node: str) -> None:
        """SIGKILL a node's slurmd alone: its jobs go on, and Slurm, once it gives the node up, requeues them too."""
        self._kill(f"slurmd-{node}", signal.SIGKILL)

    @contextlib.contextmanager
    def drained(self) -> Iterator[None]:
        """Let no job begin for a while."""
        self.run(["scontrol", "update", "nodename=n[1-2]", "state=drain", "reason=test"])
        try:
            yield
        finally:
            self.run(["scontrol", "update", "nodename=n[1-2]", "state=resume"])

    # ---------------------------------------------------------------------------------- jobs

    def submit(self, script: str, *options: str) -> str:
        """Submit a shell script and return its job id; what it prints goes to DIR/log."""
        output = f"--output={self.folder}/log/job-%j"
        return self.run(["sbatch", "--parsable", output, *options], text=f"#!/bin/sh\n{script}\n").strip()

    def state(self, job: str) -> str:
        """State of a job as the controller has it."""
        return self.run(["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"]).strip()

    def wait(self, job: str, *states: str, seconds: float = START_SECONDS) -> str:
        """Wait until a job is in one of the states, by default in any that ends it; return that state."""
        self._until(lambda: self.state(job) in (states or ENDED), f"job {job}", seconds)
        return self.state(job)

    def clear(self) -> None:
        """End every job, whatever its state, and wait until none is left."""
        self.run(["scancel", f"--user={getpass.getuser()}"])
        self._until(lambda: not self.run(["squeue", "--noheader"]).strip(), "the queue to empty")

    def sacct(self, job: str, *fields: str) -> list[list[str]]:
        """What accounting has of a job: a row each time it was started, the last one last."""
        command = ["sacct", "-n", "-P", "-X", "--duplicates", "-j", job, "-o", ",".join(fields)]
        return [row.split("|") for row in self.run(command).splitlines()]

    # ---------------------------------------------------------------------------------- small tools

    def run(self, command: Sequence[str], text: str | None = None) -> str:
        """Run a command under this Slurm and return what it printed.

        Raises
        ------
        RuntimeError
            It failed.
        """
        options = {"env": self.env, "capture_output": True, "text": True, "timeout": 60, "check": False}
        try:
            done = subprocess.run(command, input=text or "", **options)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{' '.join(command)}: no answer in 60 s") from error
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def _answers(self, command: Sequence[str]) -> bool:
        self.run(command)
        return True

    def _daemon(self, command: Sequence[str], **environment: str) -> None:
        """Run a program that goes into the background by itself; it must not hold our pipes."""
        log = self.folder / "log" / f"start-{command[0]}"
        options = {"env": self.env | environment, "stdin": subprocess.DEVNULL, "timeout": 60, "check": False}
        with log.open("a") as file:
            done = subprocess.run(command, stdout=file, stderr=file, **options)
        if done.returncode:
            raise RuntimeError(f"{command[0]} did not start; see {log}")

    def _until(self, ready: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
        until, why = time.monotonic() + seconds, ""
        while True:
            try:
                if ready():
                    return
            except RuntimeError as error:
                why = f" ({error})"
            if time.monotonic() > until:
                raise RuntimeError(f"waited {seconds:.0f} s for {what} in vain{why}; see {self.folder / 'log'}")
            time.sleep(0.1)

    def _write(self, name: str, values: dict[str, object], mode: int) -> None:
        template = string.Template(Path(__file__).with_name(f"{name}.template").read_text())
        path = self.folder / name
        path.touch(mode)
        path.write_text(template.substitute(values))

    def _name_nodes(self, named: bool) -> None:
        """Put this cluster's line into /etc/hosts or take it out; other clusters' lines stay."""
        with HOSTS.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            lines = [line for line in file.read().splitlines(keepends=True) if line != self._hosts_line]
            file.seek(0)
            file.truncate()
            file.write("".join(lines) + self._hosts_line * named)

    def _pid_file(self, name: str) -> Path:
        return self.folder / "pid" / name

    def _pid(self, name: str) -> int | None:
        """Process of a daemon of this cluster; None where it does not run, whoever has its number now."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._pid_file(name).read_text())
            return pid if _is_running(pid) and self._is_ours(Path(f"/proc/{pid}")) else None
        return None

    def _is_ours(self, process: Path) -> bool:
        return f"SLURM_CONF={self.config}".encode() in (process / "environ").read_bytes().split(b"\0")

    def _kill(self, name: str, number: int) -> None:
        """Signal a daemon and wait until it is gone."""
        pid = self._pid(name)
        if pid is None:
            return
        os.kill(pid, number)
        self._until(lambda: not _is_running(pid), f"{name} to end")

    def _kill_jobs(self, nodes: Sequence[str]) -> None:
        """SIGKILL all processes of this cluster's jobs on these nodes."""
        found = [process for process in Path("/proc").glob("[0-9]*") if self._runs_on(process, nodes)]
        # The daemons of steps first: one that outlives its job reports an end that a power cut does not.
        for process in sorted(found, key=lambda process: _name(process) != "slurmstepd"):
            with contextlib.suppress(OSError):
                os.kill(int(process.name), signal.SIGKILL)
        self._until(lambda: not any(_is_running(int(process.name)) for process in found), "jobs' processes to end")

    def _runs_on(self, process: Path, nodes: Sequence[str]) -> bool:
        with contextlib.suppress(OSError):
            environment = (process / "environ").read_bytes().split(b"\0")
            return self._is_ours(process) and any(f"SLURMD_NODENAME={node}".encode() in environment for node in nodes)
        return False


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return ""


def _options(values: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    """Free ports below those that connections are given: a daemon started again must find its own free."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for port in random.sample(range(10000, 30000), 200):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise RuntimeError("no free ports")


def main() -> None:
    """Start, stop or point at a cluster."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("start", "env", "stop"))
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--cpus", type=int, default=4, help="CPUs each node is said to have (4)")
    arguments = parser.parse_args()
    cluster = Cluster(arguments.folder, arguments.cpus)
    try:
        if arguments.verb == "stop":
            return cluster.stop()
        if arguments.verb == "start":
            cluster.start()
    except RuntimeError as error:
        sys.exit(f"no Slurm: {error}")
    print(f"export SLURM_CONF={shlex.quote(str(cluster.config))}")
    if arguments.verb == "start":
        print(".venv/bin/workbench run experiments=token_scaling_tiny hydra/launcher=slurm cluster=slurm_demo")
    return None


if __name__ == "__main__":
    main()
