"""Readable names of runs: what a stage is, and the overrides of the sweep in which it differs from others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.config.schema import Stage, TrainingStage

MAX_CHARACTERS = 100
"""Maximum length of a run's name; overrides that do not fit are cut."""
MAX_PHASE_CHARACTERS = 30
"""Maximum length of a phase within it."""
SEPARATOR = re.compile(r",(?=[+~\w./@]+=)")
"""Separator between two overrides of a point's name; values may contain commas themselves."""
ELSEWHERE = ("model", "tokens", "flops", "seed", "seed_init", "seed_data")
"""Overrides that a name shows in its other parts."""
SHORT = {"learning_rate": "rate", "batch_sequences": "batch", "unique_tokens": "unique"}
"""What a name calls them."""


def plain_name(stage: Stage, label: str, stage_id: str) -> str:
    """Name model, phase, tokens and seed of a stage, as `m0_1 cooldown 200K-250K s0 3fa2b1`."""
    return f"{label} {_tail(stage, '', stage_id)}"


def run_name(stage: Stage, label: str, stage_id: str, points: Sequence[Mapping[str, Any]]) -> str:
    """As `plain_name`, with the overrides between model and phase: `m0_1 gelu rate 0.004 cosine 250K s0 3fa2b1`.

    Parameters
    ----------
    stage, label, stage_id
        The stage, what its model is called, and its id.
    points
        Points through the stage, as `study.json` has them: what their names have in common is shown, and the seed of
        their initial weights where it differs from the data's.
    """
    seeds = {int(point["seed_init"]) for point in points}
    apart = isinstance(stage, TrainingStage) and len(seeds) == 1 and seeds != {stage.stream.seed}
    tail = _tail(stage, f" init{seeds.pop()}" if apart else _seed_of_points(stage, points), stage_id)
    overrides = common_overrides([str(point["name"]) for point in points])
    head = " ".join([label, *(text for override in overrides if (text := _describe(override)))])
    room = MAX_CHARACTERS - len(tail) - 1
    return f"{head if len(head) <= room else head[: room - 3].rstrip() + '...'} {tail}"


def _seed_of_points(stage: Stage, points: Sequence[Mapping[str, Any]]) -> str:
    """Seed of the data's order that all points through a stage have which draws no data itself."""
    if isinstance(stage, TrainingStage) or stage.parent is None:
        return ""
    seeds = {int(point["seed_data"]) for point in points}
    return f" s{seeds.pop()}" if len(seeds) == 1 else ""


def _tail(stage: Stage, seeds: str, stage_id: str) -> str:
    begin, end = tokens_label(stage.start_tokens), tokens_label(stage.end_tokens)
    span = f"{begin}-{end}" if stage.parent and begin != end else end
    seed = f" s{stage.stream.seed}{seeds}" if isinstance(stage, TrainingStage) else seeds
    phase = (stage.name or "stage")[:MAX_PHASE_CHARACTERS]
    return f"{phase} {span}{seed} {stage_id[:6]}"


def common_overrides(names: Sequence[str]) -> list[str]:
    """List the overrides that all of these points' names have, in the first one's order."""
    parts = [[part for part in SEPARATOR.split(name) if "=" in part] for name in names]
    return [part for part in parts[0] if all(part in other for other in parts)] if parts else []


def _describe(override: str) -> str:
    """One override in few words: `gelu`, `rate 0.004`, `unique 64K`; empty where the name shows it elsewhere."""
    key, value = override.lstrip("+~").split("=", 1)
    if key in ELSEWHERE:
        return ""
    last = key.split(".")[-1].split("/")[-1]
    if last == key and not _is_number(value):
        return value
    if last.endswith("tokens") and value.isdigit():
        value = tokens_label(int(value))
    return f"{SHORT.get(last, last)} {value}"


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def tokens_label(tokens: float) -> str:
    """Format tokens for a reader: 500K, 2M, 1.5B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"
