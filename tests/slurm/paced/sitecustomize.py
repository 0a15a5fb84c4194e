"""Lets a stage last: processes that find this folder in PYTHONPATH wait after their steps, as long as a file says.

A test that strikes a stage needs one that goes on for a while, whatever the machine: waiting takes no processor time, lasts the
same everywhere, and changes no number. WORKBENCH_TEST_PACE names the file, which holds two numbers, "SECONDS STEPS": each
step lasts so many seconds more, and after so many steps of its chain the stage waits until it is asked to stop. The file may change or
go at any time; where there is none, nothing waits. Python imports a module of this name when it starts.
"""

from __future__ import annotations

import functools
import importlib.machinery
import math
import os
import sys
import time
from dataclasses import replace

PACE = "WORKBENCH_TEST_PACE"
PACED = "workbench.train.whole_stage"
POLL_SECONDS = 0.1


def read_pace(step):
    """How long to wait after a step, in seconds, as the file has it now."""
    try:
        with open(os.environ[PACE], encoding="utf-8") as file:  # noqa: PTH123  (pathlib takes time to import)
            seconds, steps = map(float, file.read().split())
    except FileNotFoundError:
        return 0.0
    return math.inf if step >= steps else seconds


def pace(train_stage):
    """Make a `train_stage` that waits where it tells of a step, unless it is asked to stop."""

    @functools.wraps(train_stage)
    def paced(layout, stage_id, hooks, *rest, **named):
        def on_progress(progress):
            hooks.on_progress(progress)
            began = time.monotonic()
            while (left := read_pace(progress.step) - (time.monotonic() - began)) > 0 and not hooks.should_stop():
                time.sleep(min(left, POLL_SECONDS))

        return train_stage(layout, stage_id, replace(hooks, on_progress=on_progress), *rest, **named)

    return paced


class Finder(importlib.machinery.PathFinder):
    """Finds the module whose function is replaced, and no other."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname != PACED:
            return None
        spec = super().find_spec(fullname, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.train_stage = pace(module.train_stage)

        spec.loader.exec_module = exec_module
        return spec


if PACE in os.environ:
    sys.meta_path.insert(0, Finder)
