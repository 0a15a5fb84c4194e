"""What several verbs need: composing a study, and printing a table."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.config.compose import ComposedPoint
    from workbench.launch.planning import Facts
    from workbench.study.layout import Layout


def compose_points(parsed: argparse.Namespace) -> list[ComposedPoint]:
    """Every point of the sweep the command line asks for."""
    from workbench.config.compose import composer

    with composer(parsed.experiments) as hydra:
        return hydra.points(parsed.overrides)


def make_study_facts(parsed: argparse.Namespace) -> Facts:
    """Plan the study that the command line asks for, and look at what exists of it.

    A study that was launched before may be named alone: then its latest launch counts.
    """
    from workbench.launch.planning import make_facts

    study = named_study(parsed)
    if study is not None:
        from workbench.study.record import read_record, recorded_points

        return make_facts(recorded_points(read_record(default_layout(), study)))
    return make_facts([(point.name, point.config) for point in compose_points(parsed)])


def named_study(parsed: argparse.Namespace) -> str | None:
    """Name of a study where the command line gives nothing else."""
    return parsed.overrides[0] if len(parsed.overrides) == 1 and "=" not in parsed.overrides[0] else None


def worker_count(parsed: argparse.Namespace) -> int | None:
    """Stages at a time, as the launcher's config says."""
    from workbench.config.compose import composer

    with composer(parsed.experiments) as hydra:
        return hydra.workers(parsed.overrides)


def submits(parsed: argparse.Namespace) -> bool:
    """Whether the command line asks for a cluster."""
    from workbench.config.compose import composer

    study = named_study(parsed)
    if study is not None:
        from workbench.study.record import read_record

        return "hydra/launcher=slurm" in read_record(default_layout(), study).get("command", "")
    with composer(parsed.experiments) as hydra:
        return hydra.submits(parsed.overrides)


def default_layout() -> Layout:
    """Where the outputs lie when only a study is named."""
    from workbench.study.layout import Layout

    return Layout(Path(os.environ.get("WORKBENCH_OUTPUTS", Path(__file__).resolve().parents[2] / "outputs")))


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print left-aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
