"""Shared by several verbs: composing a study, and printing a table."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.config.compose import ComposedPoint
    from workbench.config.launcher_settings import Launcher
    from workbench.forecast.study_facts import Facts
    from workbench.study.layout import Layout


UNNAMED = "scratch"
"""Study of a command that names none, as `conf/config.yaml` has it."""


def add_plugins(folders: Iterable[Path | str]) -> None:
    """Have kinds of stages found in these folders too, by this process and all that it starts.

    Raises
    ------
    ValueError
        One is not a folder.
    """
    from workbench.config.kind_registry import PLUGINS, plugin_folders

    before = [entry for entry in os.environ.get(PLUGINS, "").split(os.pathsep) if entry]
    given = [str(Path(folder).expanduser().resolve()) for folder in folders]
    if given:
        os.environ[PLUGINS] = os.pathsep.join(dict.fromkeys([*before, *given]))
    plugin_folders()


def read_named(study: str) -> dict[str, Any]:
    """Read the record of a study that was launched before, and have its own kinds of stages found."""
    from workbench.config.kind_registry import PLUGINS
    from workbench.study.study_record import read_record

    record = read_record(default_layout(), study)
    if not os.environ.get(PLUGINS):  # a job has its own copy of them
        add_plugins(folder for folder in record.get("plugins", []) if Path(folder).is_dir())
    return record


def compose_points(parsed: argparse.Namespace) -> list[ComposedPoint]:
    """Every point of the sweep given on the command line."""
    from workbench.config.compose import composer

    with composer(parsed.experiments) as hydra:
        return hydra.points(parsed.overrides)


def make_study_facts(parsed: argparse.Namespace) -> Facts:
    """Plan the study given on the command line, and look at what exists of it.

    A study that was launched before may be given by its name: then its latest launch counts.
    """
    from workbench.forecast.study_facts import make_facts

    study = named_study(parsed)
    if study is not None:
        from workbench.study.study_record import recorded_fingerprints, recorded_points

        record = read_named(study)
        return make_facts(recorded_points(record), recorded_fingerprints(record))
    return make_facts([(point.name, point.config) for point in compose_points(parsed)])


def named_study(parsed: argparse.Namespace) -> str | None:
    """Name of a study if the command line gives nothing else."""
    return parsed.overrides[0] if len(parsed.overrides) == 1 and "=" not in parsed.overrides[0] else None


def asked_launcher(parsed: argparse.Namespace) -> Launcher:
    """Return the launcher that the command line composes, or that of a named study's latest launch."""
    from workbench.config.compose import composer
    from workbench.config.launcher_settings import Launcher
    from workbench.config.schema import from_dict

    study = named_study(parsed)
    if study is None:
        with composer(parsed.experiments) as hydra:
            return hydra.launcher(parsed.overrides)
    record = read_named(study)
    # Records of earlier versions have only the command, and what it did not set had no effect then.
    slurm = "hydra/launcher=slurm" in shlex.split(record.get("command", ""))
    return from_dict(Launcher, record.get("launcher") or {"kind": "slurm" if slurm else "local"}, "launcher")


def plan_facts_and_launcher(parsed: argparse.Namespace) -> tuple[Facts, Launcher]:
    """Do what `make_study_facts` and `asked_launcher` do, of one composition, as far as a plan needs it."""
    from workbench.config.compose import composer
    from workbench.forecast.study_facts import make_facts

    if named_study(parsed) is not None:
        return make_study_facts(parsed), asked_launcher(parsed)
    with composer(parsed.experiments) as hydra:
        points, launcher = hydra.points(parsed.overrides), hydra.launcher(parsed.overrides)
    return make_facts([(point.name, point.config) for point in points], provisional=True), launcher


def default_layout() -> Layout:
    """Location of the outputs when only a study's name is given."""
    from workbench.study.layout import Layout

    return Layout(Path(os.environ.get("WORKBENCH_OUTPUTS", Path(__file__).resolve().parents[2] / "outputs")))


def print_plan_line(facts: Facts) -> list[str]:
    """Print a study's name, how large it is, and what is to be known of its name; return the lines on the latter."""
    from workbench.forecast.plan_notes import leaving_points_note

    plan, todo = facts.plan, sum(facts.tokens_to_train().values())
    print(
        f"{plan.study}: {count(len(plan.points), 'point')}, {count(len(plan.nodes), 'stage')}, {millions(todo)} tokens to "
        f"train ({millions(plan.tokens_shared)} in all, {millions(plan.tokens_unshared)} without sharing)",
        flush=True,
    )
    notes = [*leaving_points_note(facts), *_name_note(plan.study)]
    for note in notes:
        print(note, flush=True)
    return notes


def print_preparing_lines(facts: Facts) -> None:
    """Print how far corpora are that a cluster, or another command, makes; nothing where there are none."""
    from workbench.launch.slurm.commands import SlurmError
    from workbench.launch.slurm.corpus_jobs import describe, look_at_corpora

    try:
        for each in look_at_corpora(facts):
            print(describe(each, facts.layout))
    except SlurmError as error:
        print(f"workbench: how far the data is, is not known: {error}", file=sys.stderr)


def _name_note(study: str) -> list[str]:
    """Line on a study that nobody has named."""
    if study != UNNAMED:
        return []
    return [f"study={UNNAMED} is for what need not be kept: the next study without a name replaces it (study=NAME)"]


def count(number: int, thing: str) -> str:
    """Give a number of things, `1 point` or `2 points`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def millions(tokens: int) -> str:
    """Give tokens in millions: three digits, or all before the point where those are more."""
    return f"{tokens / 1e6:.3g}M" if tokens < 1e9 else f"{tokens / 1e6:,.0f}M"


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print left-aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
