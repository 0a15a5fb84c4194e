"""State of a stage's latest attempt, as a file that anyone may read."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

from workbench.study.files import write_atomically
from workbench.study.layout import StageDir

STATES = ("running", "finished", "failed", "killed")


def write_status(
    stage_dir: StageDir,
    state: str,
    error: str | None = None,
    *,
    error_class: str | None = None,
    step: int | None = None,
    tokens: int | None = None,
) -> None:
    """Replace `status.json`; step and tokens stay as they were where they are not given.

    `error_class` is the name of the error's class, on which `workbench.study.causes` decides what to advise.
    """
    assert state in STATES, state
    before = read_status(stage_dir) or {}
    values = {
        "state": state,
        "error": error,
        "error_class": error_class,
        "step": before.get("step") if step is None else step,
        "tokens": before.get("tokens") if tokens is None else tokens,
        "time": time.time(),
        "pid": os.getpid(),
        "host": socket.gethostname(),
    }
    write_atomically(stage_dir.status, json.dumps(values))


def read_status(stage_dir: StageDir) -> dict[str, Any] | None:
    """Read the latest status, None where nothing has run."""
    try:
        return json.loads(stage_dir.status.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def note_evaluation_error(stage_dir: StageDir, error: str | None) -> None:
    """Add to `status.json` why a checkpoint of the stage could not be scored; None says that all could."""
    before = read_status(stage_dir)
    if before is not None and before.get("evaluation_error") != error:
        write_atomically(stage_dir.status, json.dumps({**before, "evaluation_error": error}))
