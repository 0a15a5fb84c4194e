"""From a model to the same with a longer context, and its further training."""

from __future__ import annotations

from workbench.config.schema import (
    Config,
    MixtureSegment,
    Parent,
    Schedule,
    Stage,
    StreamConfig,
    StreamSource,
    TrainingStage,
)
from workbench.kinds.extend.spec import Settings, Spec
from workbench.kinds.pretrain.plan import check as check
from workbench.kinds.pretrain.plan import prepare as prepare
from workbench.kinds.rescale import plan as rescale
from workbench.study.flops import count_parameters
from workbench.study.identity import stage_id
from workbench.study.kind_plan import origin_after
from workbench.study.rules import learning_rate_rule


def expand(settings: Settings, config: Config, before: list[Stage], data_fingerprint: str) -> list[Stage]:
    """Make the stage of the rescaled model and, where `tokens` is above 0, that of its training.

    Stream, schedule and optimizer begin anew where the training does.

    Raises
    ------
    ValueError
        As `workbench.kinds.rescale.plan.expand`, or `tokens` is less than one step.
    """
    stages = rescale.expand(settings, config, before, data_fingerprint)
    if settings.tokens:
        stages.append(_training(settings, config, [*before, *stages], data_fingerprint))
    return stages


def _training(settings: Settings, config: Config, before: list[Stage], data_fingerprint: str) -> Spec:
    parent = before[-1]
    batch = settings.batch_sequences or _same_tokens(config, before[-2].model.context_tokens, settings.context_tokens)
    tokens = _whole_steps(settings, batch)
    return Spec(
        parent=Parent(stage_id(parent), parent.end_tokens),
        model=parent.model,
        stream=_stream(settings, config, before, data_fingerprint),
        batch_sequences=batch,
        schedule=_schedule(settings, config, tokens, count_parameters(parent.model).non_embedding),
        optimizer=config.optimizer,
        precision=config.precision,
        origin=origin_after(before),
        name=f"{parent.name} trained",
        end_tokens=parent.end_tokens + tokens,
        milestones=[parent.end_tokens + tokens],
        numerics=config.numerics,
        checkpoint=config.checkpoint,
        resources=config.resources,
    )


def _same_tokens(config: Config, old: int, new: int) -> int:
    """Sequences of the new context with about as many tokens as the recipe's of the old one."""
    return max(1, round(config.recipe.batch_sequences * old / new))


def _whole_steps(settings: Settings, batch_sequences: int) -> int:
    batch_tokens = batch_sequences * settings.context_tokens
    steps = round(settings.tokens / batch_tokens)
    if steps < 1 or settings.warmup_tokens >= steps * batch_tokens:
        raise ValueError(
            f"then: tokens={settings.tokens} at context_tokens={settings.context_tokens} is {steps} steps of "
            f"{batch_tokens} tokens, with warmup_tokens={settings.warmup_tokens}: raise tokens, or lower batch_sequences"
        )
    return steps * batch_tokens


def _schedule(settings: Settings, config: Config, tokens: int, params_non_embedding: int) -> Schedule:
    rate = settings.learning_rate
    peak = learning_rate_rule(config.optimizer, params_non_embedding) if rate is None else rate
    warmup = settings.warmup_tokens
    if settings.decay == "constant":
        return Schedule(peak=peak, warmup_tokens=warmup)
    return Schedule(peak, warmup, settings.decay, warmup, tokens - warmup, settings.final_ratio)


def _stream(settings: Settings, config: Config, before: list[Stage], data_fingerprint: str) -> StreamConfig:
    """Draw from the sources of the last training on the study's own data, as it mixed them at its end; else as the study does."""
    trainings = [stage for stage in before if isinstance(stage, TrainingStage)]
    # Not of fine-tuning, whose sequences come from conversations and not from sources.
    streams = [s.stream for s in trainings if s.stream.data_fingerprint == data_fingerprint and s.stream.sources]
    sources = {name: StreamSource(s.unique_tokens, s.max_epochs) for name, s in config.data.sources.items()}
    weights = {name: source.weight for name, source in config.data.sources.items()}
    return StreamConfig(
        data_fingerprint=data_fingerprint,
        context_tokens=settings.context_tokens,
        seed=config.seed_data,
        sources=streams[-1].sources if streams else sources,
        mixture=[MixtureSegment(0, streams[-1].mixture[-1].weights if streams else weights)],
        document_mask=config.data.document_mask,
        packing=config.data.packing,
    )
