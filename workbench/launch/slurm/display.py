"""What a user sees of a cluster: the jobs that a launch submitted, and one live table of a whole study."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from workbench.forecast.study_facts import Facts, look
from workbench.launch.console import (
    command_by_name,
    describe_resources,
    format_seconds,
    make_console,
    states_table,
    summary_line,
)
from workbench.launch.slurm.commands import SlurmError
from workbench.launch.slurm.corpus_jobs import Preparing, describe, look_at_corpora
from workbench.launch.slurm.ledger import Ledger, read_ledger
from workbench.launch.slurm.queue_view import study_states
from workbench.study.stage_states import StageState

if TYPE_CHECKING:  # it trains, and showing a table need not wait for torch
    from workbench.launch.slurm.submit_study import Submission

_SECONDS = 5.0
_LINE_SECONDS = 30.0
"""Where there is no terminal, a line at most this often."""


def watch(facts: Facts, seconds: float = _SECONDS, console: Console | None = None) -> list[StageState]:
    """Show a study until none of its jobs is left; Ctrl-C stops looking, and the jobs go on.

    Returns
    -------
    list of StageState
        As last seen.
    """
    console = console or Console(soft_wrap=False)
    live = Live(console=console, auto_refresh=False, transient=False)
    states: list[StageState] = []
    last_line = 0.0
    try:
        with live:
            while True:
                facts = look(facts.plan)
                ledger, trouble = _ask(facts)
                states = study_states(facts, ledger)
                if console.is_terminal:
                    live.update(Group(states_table(states), Text(summary_line(states) + trouble)), refresh=True)
                elif time.monotonic() - last_line > _LINE_SECONDS:
                    last_line = time.monotonic()
                    console.print(summary_line(states) + trouble, highlight=False, markup=False)
                if ledger is not None and not ledger.live_jobs():
                    break
                time.sleep(seconds)
    except KeyboardInterrupt:
        status = command_by_name("status", facts.plan.study, facts.layout.root)
        console.print(f"the jobs go on; `{status}` tells how", highlight=False, markup=False)
        return states
    if not console.is_terminal:
        console.print(summary_line(states), highlight=False, markup=False)
    return states


def _ask(facts: Facts) -> tuple[Ledger | None, str]:
    try:
        return read_ledger(facts.plan, facts.layout), ""
    except SlurmError as error:
        return None, f" (of the files alone: {error})"


def wait_for_corpora(facts: Facts, seconds: float = _SECONDS, console: Console | None = None) -> None:
    """Show how far a study's corpora are until they are made.

    Raises
    ------
    SlurmError
        No job makes one any more, and it is not made.
    """
    console, last_line = console or make_console(), 0.0
    while preparing := look_at_corpora(facts):
        lines = [describe(each, facts.layout) for each in preparing]
        for line, each in zip(lines, preparing, strict=True):
            if not each.live:
                raise SlurmError(line)
        if time.monotonic() - last_line > _LINE_SECONDS:
            last_line = time.monotonic()
            console.print("\n".join(lines), markup=False)
        time.sleep(seconds)


def print_submission(facts: Facts, submission: Submission, console: Console | None = None) -> None:
    """Print a row for each new training job, and sum up the rest."""
    console = console or make_console()
    if submission.preparing:
        print_preparing(facts, submission.preparing, console)
        if not submission.submitted and not submission.underway:
            console.print("nothing is trained before that: the same command goes on afterwards", markup=False)
            return
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
    for line in [*lines, _what_tells(facts)]:
        console.print(line, markup=False)


def print_preparing(facts: Facts, preparing: Sequence[Preparing], console: Console | None = None) -> None:
    """Print a line for each corpus that is being made, with the jobs that were submitted."""
    console = console or make_console()
    for each in preparing:
        if each.submitted:
            console.print(f"submitted: {len(each.submitted)} jobs ({', '.join(each.submitted)})", markup=False)
        console.print(describe(each, facts.layout), markup=False)
    console.print(_what_tells(facts), markup=False)


def _what_tells(facts: Facts) -> str:
    status, cancel = (command_by_name(verb, facts.plan.study, facts.layout.root) for verb in ("status", "cancel"))
    return f"`{status}` tells how it goes, `{cancel}` ends it"


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
