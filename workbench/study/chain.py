"""From one sweep point to its stages, and what two points ask of one stage."""

from __future__ import annotations

from dataclasses import replace

from workbench.config.kind_registry import find_kind
from workbench.config.schema import Config, Stage, TrainingStage
from workbench.study.identity import stage_id
from workbench.study.kind_plan import needed

RECIPE = "pretrain"
"""Kind that a recipe's phases are of."""


def build_chain(config: Config, data_fingerprint: str) -> list[Stage]:
    """Expand a point into its stages: where it begins (`init`), its recipe's phases, and what comes after (`then`).

    Parameters
    ----------
    config
        The composed point.
    data_fingerprint
        Name of its token store.

    Returns
    -------
    list of Stage
        With this point's targets, each stage after those it reads. The last is what the point is about; its ancestors
        are the point's chain, and any other is read by one of them. Stages that the last does not need are left out.

    Raises
    ------
    ValueError
        A phase is shorter than one optimizer step, or a kind cannot follow what is before it.
    """
    stages: list[Stage] = []
    if config.init.kind != "none":
        stages += find_kind(config.init.kind).plan.expand(config.init, config, stages, data_fingerprint)
    if config.tokens != 0 and not any(settings.replaces_recipe for settings in config.then.values()):
        stages += find_kind(RECIPE).plan.expand(config.recipe, config, stages, data_fingerprint)
    for settings in config.then.values():
        stages += find_kind(settings.kind).plan.expand(settings, config, stages, data_fingerprint)
    return needed(stages)


def merge_targets(first: Stage, second: Stage) -> Stage:
    """One stage with the targets of both; they must be the same trajectory at equal numerics.

    Raises
    ------
    ValueError
        The two have different numerics: one trajectory is computed in one way.
    """
    if first.numerics != second.numerics:
        raise ValueError(
            f"stage {stage_id(first)} is needed with two numerics, {first.numerics} and {second.numerics}: "
            "numerics do not change a stage's id, so sweep them in studies of different outputs"
        )
    return replace(
        second,
        end_tokens=max(first.end_tokens, second.end_tokens),
        milestones=sorted({*first.milestones, *second.milestones}),
        branch_points=sorted({*first.branch_points, *second.branch_points}),
        read_points=sorted({*first.read_points, *second.read_points}),
    )


def is_annealed(stage: TrainingStage, tokens: int) -> bool:
    """Whether the learning rate's decay is complete at `tokens`."""
    schedule, done = stage.schedule, tokens - stage.origin.tokens
    return schedule.decay != "constant" and done == schedule.decay_start_tokens + schedule.decay_tokens
