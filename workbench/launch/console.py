"""What all verbs print with: consoles, times in words, and the table of stages."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from workbench.config.search import PROJECT_ROOT
from workbench.study.resources import Resources
from workbench.study.stage_states import StageState

if TYPE_CHECKING:  # it trains, and showing a table need not wait for torch
    pass


def make_console() -> Console:
    """Give a console on stdout that cuts nothing where no terminal sets a width."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 240)


def say(text: str) -> None:
    """Print a line for the user, on stderr."""
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


def command_by_name(verb: str, study: str, outputs: Path) -> str:
    """Write a command that names a launched study alone, with the folder of its outputs where that is not the default."""
    where = "" if outputs == PROJECT_ROOT / "outputs" else f"WORKBENCH_OUTPUTS={shlex.quote(str(outputs))} "
    return f"{where}workbench {verb} {study}"


def describe_resources(resources: Resources) -> str:
    """Say in a few words what a job asks for."""
    nodes = f"{resources.nodes} node{'s' if resources.nodes > 1 else ''}"
    if resources.gpus_per_node:
        return f"{nodes} x {resources.gpus_per_node} GPU"
    return f"{nodes} x {resources.processes_per_node} x {resources.cpus_per_process} CPU"


def format_seconds(seconds: float) -> str:
    """Write a time as a person would: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def states_table(states: Sequence[StageState]) -> Table:
    """Make the table of `workbench status`."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for header in ("stage", "of", "state", "job", "tokens", "target", "tokens/s", "left", "note"):
        table.add_column(header, no_wrap=header != "note", overflow="fold")
    for s in states:
        table.add_row(
            s.stage,
            s.label,
            s.state,
            _job_ids(s.jobs),
            *_how_far(s),
            "" if s.tokens_per_second is None else f"{s.tokens_per_second:,.0f}",
            "" if s.seconds_left is None else format_seconds(s.seconds_left),
            s.note or "",
        )
    return table


def _how_far(state: StageState) -> tuple[str, str]:
    """Tokens and target of a stage; of a corpus that is not made yet, tasks that are done and all."""
    if state.end_tokens is not None or state.tokens is not None or state.tasks is None:
        tokens = "-" if state.tokens is None else f"{state.tokens:,}"
        return tokens, "-" if state.end_tokens is None else f"{state.end_tokens:,}"
    return f"{state.tasks_done:,} tasks", f"{state.tasks:,} tasks"


def _job_ids(jobs: Sequence[str]) -> str:
    return "" if not jobs else jobs[0] if len(jobs) == 1 else f"{jobs[0]} +{len(jobs) - 1}"


def summary_line(states: Sequence[StageState]) -> str:
    """Count the states in one line."""
    counts = Counter(state.state for state in states)
    return f"{len(states)} stages: " + ", ".join(f"{number} {state}" for state, number in counts.items())
