"""What a launch and a watch show: tables of jobs and stages."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from workbench.launch.planning import Facts
from workbench.launch.snapshot import PROJECT_ROOT
from workbench.study.resources import Resources
from workbench.study.stage_states import StageState

if TYPE_CHECKING:  # it trains, and showing a table need not wait for torch
    from workbench.launch.slurm.submit_study import Submission


def make_console() -> Console:
    """Give a console on stdout that cuts nothing where no terminal sets a width."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 240)


def say(text: str) -> None:
    """Print a line for the user, on stderr."""
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


def print_submission(facts: Facts, submission: Submission, console: Console | None = None) -> None:
    """Print a row for each new training job, and sum up the rest."""
    console = console or make_console()
    trainings = {part: job for part, job in submission.submitted.items() if part.kind == "train"}
    if trainings:
        console.print(_jobs_table(facts, submission), markup=False)
    kinds = Counter(part.kind for part in submission.submitted)
    old = {job for jobs in submission.underway.values() for job in jobs.values()}
    lines = [
        f"submitted: {kinds['train']} trainings, {kinds['evaluate']} evaluations, {kinds['publish']} publishing, "
        f"by {submission.calls} calls of sbatch",
    ]
    if old:
        lines.append(f"queued or running already: {len(old)} trainings")
    if submission.left:
        lines.append(
            f"not taken by the cluster: {len(submission.left)} jobs ({submission.refusal}); "
            "launch again when there is room"
        )
    if not submission.submitted and not old and not submission.left:
        lines.append("nothing is missing")
    where = f"WORKBENCH_OUTPUTS={facts.layout.root} " if facts.layout.root != PROJECT_ROOT / "outputs" else ""
    study = facts.plan.study
    lines.append(f"`{where}workbench status {study}` tells how it goes, `{where}workbench cancel {study}` ends it")
    for line in lines:
        console.print(line, markup=False)


def _jobs_table(facts: Facts, submission: Submission) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    for header in ("job", "stage", "of", "to", "points", "asks for", "limit", "estimate"):
        table.add_column(header, no_wrap=True)
    for part, job in submission.submitted.items():
        if part.kind != "train":
            continue
        node = facts.plan.nodes[part.stage]
        resources = submission.resources[part]
        table.add_row(
            job,
            node.id,
            f"{node.stage.model.name} {node.stage.name}",
            f"{part.targets[-1]:,}",
            _points(node.points),
            describe_resources(resources),
            f"{resources.minutes} min",
            "not estimated" if resources.seconds is None else format_seconds(resources.seconds),
        )
    return table


def _points(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


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
            "-" if s.tokens is None else f"{s.tokens:,}",
            f"{s.end_tokens:,}",
            "" if s.tokens_per_second is None else f"{s.tokens_per_second:,.0f}",
            "" if s.seconds_left is None else format_seconds(s.seconds_left),
            s.note or "",
        )
    return table


def _job_ids(jobs: Sequence[str]) -> str:
    return "" if not jobs else jobs[0] if len(jobs) == 1 else f"{jobs[0]} +{len(jobs) - 1}"


def summary_line(states: Sequence[StageState]) -> str:
    """Count the states in one line."""
    counts = Counter(state.state for state in states)
    return f"{len(states)} stages: " + ", ".join(f"{number} {state}" for state, number in counts.items())
