"""Where a stage must have checkpoints, which of them it lacks, and which of them it must be able to resume from."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.config.schema import Stage, TrainingStage
from workbench.study.chain import is_annealed
from workbench.study.kind_plan import standing_tokens
from workbench.study.layout import StageDir
from workbench.train import checkpoint as ckpt
from workbench.train.clearing import delete_superseded, drop_optimizers


def targets(stage: Stage) -> list[int]:
    """Tokens at which some launch so far wants a checkpoint of a stage."""
    return stage.targets


def missing_targets(stage_dir: StageDir, stage: Stage, goals: Sequence[int] | None = None) -> list[int]:
    """Give the goals without a complete checkpoint, in order.

    A branch point is missing too where its checkpoint holds weights alone: another stage will start from it.

    Parameters
    ----------
    stage_dir, stage
        The stage, with the branch points of every launch.
    goals
        Tokens; None takes all targets.
    """
    found, weights_only = ckpt.list_tokens(stage_dir)
    settled = standing_tokens(stage, stage_dir, found) - (weights_only & set(stage.branch_points))
    return [tokens for tokens in sorted(targets(stage) if goals is None else goals) if tokens not in settled]


def keep_targets(stage_dir: StageDir, stage: Stage) -> None:
    """Protect from deletion every checkpoint that some launch wants."""
    present = ckpt.checkpoints_by_tokens(stage_dir)
    for tokens in set(targets(stage)) & set(present):
        ckpt.mark_kept(present[tokens])


def whole_targets(stage: Stage) -> set[int]:
    """Targets whose checkpoints keep the optimizer's state once the stage has reached all of them.

    Branch points, where other stages begin; and the end, from which a longer budget continues. The end of a decay is no
    such place: no budget is longer without being another trajectory. It still stays whole where the stage begins from
    initial weights, since all of it would have to be trained again for a stage that is one day to begin there;
    elsewhere that is only this stage, from its parent's branch point.
    """
    trains = isinstance(stage, TrainingStage)
    ends_for_good = not trains or (stage.parent is not None and is_annealed(stage, stage.end_tokens))
    return set(stage.branch_points) | (set() if ends_for_good else {stage.end_tokens})


def clear_superseded(stage_dir: StageDir, stage: Stage, goals: Sequence[int]) -> None:
    """Delete checkpoints that nothing needs, and the optimizer's state of milestones that nothing resumes from.

    The caller holds the stage's lock. While goals are missing, the latest `checkpoint.keep_last` are resumed from,
    whatever they are; afterwards only what `whole_targets` says, and the furthest, so that any goal beyond is near.

    Parameters
    ----------
    stage_dir, stage
        The stage, with the targets of every launch.
    goals
        Targets of this launch.
    """
    keep_targets(stage_dir, stage)
    present = ckpt.checkpoints_by_tokens(stage_dir)
    if missing_targets(stage_dir, stage, goals):
        delete_superseded(stage_dir, stage.checkpoint.keep_last)
        drop_optimizers(stage_dir, _needed(stage_dir, stage), stage.checkpoint.keep_last)
    else:
        end = ckpt.checkpoint_step(present[max(goals)])
        delete_superseded(stage_dir, stage.checkpoint.keep_last, before_step=end)
        drop_optimizers(stage_dir, _needed(stage_dir, stage), 0)


def _needed(stage_dir: StageDir, stage: Stage) -> set[int]:
    whole = whole_targets(stage)
    furthest = max(ckpt.checkpoints_by_tokens(stage_dir, resumable=True), default=stage.end_tokens)
    over = stage.end_tokens not in whole and stage.end_tokens in ckpt.checkpoints_by_tokens(stage_dir)
    return whole if over else whole | {furthest}
