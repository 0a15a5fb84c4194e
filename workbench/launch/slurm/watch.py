"""One live table of a whole study, for as long as somebody looks at it."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from workbench.launch.console import states_table, summary_line
from workbench.launch.planning import Facts, look
from workbench.launch.slurm.commands import SlurmError
from workbench.launch.slurm.ledger import Ledger, read_ledger
from workbench.launch.slurm.queue_view import study_states
from workbench.study.stage_states import StageState

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
        console.print(f"the jobs go on; `workbench status {facts.plan.study}` tells how", highlight=False)
        return states
    if not console.is_terminal:
        console.print(summary_line(states), highlight=False, markup=False)
    return states


def _ask(facts: Facts) -> tuple[Ledger | None, str]:
    try:
        return read_ledger(facts.plan, facts.layout), ""
    except SlurmError as error:
        return None, f" (of the files alone: {error})"
