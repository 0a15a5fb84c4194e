"""A study's own record, `study.json`, read back."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from typing import Any

from workbench.config.plain import Built
from workbench.config.schema import Config, from_dict
from workbench.study.files import exclusive, write_atomically
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
        known = sorted(found.parent.name for found in (layout.root / "studies").glob("*/study.json"))
        close = difflib.get_close_matches(study, known, 1)
        guess = f": did you mean {close[0]}?" if close else f": launched are {', '.join(known)}" if known else ""
        raise ValueError(
            f"no study {study!r} was launched into {layout.root}{guess} (a first launch is "
            f"`workbench run experiments={study}`)"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def change_record(layout: Layout, study: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Read `study.json`, change it and replace it whole, under a lock: of two writers none loses the other's change.

    Parameters
    ----------
    layout, study
        Where the record is, or is to be.
    change
        Given the record, empty where there is none, it returns the new one.

    Raises
    ------
    ValueError
        The record is damaged.
    """
    path = layout.study_file(study)
    # Not on the file itself, which is replaced: a lock on it would be one on the old file.
    with exclusive(path.with_name("study.lock")):
        record = change(read_record(layout, study) if path.exists() else {})
        write_atomically(path, json.dumps(record, indent=1))


def recorded_points(record: dict[str, Any]) -> list[tuple[str, Config]]:
    """Name and config of every point of the study's latest launch."""
    shared: dict[tuple[str, str], Any] = {}
    built: Built = {}

    def read(config: dict[str, Any]) -> Config:
        """Build what several points have alike once."""
        parts = {name: shared.setdefault((name, json.dumps(value)), value) for name, value in config.items()}
        return from_dict(Config, parts, built=built)

    return [(point["name"], read(point["config"])) for point in record["points"]]


def recorded_fingerprints(record: dict[str, Any]) -> list[str]:
    """Fingerprint of the data of every point of the study's latest launch."""
    return [point.get("data_fingerprint") or _first_stages_data(record, point) for point in record["points"]]


def _first_stages_data(record: dict[str, Any], point: dict[str, Any]) -> str:
    """As records had it before points had their own, when every stage was one of pretraining."""
    return record["stages"][point["chain"][0]["stage"]]["stage"]["stream"]["data_fingerprint"]


def milestone_tokens(record: dict[str, Any]) -> dict[str, list[int]]:
    """By stage: tokens of the checkpoints that the study wants evaluated."""
    return {stage: list(entry["wanted"]) for stage, entry in record["stages"].items()}
