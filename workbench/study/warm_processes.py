"""Processes that begin with what they will need imported already.

Importing PyTorch and what an evaluation needs takes seconds, in every process anew. On Linux a server imports it once, and
each process is forked from it, with the environment, the working directory and the import path of whoever starts it.
Elsewhere, where a library that is loaded may not survive a fork, each process starts on its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext
from typing import Any

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


class _Process(ForkServerProcess):
    """A process with the environment and in the process group of whoever made it, and not of the server."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._environment, self._group = dict(os.environ), os.getpgrp()

    def run(self) -> None:
        """Run the target."""
        os.environ.clear()
        os.environ.update(self._environment)
        with suppress(OSError):  # it has ended, or is of another session
            os.setpgid(0, self._group)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as the server does
            signal.signal(signal.SIGINT, signal.default_int_handler)
        super().run()


class _Context(ForkServerContext):
    Process = _Process  # pyright: ignore[reportAssignmentType]


def warm_context() -> ForkServerContext | SpawnContext:
    """Return what `multiprocessing.get_context` would, for processes that train and evaluate."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    start_importing()
    return _Context()


def start_importing() -> None:
    """Start the server, if it does not run: it imports while the caller goes on, until whoever needs it has ended."""
    if sys.platform != "linux":
        return
    forkserver.set_forkserver_preload(list(IMPORTED))
    with _servers_environment(), _ignoring_interrupts():
        forkserver.ensure_running()


_SERVERS_ENVIRONMENT = {
    "PYTHONSAFEPATH": "1",  # no file of the working directory is imported, as the command itself imports none
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # whoever asks for GPUs does not start CUDA, which no fork survives
}


@contextmanager
def _servers_environment() -> Generator[None]:
    """Set what the server alone finds."""
    before = {name: os.environ.get(name) for name in _SERVERS_ENVIRONMENT}
    os.environ.update(_SERVERS_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _ignoring_interrupts() -> Generator[None]:
    """Have the server ignore Ctrl-C from its first moment, which a terminal sends to all processes of a command."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
