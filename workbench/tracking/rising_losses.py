"""Trainings that went wrong without stopping: the loss stayed finite, and rose."""

from __future__ import annotations

import json
import math
from pathlib import Path

from workbench.config.schema import TrainingStage
from workbench.study.layout import Layout
from workbench.study.study_plan import Plan
from workbench.tracking.spool import TRAIN_LOSS

_RISE = 1.1
"""Times its lowest that a loss may end at without a remark: a choice, no measurement."""
_ROWS = 2000
"""Rows of a stage that are looked at, evenly spaced."""
_WINDOWS = 20
"""Windows of equally many rows, whose means are compared."""
_FEWEST = 10
"""Rows of a window."""


def rising_losses(plan: Plan, layout: Layout) -> list[str]:
    """Lines on the stages whose training loss ended above guessing, or well above its lowest."""
    found: list[str] = []
    for node in plan.nodes.values():
        stage = node.stage
        if not isinstance(stage, TrainingStage):
            continue
        why = _why(stage, _losses(layout.stage(node.id).metrics))
        if why:
            rate, warmup = ("optimizer.learning_rate", "recipe.warmup_tokens")
            if not stage.follows_recipe:  # its kind's own settings
                rate, warmup = (f"learning_rate of its `{stage.kind}` under `then`", "warmup_tokens there")
            found.append(
                f"{stage.model.name} {stage.name} {node.id} went wrong, though its loss stayed finite: {why}; a lower "
                f"{rate} (its peak is {stage.schedule.peak:.3g}) or a longer {warmup} may help"
            )
    return found


def _why(stage: TrainingStage, losses: list[float]) -> str:
    size = max(_FEWEST, len(losses) // _WINDOWS)
    means = [sum(window) / size for i in range(0, len(losses) - size + 1, size) if (window := losses[i : i + size])]
    if len(means) < 2:
        return ""
    end = sum(losses[-size:]) / size
    guessing = math.log(stage.model.vocab_size)
    if end > guessing:
        return f"the training loss ended at {end:.4g} nats a token, above guessing ({guessing:.4g})"
    if len(stage.stream.mixture) == 1 and end > _RISE * min(means):  # another mixture has another loss
        return f"the training loss ended at {end:.3g} nats a token, after {min(means):.3g} before"
    return ""


def _losses(metrics: Path) -> list[float]:
    """Losses of a stage's rows, at most `_ROWS` of them; damaged lines are left out."""
    try:
        lines = metrics.read_bytes().splitlines()
    except OSError:
        return []
    losses: list[float] = []
    for line in lines[:: max(1, len(lines) // _ROWS)]:
        try:
            losses.append(float(json.loads(line)[TRAIN_LOSS]))
        except (ValueError, KeyError, TypeError):
            continue
    return [loss for loss in losses if math.isfinite(loss)]
