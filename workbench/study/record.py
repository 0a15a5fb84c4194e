"""A study's own record, `study.json`, read back."""

from __future__ import annotations

import json
from typing import Any

from workbench.config.schema import Config, from_dict
from workbench.study.layout import Layout


def read_record(layout: Layout, study: str) -> dict[str, Any]:
    """Read `study.json`.

    Raises
    ------
    ValueError
        There is none, or it is damaged.
    """
    path = layout.study_file(study)
    if not path.exists():
        raise ValueError(f"study {study!r} has no plan at {path}: run it first, or give its overrides")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def recorded_points(record: dict[str, Any]) -> list[tuple[str, Config]]:
    """Name and config of every point of the study's latest launch."""
    return [(point["name"], from_dict(Config, point["config"])) for point in record["points"]]


def milestone_tokens(record: dict[str, Any]) -> dict[str, list[int]]:
    """By stage: tokens of the checkpoints that the study wants evaluated."""
    return {stage: list(entry["wanted"]) for stage, entry in record["stages"].items()}
