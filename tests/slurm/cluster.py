"""A real Slurm on this machine, for tests and for trying the launcher: two nodes, accounting, no systemd.

    python tests/slurm/cluster.py start DIR     start it, and print what to type
    python tests/slurm/cluster.py env DIR       print the line that points a shell at it
    python tests/slurm/cluster.py stop DIR      end it and everything that runs on it

Everything it writes goes under DIR, but for one line in /etc/hosts that `stop` takes away: a process group that
spans both nodes meets under their names. It needs root and the packages below; it opens sockets on the loopback
address alone, with keys and passwords made at the start.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGES = "slurm-wlm munge slurmdbd mariadb-server"
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacctmgr")
NODES = ("n1", "n2")
HOSTS = Path("/etc/hosts")
HOSTS_LINE = "127.0.0.1 n1 n2 # a Slurm for tests\n"
START_SECONDS = 30.0


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

    # ---------------------------------------------------------------------------------- up and down

    def start(self) -> None:
        """Start every daemon and wait until both nodes are idle.

        Raises
        ------
        RuntimeError
            The machine lacks something, or a daemon does not answer; its log is named.
        """
        lack = missing()
        if lack:
            raise RuntimeError(lack)
        self.stop()
        for name in ("state", "spool/n1", "spool/n2", "log", "munge", "db", "pid"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if not all(_resolves(node) for node in NODES):
            HOSTS.write_text(HOSTS.read_text().rstrip("\n") + "\n" + HOSTS_LINE)
        self._start_munge()
        self._start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self._until(lambda: self.run(["sinfo", "-h", "-o", "%T"]).split() == ["idle"], "both nodes to be idle")

    def stop(self) -> None:
        """End jobs and daemons, and take the line out of /etc/hosts; nothing happens where nothing runs."""
        for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._kill(name, signal.SIGTERM if name in ("mariadbd", "slurmctld", "slurmdbd") else signal.SIGKILL)
        self._kill_steps()
        lines = HOSTS.read_text().splitlines(keepends=True)
        if HOSTS_LINE in lines:
            HOSTS.write_text("".join(line for line in lines if line != HOSTS_LINE))

    def _start_munge(self) -> None:
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        place = self.folder / "munge"
        options = {"socket": place / "socket", "key-file": key, "log-file": self.folder / "log" / "munged"}
        options |= {"pid-file": self._pid_file("munged"), "seed-file": place / "seed"}
        # --force: a test's folder need not be as private as munge would have it.
        self._daemon(["munged", "--force", *(f"--{name}={value}" for name, value in options.items())])

    def _start_accounting(self) -> None:
        database, port, accounting_port = self.folder / "db", _free_port(), _free_port()
        client = ["mariadb", f"--socket={database / 'socket'}", "--user=root"]
        password = secrets.token_hex(8)
        if not (database / "mysql").exists():
            self._daemon(
                ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={database}",
                 "--auth-root-authentication-method=normal", "--skip-test-db"]
            )  # fmt: skip
        options = {"datadir": database, "socket": database / "socket", "pid-file": self._pid_file("mariadbd")}
        options |= {"port": port, "bind-address": "127.0.0.1", "user": "root", "innodb-flush-log-at-trx-commit": 0}
        server = ["mariadbd", "--no-defaults", *(f"--{name}={value}" for name, value in options.items())]
        # It does not go into the background by itself.
        log = self.folder / "log" / "mariadbd"
        self._daemon(["sh", "-c", f'setsid "$@" > {shlex.quote(str(log))} 2>&1 &', "sh", *server])
        self._until(lambda: self._try([*client, "-e", "select 1"]), "MariaDB")
        host = "'slurm'@'127.0.0.1'"
        self.run(
            [*client, "-e", f"create database if not exists accounting; drop user if exists {host}; "
             f"create user {host} identified by '{password}'; grant all on accounting.* to {host};"]
        )  # fmt: skip
        self._write(
            "slurmdbd.conf",
            f"""
            AuthType=auth/munge
            AuthInfo=socket={self.folder}/munge/socket
            DbdHost=localhost
            DbdPort={accounting_port}
            SlurmUser=root
            StorageType=accounting_storage/mysql
            StorageHost=127.0.0.1
            StoragePort={port}
            StorageUser=slurm
            StoragePass={password}
            StorageLoc=accounting
            LogFile={self.folder}/log/slurmdbd
            PidFile={self._pid_file("slurmdbd")}
            """,
            mode=0o600,
        )
        self._write("slurm.conf", self._slurm_conf(accounting_port))
        self._daemon(["slurmdbd"])
        self._until(lambda: self._try(["sacctmgr", "-n", "show", "cluster"]), "slurmdbd")
        self._try(["sacctmgr", "-i", "add", "cluster", "demo"])
        user = ["sacctmgr", "-i", "add", "user", "root", "account=root", "cluster=demo"]
        self._try(user)

    def _slurm_conf(self, accounting_port: int) -> str:
        host, ports = socket.gethostname(), [_free_port() for _ in range(3)]
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} RealMemory=4000"
            for node, port in zip(NODES, ports[1:], strict=True)
        )
        # cred_expire is also how long a requeued job is held back: 120 s unless it is set, 5 s at the least.
        # config_overrides: a node has the CPUs it is said to have.
        return f"""
            ClusterName=demo
            SlurmctldHost={host}(127.0.0.1)
            SlurmctldPort={ports[0]}
            SlurmUser=root
            AuthType=auth/munge
            AuthInfo=socket={self.folder}/munge/socket,cred_expire=5
            StateSaveLocation={self.folder}/state
            SlurmdSpoolDir={self.folder}/spool/%n
            SlurmctldLogFile={self.folder}/log/slurmctld
            SlurmdLogFile={self.folder}/log/slurmd-%n
            SlurmctldPidFile={self._pid_file("slurmctld")}
            SlurmdPidFile={self.folder}/pid/slurmd-%n
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            MpiDefault=none
            SwitchType=switch/none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_Core
            SlurmdParameters=config_overrides
            ReturnToService=2
            SlurmdTimeout=15
            SlurmctldTimeout=30
            KillWait=10
            MinJobAge=60
            MaxArraySize=1001
            SchedulerType=sched/backfill
            SchedulerParameters=sched_interval=2,bf_interval=2
            JobAcctGatherType=jobacct_gather/none
            AccountingStorageType=accounting_storage/slurmdbd
            AccountingStorageHost=localhost
            AccountingStoragePort={accounting_port}
            AccountingStoragePass={self.folder}/munge/socket
            AccountingStoreFlags=job_comment
            {nodes}
            PartitionName=demo Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
            """

    # ---------------------------------------------------------------------------------- faults

    def start_controller(self) -> None:
        """Start slurmctld, or start it again, and wait until it answers."""
        self._daemon(["slurmctld"])
        self._until(lambda: self._try(["scontrol", "ping"]), "slurmctld")

    def kill_controller(self) -> None:
        """SIGKILL slurmctld."""
        self._kill("slurmctld", signal.SIGKILL)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd, or start it again."""
        self._daemon(["slurmd", "-N", node])

    def kill_node(self, node: str) -> None:
        """SIGKILL a node's slurmd and all that runs on the node, as a power cut would."""
        self._kill(f"slurmd-{node}", signal.SIGKILL)
        self._kill_steps(f"spool/{node}", node)

    @contextlib.contextmanager
    def drained(self) -> Iterator[None]:
        """Let no job begin for a while."""
        self.run(["scontrol", "update", "nodename=n[1-2]", "state=drain", "reason=test"])
        try:
            yield
        finally:
            self.run(["scontrol", "update", "nodename=n[1-2]", "state=resume"])

    # ---------------------------------------------------------------------------------- small tools

    def run(self, command: Sequence[str]) -> str:
        """Run a command under this Slurm and return what it printed.

        Raises
        ------
        RuntimeError
            It failed.
        """
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def _try(self, command: Sequence[str]) -> bool:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            self.run(command)
            return True
        return False

    def _daemon(self, command: Sequence[str]) -> None:
        """Run a program that goes into the background by itself; it must not hold our pipes."""
        log = self.folder / "log" / f"start-{command[0]}"
        with log.open("a") as file:
            done = subprocess.run(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=60, check=False
            )
        if done.returncode:
            raise RuntimeError(f"{command[0]} did not start; see {log}")

    def _until(self, ready: object, what: str) -> None:
        assert callable(ready)
        until = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(RuntimeError):
                if ready():
                    return
            if time.monotonic() > until:
                raise RuntimeError(f"waited {START_SECONDS:.0f} s for {what} in vain; see {self.folder / 'log'}")
            time.sleep(0.1)

    def _write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.folder / name
        path.write_text("\n".join(line.strip() for line in text.strip().splitlines()) + "\n")
        path.chmod(mode)

    def _pid_file(self, name: str) -> Path:
        return self.folder / "pid" / name

    def _kill(self, name: str, number: int) -> None:
        """Signal a daemon and wait until it is gone."""
        file = self._pid_file(name)
        try:
            pid = int(file.read_text())
            if name.split("-")[0] not in Path(f"/proc/{pid}/cmdline").read_text():
                return
            os.kill(pid, number)
        except (OSError, ValueError):
            return
        until = time.monotonic() + START_SECONDS
        while _is_running(pid) and time.monotonic() < until:
            time.sleep(0.05)
        file.unlink(missing_ok=True)

    def _kill_steps(self, *marks: str) -> None:
        """SIGKILL the steps of this cluster, or of one node of it, with all their processes."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (process / "environ").read_bytes()
                ours = f"SLURM_CONF={self.config}\0".encode() in environment + b"\0"
                job = b"SLURM_JOB_ID=" in environment or "slurmstepd" in (process / "cmdline").read_text()
                here = not marks or any(f"SLURMD_NODENAME={mark}\0".encode() in environment for mark in marks)
                if ours and job and here and int(process.name) != os.getpid():
                    os.kill(int(process.name), signal.SIGKILL)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _resolves(name: str) -> bool:
    try:
        socket.gethostbyname(name)
    except OSError:
        return False
    return True


def main() -> None:
    """Start, stop or point at a cluster."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("start", "stop", "env"):
        sys.exit(__doc__)
    cluster = Cluster(Path(sys.argv[2]))
    line = f"export SLURM_CONF={cluster.config}"
    try:
        if sys.argv[1] == "start":
            cluster.start()
            line += "\nworkbench run experiments=token_scaling_tiny hydra/launcher=slurm cluster=slurm_demo"
        elif sys.argv[1] == "stop":
            cluster.stop()
            return
    except RuntimeError as error:
        sys.exit(f"no Slurm: {error}")
    print(line)


if __name__ == "__main__":
    main()
