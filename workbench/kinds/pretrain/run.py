"""The work of a pretraining stage."""

from __future__ import annotations

from workbench.train.job import StageJob
from workbench.train.loop import StageRun


def run(job: StageJob) -> None:
    """Train until every goal has a checkpoint."""
    StageRun(job).all_targets()
