"""The work of training at a longer context."""

from __future__ import annotations

from workbench.train.job import StageJob
from workbench.train.loop import StageRun


def run(job: StageJob) -> None:
    """Train until every goal has a checkpoint; the first step begins from the rescaled model's weights."""
    StageRun(job).all_targets()
