"""One stage trained by several processes of this machine, which torch's own launcher starts and ends.

The worker that got the task stays their parent: it passes on what rank 0 says, and tells all of them to stop. torch's
launcher gives them their ranks and a free port, and ends the others when one dies.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from workbench.launch.local import death
from workbench.launch.local.worker import Problem, Result, Task
from workbench.study.files import read_stage
from workbench.study.layout import Layout

_LOCALHOST = "127.0.0.1"
_COLLECTIVE_SECONDS = 1800.0
"""As for a cluster's jobs: a process that does not come for this long is gone."""
_BROKEN_SECONDS = 1.0
"""A process whose connection broke waits this long, so that the launcher sees first the one that broke it."""
_PROGRESS_SECONDS = 0.3


def train_together(
    layout: Layout,
    task: Task,
    should_stop: Callable[[], bool],
    tell: Callable[[Any], None],
    log: Callable[[str], None],
) -> Result:
    """Train a stage with `task.processes` processes, and return when all have ended.

    Parameters
    ----------
    layout, task
        What is trained.
    should_stop
        When it becomes true, the processes write a checkpoint together and end.
    tell
        Given the progress of rank 0.
    log
        Given its log lines, and the traceback of the process that failed.
    """
    stopping, stop = Pipe(duplex=False)
    hearing, news = Pipe(duplex=False)
    ended: list[Result] = []
    # In a thread, where torch's launcher leaves signals alone: its own handler would kill what writes a checkpoint.
    thread = threading.Thread(target=lambda: ended.append(_launch(layout, task, stopping, news, log)), daemon=True)
    thread.start()
    told = False
    try:
        while thread.is_alive():
            _pass_on(hearing, tell, log, seconds=0.1)
            if should_stop() and not told:
                told = True
                stop.send(None)  # never received: it makes the pipe readable for every process
        _pass_on(hearing, tell, log, seconds=0.0)
    finally:
        stop.close()  # which a process that is still there takes as a stop
        thread.join()
        for connection in (stopping, hearing, news):
            connection.close()
    return ended[0] if ended else Result(task, "failed", (Problem("torch's launcher ended without a word"),))


def _pass_on(hearing: Connection, tell: Callable[[Any], None], log: Callable[[str], None], seconds: float) -> None:
    while hearing.poll(seconds):
        message = hearing.recv()
        if isinstance(message, str):
            log(message)
        else:
            tell(message)


def _launch(layout: Layout, task: Task, stopping: Connection, news: Connection, log: Callable[[str], None]) -> Result:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _silence("torch.distributed", "torch.multiprocessing")
    kills = death.memory_kills()
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=task.processes,
            run_id=task.stage,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{_LOCALHOST}:0",
            local_addr=_LOCALHOST,
            max_restarts=0,  # the run decides whether to try again
            start_method="spawn",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            ends = elastic_launch(config, run_rank)(layout.root, task.stage, task.targets, stopping, news)
        except ChildFailedError as error:
            return _failed(task, *error.get_first_failure(), kills, log)
        except Exception as error:
            return Result(task, "failed", (Problem(f"{type(error).__name__}: {error}", type(error).__name__),))
    state, text = ends[0]
    return Result(task, state, (Problem(text),) if text else ())


def _silence(*prefixes: str) -> None:
    """Keep torch's launcher from printing pages about a failure that is said in one line."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(prefixes):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _failed(task: Task, rank: int, failure: Any, kills: int | None, log: Callable[[str], None]) -> Result:
    """Turn the first process that failed into a result: one that died is tried again, an error is not."""
    if failure.exitcode < 0:
        problem = death.describe(failure.exitcode, kills)
        return Result(task, "died", (Problem(f"rank {rank}: {problem.error}", problem.error_class),))
    message = failure.message
    if isinstance(message, dict):
        log(str(message["extraInfo"]["py_callstack"]))
        message = message["message"]
    text = " ".join(str(message).split())
    name = text.partition(":")[0]
    return Result(task, "failed", (Problem(text, name if name.isidentifier() else ""),))


# ------------------------------------------------------------------------------- in each process


def run_rank(
    outputs: Path, stage: str, targets: Sequence[int], stopping: Connection, news: Connection
) -> tuple[str, str]:
    """Be one process of a stage; return a result's state and what it says. torch's launcher records what it raises."""
    from torch.distributed.elastic.multiprocessing.errors import record

    ended = record(_train)(outputs, stage, targets, stopping, news)
    assert ended is not None
    return ended


def _train(
    outputs: Path, stage: str, targets: Sequence[int], stopping: Connection, news: Connection
) -> tuple[str, str]:
    from workbench.train.checkpoint import DamagedCheckpointError
    from workbench.train.distributed import join
    from workbench.train.hooks import StoppedError
    from workbench.train.loop import stage_device
    from workbench.train.whole_stage import train_stage

    layout = Layout(outputs)
    device = stage_device(read_stage(layout.stage(stage)))
    hooks = _hooks(stopping, news)
    try:
        with join(**_rendezvous(), device=device, timeout_seconds=_COLLECTIVE_SECONDS) as world:
            train_stage(layout, stage, hooks, world, targets)
    except StoppedError as error:
        return "killed", str(error)
    except DamagedCheckpointError as error:
        return "parent_damaged", str(error)
    except RuntimeError:
        time.sleep(_BROKEN_SECONDS)
        raise
    return "finished", ""


def _rendezvous() -> dict[str, Any]:
    return {
        "rank": int(os.environ["RANK"]),
        "size": int(os.environ["WORLD_SIZE"]),
        "local_rank": int(os.environ["LOCAL_RANK"]),
        "address": os.environ["MASTER_ADDR"],
        "port": int(os.environ["MASTER_PORT"]),
    }


def _hooks(stopping: Connection, news: Connection) -> Any:
    """Hear of a stop by signal or from the parent, whose death is one too; rank 0 speaks."""
    from workbench.train.hooks import Hooks

    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    last = 0.0

    def on_progress(progress: Any) -> None:
        nonlocal last
        if os.environ["RANK"] == "0" and time.monotonic() - last > _PROGRESS_SECONDS:
            last = time.monotonic()
            news.send(progress)

    # A pipe whose other end is closed can be read, too.
    return Hooks(lambda: asked.is_set() or stopping.poll(), on_progress, log=news.send)
