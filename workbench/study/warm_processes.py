"""Processes that begin with what they will need imported already.

Importing PyTorch and what an evaluation needs takes seconds, in every process anew. On Linux a server imports it once, and
each process is forked from it, with the environment, the working directory and the process group of whoever starts it.
Elsewhere, where a library that is loaded may not survive a fork, each process starts on its own; so it does where
WORKBENCH_FORK=0 is set, and where a variable that a library reads as it is imported has changed since the server began.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext
from typing import Any

FORK = "WORKBENCH_FORK"
"""Environment variable: 0 has each process start on its own."""
IMPORTED = (
    "workbench.train.whole_stage",
    "workbench.kinds.pretrain.run",
    "pandas",
    "pyarrow.parquet",
    "workbench.evaluate.reconcile",
    "workbench.evaluate.lm",
    "workbench.evaluate.tasks",
    "transformers.tokenization_utils_tokenizers",
    "transformers.models.auto.tokenization_auto",
    "workbench.study.frozen_objects",
)
"""What the server imports, in this order; a name that is not there is left to the process that needs it."""
_READ_AT_IMPORT = (
    "HF_",
    "TRANSFORMERS_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "TORCH",
    "PYTORCH_",
    "ATEN_",
    "ONEDNN_",
    "DNNL_",
)
"""Beginnings of the names of variables that libraries read as they are imported."""
_STOPS = (signal.SIGINT, signal.SIGTERM)
_began: dict[str, dict[str, str]] = {}
"""Under `environment`, what of the variables of `_READ_AT_IMPORT` the server began with."""


class _Process(ForkServerProcess):
    """A process with the environment and in the process group of whoever made it, and not of the server."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._environment, self._group = dict(os.environ), os.getpgrp()

    def run(self) -> None:
        """Run the target; a stop that came while it was forked ends it without a word."""
        os.environ.clear()
        os.environ.update(self._environment)
        with suppress(OSError):  # it has ended, or is of another session
            os.setpgid(0, self._group)
        interrupted = signal.getsignal(signal.SIGINT)
        if interrupted is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        signal.signal(signal.SIGINT, interrupted)
        super().run()


class _Context(ForkServerContext):
    Process = _Process  # pyright: ignore[reportAssignmentType]


def warm_context() -> ForkServerContext | SpawnContext:
    """Return what `multiprocessing.get_context` would, for processes that train and evaluate."""
    if not start_importing() or _began["environment"] != _read_at_import():
        return multiprocessing.get_context("spawn")
    return _Context()


def start_importing() -> bool:
    """Start the server, if it does not run: it imports while the caller goes on, and ends with whoever needs it.

    Returns
    -------
    bool
        False where processes start on their own.
    """
    if sys.platform != "linux" or os.environ.get(FORK) == "0":
        return False
    if not _began:
        _began["environment"] = _read_at_import()
        atexit.register(_end_server)
    forkserver.set_forkserver_preload(list(IMPORTED))
    resource_tracker.ensure_running()  # which unblocks these signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        # A terminal or `kill` sends them to all processes of a command: the server waits for the command's own end.
        with _servers_environment():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return True


def _read_at_import() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_READ_AT_IMPORT)}


def _end_server() -> None:
    """End the server with its command, also while it imports: it holds the command's output open.

    Once waited for, its processor time and that of all that were forked from it are in this process's.
    """
    server: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)  # pyright: ignore[reportPrivateUsage]
    if server is not None and not multiprocessing.active_children():
        with suppress(OSError):  # another process's server
            if os.waitpid(server, os.WNOHANG) == (0, 0):
                os.kill(server, signal.SIGKILL)
                os.waitpid(server, 0)


@contextmanager
def _servers_environment() -> Generator[None]:
    """Set what the server alone finds."""
    values = {
        # What the command itself imports from, and no file of the working directory beside it.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # Whoever asks for GPUs does not start CUDA, which no fork survives.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
