"""What an average needs: its parent's checkpoints, some of which that stage would not keep otherwise."""

from __future__ import annotations

from dataclasses import replace

from workbench.config.schema import Config, Parent, Stage, TrainingStage
from workbench.kinds.average.spec import Settings, Spec
from workbench.study.identity import stage_id


def expand(settings: Settings, config: Config, before: list[Stage], data_fingerprint: str) -> list[Stage]:
    """Average checkpoints of the last stage, which has to keep them.

    Raises
    ------
    ValueError
        There is no training before, or it has fewer steps than checkpoints are asked for.
    """
    last = before[-1] if before else None
    if not isinstance(last, TrainingStage):
        raise ValueError("then: an average is of a training's checkpoints, but none comes before it")
    tokens = _spread(settings, last)
    identifier = stage_id(last)
    return [
        replace(last, read_points=sorted({*last.read_points, *tokens})),
        Spec(
            parent=Parent(identifier, last.end_tokens),
            inputs={f"checkpoint_{place}": Parent(identifier, at) for place, at in enumerate(tokens[:-1], start=1)},
            model=last.model,
            weights=_weights(settings),
            data=data_fingerprint,
            name="average",
            end_tokens=last.end_tokens,
            milestones=[last.end_tokens],
            numerics=config.numerics,
            checkpoint=config.checkpoint,
            resources=config.resources,
        ),
    ]


def _spread(settings: Settings, stage: TrainingStage) -> list[int]:
    """Tokens of the checkpoints, in whole steps, the last at the stage's end."""
    steps = (stage.end_tokens - stage.start_tokens) // stage.batch_tokens
    apart = settings.span * steps / (settings.checkpoints - 1)
    places = [steps - round(apart * n) for n in range(settings.checkpoints - 1, -1, -1)]
    if len(set(places)) < len(places) or places[0] < 1:
        raise ValueError(
            f"then: an average of checkpoints={settings.checkpoints} over span={settings.span:g} of stage "
            f"{stage.name!r} needs more than its {steps} steps: ask for fewer, or a longer span"
        )
    return [stage.start_tokens + place * stage.batch_tokens for place in places]


def _weights(settings: Settings) -> list[float]:
    ratio = 1.0 if settings.weighting == "uniform" else settings.decay
    raw = [ratio**n for n in range(settings.checkpoints - 1, -1, -1)]
    return [weight / sum(raw) for weight in raw]
