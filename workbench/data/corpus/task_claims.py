"""Who does which task: claims, files that are made by one process alone, and taken over where their owner is dead.

Any number of processes on any number of hosts may work in one folder. A claim names its owner and is touched every few
seconds. On its own host an owner whose process is gone is dead at once. Else it is taken for dead if the claim was not
touched for a while by the clock of whoever waits: clocks of hosts are never compared. The while is longer for a process of this
host that lives and is not stopped, since it may be busy. A process that was only asleep, or whose file server was, finds
that its claim is not its own any more and gives the task up (`Claims.check`); what both write is the same, and each writes in a
folder of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TOUCH_SECONDS = 5.0
"""Time between two touches of a claim."""
STALE_SECONDS = 60.0
"""A claim that was not touched for so long belongs to nobody; more than network file systems delay a touch (NFS
keeps attributes for 60 s at most, 3 s for a file that changes)."""
BUSY_SECONDS = 600.0
"""The same for a process of this host that lives and is not stopped: one call of a library may keep it from touching."""


class LostClaimError(Exception):
    """A claim was taken over while its owner slept."""


@dataclass(frozen=True)
class Owner:
    """Who made a claim."""

    place: str
    """Host, boot and process namespace: where its process id means something."""
    pid: int
    """Process id."""
    started: str
    """When the process started, by the kernel: process ids are used again."""
    token: str
    """Names the claim, and the folder that its task writes in."""

    def is_of_here(self) -> bool:
        """Whether this process can tell if the owner lives."""
        return self.place == _place()

    def is_gone(self) -> bool:
        """Whether the process is known to have ended; False where that cannot be told."""
        return self.is_of_here() and _started(self.pid) != self.started

    def is_stopped(self) -> bool:
        """Whether the process is known to be stopped (SIGSTOP, Ctrl-Z, a debugger), and not to have ended."""
        return self.is_of_here() and (_facts_of(self.pid) or "?")[0] in "Tt"

    def patience_seconds(self) -> float:
        """How long its claim may stay untouched."""
        return BUSY_SECONDS if self.is_of_here() and not self.is_stopped() else STALE_SECONDS

    @property
    def host(self) -> str:
        """Name of its host."""
        return self.place.partition(" ")[0]


def _place() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [boot.read_text(encoding="utf-8").strip(), os.readlink("/proc/self/ns/pid")]  # noqa: PTH115 (no path)
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if there is none, or it is dead and not yet collected."""
    facts = _facts_of(pid)
    if facts is None:
        return "" if not Path("/proc/self").exists() and _answers(pid) else None
    return None if facts[0] in "ZX" else facts[19]


def _facts_of(pid: int) -> list[str] | None:
    """State of a process and what the kernel says behind it; None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _answers(pid: int) -> bool:
    """Whether a process is there, on systems without `/proc`."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read(path: Path) -> Owner | None:
    """Read whose claim a file is; None where there is none.

    A claim is not brought to the disk at once, so the crash of a machine may leave an empty one, or a file of zeros.
    """
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return _UNKNOWN


_UNKNOWN = Owner("unknown", -1, "", "unknown")
"""Owner of a claim that cannot be read: of no host, so that only time tells whether it lives."""


