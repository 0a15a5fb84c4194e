"""State of each stage of a plan, from its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from workbench.study.files import is_held
from workbench.study.layout import Layout, StageDir
from workbench.study.plan import Node, Plan, tokens_to_train


@dataclass(frozen=True)
class StageState:
    """One line of `workbench status`."""

    stage: str
    """Id."""
    label: str
    """Model and phase."""
    state: str
    """planned, running, finished, failed or killed."""
    tokens: int | None
    """Tokens of the latest checkpoint; None without one."""
    end_tokens: int
    """Target of this plan."""
    note: str | None
    """What went wrong in the latest attempt."""


def stage_states(plan: Plan, layout: Layout, existing: Mapping[str, Set[int]]) -> list[StageState]:
    """State of every stage: finished by its checkpoints, otherwise as its `status.json` says."""
    return [_state(node, layout.stage(node.id), existing[node.id]) for node in plan.nodes.values()]


def _state(node: Node, directory: StageDir, existing: Set[int]) -> StageState:
    latest: dict[str, Any] = {}
    if directory.status.exists():
        latest = json.loads(directory.status.read_text())
    done = tokens_to_train(node, existing) == 0
    state = "finished" if done else latest.get("state", "planned")
    if state == "finished" and not done:
        state = "planned"  # finished for an earlier, shorter target
    if state == "running" and not is_held(directory.lock):
        state = "killed"  # its process died without a word
    return StageState(
        node.id,
        f"{node.stage.model.name} {node.stage.name}",
        state,
        max(existing, default=None),
        node.stage.end_tokens,
        None if done else latest.get("error"),
    )
