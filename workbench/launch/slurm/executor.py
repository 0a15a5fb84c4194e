"""submitit's Slurm executor with what it lacks: arrays of any indices, and jobs that need no pickle.

submitit writes the `sbatch` script, runs it and reads the job's id. The job itself is our own command on a
directory that is complete before `sbatch` is called, so that a launch that dies leaves no job without its work.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from workbench.config.kind_registry import PLUGINS
from workbench.config.schema import ClusterConfig
from workbench.launch.slurm.commands import SlurmError, is_silence
from workbench.launch.snapshot import PLUGINS_COPY
from workbench.study.resources import Resources

_LIMITS = re.compile(r"limit|policy|job array specification|temporarily unable to accept", re.IGNORECASE)
_NUMBER = re.compile(r"MaxSubmit|MaxJobs|job array specification|temporarily unable to accept", re.IGNORECASE)


class LimitError(SlurmError):
    """A limit of the cluster stands against it."""

    @property
    def of_number(self) -> bool:
        """Whether it is one on the number of jobs, so that fewer may be taken."""
        return _NUMBER.search(str(self)) is not None


class NoAnswerError(SlurmError):
    """Nobody said whether the job was taken."""


class Executor(SlurmExecutor):
    """Submits commands of ours, as single jobs or arrays."""

    def submit_command(self, command: str, indices: Sequence[int], parallelism: int | None) -> str:
        """Submit and return Slurm's id, without an element's index.

        Parameters
        ----------
        command
            Run by every task of every element.
        indices
            Array indices; a single job where there is one, which is 0.
        parallelism
            Elements that may run at once; None sets no bound.

        Raises
        ------
        LimitError
            A limit of the cluster stands against it.
        NoAnswerError
            The controller was silent: the job may be there or not.
        SlurmError
            Slurm refuses for another reason.
        """
        if not is_single(indices):
            self.parameters["map_count"] = len(indices)
            array = format_indices(indices) + (f"%{parallelism}" if parallelism else "")
            extra = self.parameters.get("additional_parameters") or {}
            self.parameters["additional_parameters"] = {**extra, "array": array}
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                return self._submit_command(command).job_id
        except (FailedJobError, FailedSubmissionError) as error:
            text = " ".join(str(error).split())
            if is_silence(text):
                raise NoAnswerError(text) from error
            raise (LimitError if _LIMITS.search(text) else SlurmError)(text or "sbatch failed") from error


def is_single(indices: Sequence[int]) -> bool:
    """Whether indices make a single job rather than an array."""
    return list(indices) == [0]


def format_indices(indices: Sequence[int]) -> str:
    """Write indices as `sbatch --array` takes them: 0-3,7."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def job_id(job: str, indices: Sequence[int], index: int) -> str:
    """Slurm's id of one element."""
    return job if is_single(indices) else f"{job}_{index}"


def make_executor(
    folder: Path,
    cluster: ClusterConfig,
    resources: Resources,
    *,
    name: str,
    token: str,
    code: Path,
    dependency: str | None,
) -> Executor:
    """Prepare a submission with a cluster's settings.

    Parameters
    ----------
    folder
        Where script and logs go; every node must see it.
    cluster, resources
        Where, and with what.
    name, token
        The job's name and comment.
    code
        Copy of the project that the job imports from.
    dependency
        As `sbatch --dependency` takes it.

    Raises
    ------
    SlurmError
        There is no Slurm on this machine.
    """
    try:
        executor = Executor(folder, python=cluster.python)
    except RuntimeError as error:
        raise SlurmError("srun is not on this machine: launch from a login node of the cluster") from error
    gpus = resources.gpus_per_node
    extra: dict[str, Any] = {
        "requeue": True,
        "kill-on-invalid-dep": "yes",
        "chdir": str(folder),
        **({"gres": f"gpu:{cluster.gpu_kind}:{gpus}"} if gpus and cluster.gpu_kind else {}),
        **cluster.sbatch,
    }
    memory = resources.memory_bytes_per_node
    values = {
        "job_name": name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "time": resources.minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.processes_per_node,
        "cpus_per_task": resources.cpus_per_process,
        "gpus_per_node": gpus if gpus and not cluster.gpu_kind else None,
        "mem": None if memory is None else f"{math.ceil(memory / 2**20)}MB",
        "signal_delay_s": cluster.signal_seconds,
        "comment": token,
        "dependency": dependency,
        # Since 22.05, srun does not take the number of CPUs from sbatch; one dead rank ends the others.
        "srun_args": [f"--cpus-per-task={resources.cpus_per_process}", "--kill-on-bad-exit=1"],
        "setup": [*cluster.setup, *_exports(code)],
        "additional_parameters": extra,
    }
    executor._internal_update_parameters(**{key: value for key, value in values.items() if value is not None})
    return executor


def _exports(code: Path) -> list[str]:
    """Have a job import the copy of the code, and a user's own kinds from there too."""
    lines = [f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"]
    plugins = code / PLUGINS_COPY
    return [*lines, f"export {PLUGINS}={shlex.quote(str(plugins))}"] if plugins.is_dir() else lines


def node_command(cluster: ClusterConfig, batch_file: Path) -> str:
    """Command of a job: `-P` keeps the working directory out of Python's path, so that nothing edited is imported."""
    python = cluster.python or shlex.quote(sys.executable)
    return f"{python} -P -u -m workbench.launch.slurm.on_node {shlex.quote(str(batch_file))}"
