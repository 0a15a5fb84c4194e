"""Where a stage must have checkpoints, and which of them it lacks."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.config.schema import Stage
from workbench.study.layout import StageDir
from workbench.train import checkpoint as ckpt


def targets(stage: Stage) -> list[int]:
    """Tokens at which some launch so far wants a checkpoint of a stage."""
    return sorted({stage.end_tokens, *stage.milestones, *stage.branch_points})


def missing_targets(stage_dir: StageDir, goals: Sequence[int]) -> list[int]:
    """Give the targets without a complete checkpoint, in order."""
    present = ckpt.checkpoints_by_tokens(stage_dir)
    return [tokens for tokens in sorted(goals) if tokens not in present]


def keep_targets(stage_dir: StageDir, stage: Stage) -> None:
    """Protect from deletion every checkpoint that some launch wants."""
    present = ckpt.checkpoints_by_tokens(stage_dir)
    for tokens in set(targets(stage)) & set(present):
        ckpt.mark_kept(present[tokens])
