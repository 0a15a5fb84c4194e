"""What several verbs need: composing a study, and printing a table."""

from __future__ import annotations

import argparse
import json
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
    """The study and what exists of it."""
    from workbench.launch.planning import make_facts

    return make_facts([(point.name, point.config) for point in compose_points(parsed)])


def worker_count(parsed: argparse.Namespace) -> int | None:
    """Stages at a time, as the launcher's config says."""
    from workbench.config.compose import composer

    with composer(parsed.experiments) as hydra:
        return hydra.workers(parsed.overrides)


def default_layout() -> Layout:
    """Where the outputs lie when only a study is named."""
    from workbench.study.layout import Layout

    return Layout(Path(os.environ.get("WORKBENCH_OUTPUTS", Path(__file__).resolve().parents[1] / "outputs")))


def recorded_uri(layout: Layout, study: str) -> str | None:
    """Tracking URI in a study's own record."""
    path = layout.study_file(study)
    if not path.exists():
        raise ValueError(f"study {study!r} has no plan at {path}: run it first, or give its overrides")
    return json.loads(path.read_text())["points"][0]["config"]["tracking"]["uri"]


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print left-aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
