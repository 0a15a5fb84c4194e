"""How a process died that could not say so itself."""

from __future__ import annotations

import signal
from pathlib import Path

from workbench.launch.local.worker import Problem
from workbench.study.causes import KILLED_FOR_MEMORY

_ROOT = Path("/")
_SERVER_LOST = 255
"""What Python gives for a forked process whose server cannot say how it ended."""


def memory_kills(root: Path = _ROOT) -> int | None:
    """Count the processes that the kernel has killed for lack of memory: in this control group, else on this machine.

    Parameters
    ----------
    root
        Where `proc` and `sys` are mounted.

    Returns
    -------
    int or None
        None where the system does not say.
    """
    for file in (*_group_files(root), root / "proc/vmstat"):
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None


def _group_files(root: Path) -> list[Path]:
    """Files of this process's control group that count kills: of version 2, and of version 1."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    files: list[Path] = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files.append(root / "sys/fs/cgroup" / path.lstrip("/") / "memory.events")
        if "memory" in controllers.split(","):
            files.append(root / "sys/fs/cgroup/memory" / path.lstrip("/") / "memory.oom_control")
    return files


def describe(exit_code: int | None, kills_before: int | None) -> Problem:
    """Say how a process ended from its exit code, and from the count of kills for memory when it was started."""
    if exit_code == _SERVER_LOST:
        return Problem("its process is lost: the server that it was forked from has ended")
    if exit_code is None or exit_code >= 0:
        return Problem(f"its process ended with exit code {exit_code}")
    if exit_code == -signal.SIGKILL:
        kills = memory_kills()
        if kills is not None and kills_before is not None and kills > kills_before:
            text = f"{KILLED_FOR_MEMORY}: the kernel killed its process for lack of memory"
            return Problem(text, KILLED_FOR_MEMORY)
        return Problem("its process was killed by SIGKILL, which the kernel does not report as lack of memory")
    return Problem(f"its process was ended by {_name(-exit_code)}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