@dataclass
class Claims:
    """The claims in a folder, as one process sees them."""

    folder: Path
    """Where they lie."""
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By task, when its claim was touched last, and when this process saw that first, by its own clock."""

    def take(self, task: str) -> Owner | None:
        """Claim a task; None where another process has it.

        Raises
        ------
        FileNotFoundError
            The folder is gone: the corpus is finished, or was deleted.
        """
        owner = Owner(_place(), os.getpid(), _started(os.getpid()) or "", uuid.uuid4().hex)
        new = self.folder / f".{owner.token}"
        try:
            new.write_text(json.dumps(vars(owner)), encoding="utf-8")
            os.link(new, self._path(task))  # with its content, or not at all
        except FileExistsError:
            return None
        finally:
            new.unlink(missing_ok=True)
        return owner

    def check(self, task: str, owner: Owner) -> None:
        """Refuse to go on with a task that is somebody else's by now.

        Raises
        ------
        LostClaimError
            The claim is not the owner's any more.
        """
        if self.owner(task) != owner:
            raise LostClaimError(task)

    def release(self, task: str, owner: Owner) -> None:
        """Give a claim up, as long as it is ours."""
        if self.owner(task) == owner:
            self._path(task).unlink(missing_ok=True)

    def is_held(self, task: str) -> bool:
        """Whether somebody has a task, dead or alive."""
        return self._path(task).exists()

    def owner(self, task: str) -> Owner | None:
        """Who has a task; None if nobody. Who made a claim that cannot be read is unknown, and has no host."""
        return _read(self._path(task))

    def take_away(self, task: str) -> Owner | None:
        """Remove the claim of an owner who is dead, and say who that was; None where there is none, or it lives."""
        path = self._path(task)
        owner = self.owner(task)
        if owner is None or not (owner.is_gone() or self._silence(task) > owner.patience_seconds()):
            return None
        away = self.folder / f".{uuid.uuid4().hex}"
        try:
            path.rename(away)  # one of several that see it succeeds
        except FileNotFoundError:
            return None
        try:
            if _read(away) != owner:  # another process was faster, and this is its new claim
                with contextlib.suppress(FileExistsError):
                    os.link(away, path)
                return None
        finally:
            away.unlink(missing_ok=True)
        self._seen.pop(task, None)
        return owner

    def _silence(self, task: str) -> float:
        """Seconds for which this process has seen a claim untouched; 0 where there is none."""
        try:
            touched = self._path(task).stat().st_mtime_ns
        except FileNotFoundError:
            return 0.0
        now = time.monotonic()
        last, since = self._seen.setdefault(task, (touched, now))
        if last != touched:
            self._seen[task] = (touched, now)
            return 0.0
        return now - since

    def silent(self, seconds: float) -> dict[str, tuple[Owner, int]]:
        """Owners whose claims this process has seen untouched for so long, and when they were touched, in ns of the file's clock."""
        tasks = [task for task in self._tasks() if self._silence(task) >= seconds]
        owners = ((task, self.owner(task)) for task in tasks)
        return {task: (owner, self._seen[task][0]) for task, owner in owners if owner is not None}

    @contextmanager
    def kept(self, task: str, owner: Owner) -> Iterator[None]:
        """Touch a claim as long as its task is done."""
        ended = threading.Event()

        def touch() -> None:
            while not ended.wait(TOUCH_SECONDS):
                with contextlib.suppress(OSError):
                    self.touch(task, owner)

        thread = threading.Thread(target=touch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def touch(self, task: str, owner: Owner) -> None:
        """Say that the owner of a claim lives, as long as it is the owner's."""
        if self.owner(task) == owner:
            os.utime(self._path(task))

    def touched(self, task: str) -> float | None:
        """When a claim was touched last, in seconds by the clock of the file system; None where there is none."""
        try:
            return self._path(task).stat().st_mtime
        except FileNotFoundError:
            return None

    def all(self) -> dict[str, Owner]:
        """Owners by task."""
        owners = {task: self.owner(task) for task in self._tasks()}
        return {task: owner for task, owner in owners.items() if owner is not None}

    def _tasks(self) -> list[str]:
        names = [place.name.replace("@", "/") for place in self.folder.iterdir()] if self.folder.is_dir() else []
        return [name for name in names if not name.startswith(".")]

    def living(self) -> set[str]:
        """Tasks whose owner lives, as far as one look tells: of other hosts, those that were touched not long ago.

        That compares clocks of hosts, which will do for people; nothing is taken away by it.
        """
        return {task for task, owner in self.all().items() if not owner.is_gone() and self._is_fresh(task, owner)}

    def _is_fresh(self, task: str, owner: Owner) -> bool:
        try:
            return owner.is_of_here() or time.time() - self._path(task).stat().st_mtime < STALE_SECONDS
        except FileNotFoundError:
            return False

    def _path(self, task: str) -> Path:
        return self.folder / task.replace("/", "@")
