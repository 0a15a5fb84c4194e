"""One process of a stage, for the tests: `python rank.py <JSON>`.

Stops after `stop_after` steps, kills itself after `kill_after`, sleeps `seconds_per_step` after each.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from workbench.study.layout import Layout
from workbench.train.distributed import join
from workbench.train.loop import Hooks, Progress, StoppedError
from workbench.train.stage import train_stage


def main(
    root: str,
    stage: str,
    rank: int,
    size: int,
    port: int,
    stop_after: int | None = None,
    kill_after: int | None = None,
) -> None:
    steps: list[int] = []

    def on_progress(progress: Progress) -> None:
        steps.append(progress.step)
        if len(steps) == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    hooks = Hooks(should_stop=lambda: len(steps) == stop_after, on_progress=on_progress)
    with join(rank, size, rank, "127.0.0.1", port, "cpu", timeout_seconds=60) as world:
        train_stage(Layout(Path(root)), stage, hooks, world)


if __name__ == "__main__":
    began = time.monotonic()
    try:
        main(**json.loads(sys.argv[1]))
    except StoppedError:
        sys.exit(3)
