"""What Slurm says of jobs, and the few things it is told beside `sbatch`."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from submitit.slurm.slurm import SlurmInfoWatcher

_PATIENCE_SECONDS = 60.0
"""How long a silent controller is asked again; a restart takes some seconds."""
_CALL_SECONDS = 60.0
_IDS_A_CALL = 500

LIVE = frozenset(
    [
        "PENDING",
        "CONFIGURING",
        "RUNNING",
        "COMPLETING",
        "SUSPENDED",
        "STOPPED",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "RESIZING",
        "SIGNALING",
        "STAGE_OUT",
        "RESV_DEL_HOLD",
        "SPECIAL_EXIT",
    ]
)
"""States of a job that is going to do its work, or is doing it."""
FAILED = frozenset(
    ["FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "LAUNCH_FAILED", "PREEMPTED"]
)
UNKNOWN = "UNKNOWN"
"""Neither queue nor accounting know the job: it has ended, and nobody remembers how."""


class SlurmError(Exception):
    """Slurm could not be asked, or refused; one line."""


@dataclass(frozen=True)
class JobState:
    """One job, or one element of an array, as Slurm knows it."""

    id: str
    """`123`, or `123_4` for an element."""
    state: str
    """Slurm's word, such as PENDING; `UNKNOWN` where nobody remembers."""
    reason: str = ""
    """Why it waits, or who cancelled it."""
    comment: str = ""
    """The token of the submission it belongs to."""

    @property
    def live(self) -> bool:
        """Whether the job is still going to do something."""
        return self.state in LIVE

    @property
    def running(self) -> bool:
        """Whether it has begun."""
        return self.state in LIVE - {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"}


def list_queue() -> dict[str, JobState]:
    """Every job of this user that is queued or running, and those ended a moment ago, by id.

    Raises
    ------
    SlurmError
        The controller does not answer. No answer is never taken for an empty queue.
    """
    output = call(["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%k|%r"])
    jobs: dict[str, JobState] = {}
    for line in output.splitlines():
        identifier, state, comment, reason = line.split("|", 3)
        jobs[identifier] = JobState(identifier, state, reason, "" if comment == "(null)" else comment)
    return jobs


def ask_accounting(ids: Iterable[str]) -> dict[str, JobState]:
    """States of ended jobs from `sacct`; empty where the cluster keeps no accounting."""
    wanted = set(ids)
    numbers = sorted({identifier.split("_")[0] for identifier in wanted}, key=int)
    found: dict[str, JobState] = {}
    watcher = SlurmInfoWatcher()
    for start in range(0, len(numbers), _IDS_A_CALL):
        chunk = ",".join(numbers[start : start + _IDS_A_CALL])
        command = ["sacct", "--allocations", "--parsable2", "--format=JobID,State", f"--jobs={chunk}"]
        run = _run(command)
        if run is None or run.returncode:
            return {}
        for identifier, values in watcher.read_info(run.stdout).items():
            state, _, reason = values["State"].partition(" ")
            found[identifier] = JobState(identifier, state, reason)
    return {identifier: state for identifier, state in found.items() if identifier in wanted}


def job_states(ids: Iterable[str], queue: dict[str, JobState]) -> dict[str, JobState]:
    """State of each job: from the queue, from accounting, or `UNKNOWN`.

    A controller that was killed may have forgotten a job that accounting still holds for queued or running:
    what the queue does not have, nobody is going to do.
    """
    wanted = set(ids)
    ended = wanted - set(queue)
    accounted = ask_accounting(ended) if ended else {}
    ended_well = {i: state for i, state in accounted.items() if not state.live}
    return {i: queue.get(i) or ended_well.get(i) or JobState(i, UNKNOWN) for i in wanted}


def cancel(ids: Sequence[str]) -> None:
    """End jobs, queued or running."""
    for start in range(0, len(ids), _IDS_A_CALL):
        call(["scancel", *ids[start : start + _IDS_A_CALL]])


def requeue(job: str, seconds: float) -> None:
    """Put the running job back into the queue under its id; ask again for `seconds` while nobody answers."""
    call(["scontrol", "requeue", job], patience=seconds)


def call(command: list[str], patience: float = _PATIENCE_SECONDS) -> str:
    """Run one of Slurm's commands; ask again while its daemons do not answer.

    Raises
    ------
    SlurmError
        The command is not here, Slurm refuses, or has not answered for `patience` seconds.
    """
    until = time.monotonic() + patience
    while True:
        run = _run(command)
        if run is None:
            raise SlurmError(f"{command[0]} is not on this machine: Slurm is asked from a login node")
        if run.returncode == 0:
            return run.stdout
        text = " ".join(run.stderr.split())
        if not is_silence(text) or time.monotonic() > until:
            raise SlurmError(f"{command[0]}: {text or f'exit status {run.returncode}'}")
        time.sleep(1.0)


def is_silence(text: str) -> bool:
    """Whether an error says that nobody answered, rather than that Slurm refused."""
    pattern = r"unable to contact|connection refused|timed out|connection reset|zero bytes were|socket error"
    return re.search(pattern, text, re.IGNORECASE) is not None


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_CALL_SECONDS, check=False)
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"timed out after {_CALL_SECONDS:.0f} s")
