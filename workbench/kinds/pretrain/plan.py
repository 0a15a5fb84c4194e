"""From a recipe to the stages of its phases."""

from __future__ import annotations

import math
from collections.abc import Callable

from workbench.config.schema import (
    Config,
    MixtureSegment,
    Parent,
    PhaseConfig,
    RecipeConfig,
    Schedule,
    Stage,
    StreamConfig,
    StreamSource,
    TrainingStage,
    exact_weights,
)
from workbench.data.corpus.referenced_tokens import refuse_mask
from workbench.data.mixture import drawn_sources
from workbench.data.packed_index import BEST_FIT, make_packing
from workbench.data.store import open_prepared
from workbench.data.stream import Stream, is_packed_for
from workbench.study.flops import budget_tokens, count_parameters
from workbench.study.identity import stage_id
from workbench.study.kind_plan import origin_after
from workbench.study.layout import Layout
from workbench.study.rules import learning_rate_rule


def expand(recipe: RecipeConfig, config: Config, before: list[Stage], data_fingerprint: str) -> list[Stage]:
    """Make a stage of each phase, each the parent of the next.

    Schedule, stream and milestones count from where the recipe begins: at 0, or at the end of what is `before`.

    Raises
    ------
    ValueError
        A phase is shorter than one optimizer step.
    """
    boundaries, origin = _boundaries(config), origin_after(before)
    peak = learning_rate_rule(config.optimizer, count_parameters(config.model).non_embedding)
    stages: list[Stage] = []
    mixture = [MixtureSegment(0, {name: source.weight for name, source in config.data.sources.items()})]
    for index, phase in enumerate(recipe.phases):
        start, end = boundaries[index], boundaries[index + 1]
        mixture = _extend_mixture(mixture, phase, start, config.model.context_tokens)
        parent = [*before, *stages][-1] if before or stages else None
        stages.append(
            TrainingStage(
                parent=None if parent is None else Parent(stage_id(parent), origin.tokens + start),
                model=config.model,
                stream=_stream(config, data_fingerprint, mixture),
                batch_sequences=recipe.batch_sequences * phase.batch_scale,
                schedule=_schedule(config, phase, peak, start, end, boundaries[-1]),
                optimizer=config.optimizer,
                precision=config.precision,
                seed_init=config.seed_init if parent is None else 0,
                origin=origin,
                name=phase.name,
                end_tokens=origin.tokens + end,
                milestones=[origin.tokens + tokens for tokens in _milestones(config, phase, start, end)],
                branch_points=[origin.tokens + end] if index + 1 < len(recipe.phases) else [],
                numerics=config.numerics,
                checkpoint=config.checkpoint,
                resources=config.resources,
            )
        )
    return stages


def prepare(stage: TrainingStage, config: Config, layout: Layout, say: Callable[[str], None]) -> None:
    """Pack the documents of the sources that a stage draws from into sequences, where its data are packed.

    Raises
    ------
    ValueError
        Nothing tells the documents of a source apart.
    """
    folder = layout.data(stage.data_fingerprint)
    if stage.stream.packing == BEST_FIT and (folder / "manifest.json").exists():
        drawn = drawn_sources(stage.stream.mixture)
        make_packing(open_prepared(folder), stage.stream.context_tokens, drawn, say)


def check(stage: TrainingStage, layout: Layout) -> None:
    """Refuse a stage that draws more than its prepared store has; one that is not prepared yet is not looked at.

    Raises
    ------
    ValueError
        It would repeat a source more than allowed: the source, the tokens needed and the tokens allowed. Or attention is
        to be confined to documents that cannot be told apart.
    """
    folder = layout.data(stage.data_fingerprint)
    if (folder / "manifest.json").exists():
        prepared = open_prepared(folder)
        refuse_mask(prepared.manifest, stage.stream)
        if is_packed_for(prepared, stage.stream):
            Stream(prepared, stage.stream).check(stage.sequences(stage.end_tokens))


def _boundaries(config: Config) -> list[int]:
    """Tokens since the recipe's beginning at which the phases begin, and the end."""
    boundaries, share, budget = [0], 0.0, budget_tokens(config)
    for phase in config.recipe.phases:
        batch_tokens = config.recipe.batch_sequences * phase.batch_scale * config.model.context_tokens
        share += phase.share
        steps = round((share * budget - boundaries[-1]) / batch_tokens)
        if steps < 1:
            raise ValueError(
                f"recipe phase {phase.name!r}, {phase.share:.0%} of {budget:.0f} tokens, is shorter than one step of "
                f"{batch_tokens} tokens ({config.recipe.batch_sequences * phase.batch_scale} sequences of "
                f"model.context_tokens={config.model.context_tokens}): raise tokens, or lower recipe.batch_sequences or "
                "model.context_tokens"
            )
        boundaries.append(boundaries[-1] + steps * batch_tokens)
    return boundaries


def _schedule(config: Config, phase: PhaseConfig, peak: float, start: int, end: int, budget: int) -> Schedule:
    warmup = config.recipe.warmup_tokens
    if phase.decay == "constant":
        return Schedule(peak=peak, warmup_tokens=warmup)
    begin, stop = (max(start, warmup), end) if phase.span == "phase" else (warmup, budget)
    if stop <= begin:
        raise ValueError(f"recipe phase {phase.name!r} ends at {stop} tokens, before its warm-up of {warmup}")
    return Schedule(peak, warmup, phase.decay, begin, stop - begin, phase.final_ratio)


def _extend_mixture(
    mixture: list[MixtureSegment], phase: PhaseConfig, start_tokens: int, context_tokens: int
) -> list[MixtureSegment]:
    if phase.mixture is None:
        return mixture
    segment = MixtureSegment(
        start_tokens // context_tokens, dict(phase.mixture), math.ceil(phase.ramp_tokens / context_tokens)
    )
    return [segment] if start_tokens == 0 else [*mixture, segment]


def _stream(config: Config, data_fingerprint: str, mixture: list[MixtureSegment]) -> StreamConfig:
    weights = {name: source.weight for name, source in config.data.sources.items()}
    unique = _divide(config.data.unique_tokens, weights, config.model.context_tokens)
    return StreamConfig(
        data_fingerprint=data_fingerprint,
        context_tokens=config.model.context_tokens,
        seed=config.seed_data,
        sources={
            name: StreamSource(unique.get(name, source.unique_tokens), source.max_epochs)
            for name, source in config.data.sources.items()
        },
        mixture=mixture,
        document_mask=config.data.document_mask,
        packing=config.data.packing,
    )


def _divide(unique_tokens: int | None, weights: dict[str, float], context_tokens: int) -> dict[str, int]:
    """Distinct tokens of each source, whole sequences, in the ratio of the weights.

    They are drawn in that ratio: `Config` refuses `data.unique_tokens` with phases that set a mixture.
    """
    if unique_tokens is None:
        return {}
    shares = exact_weights(weights)
    windows = {name: round(share * unique_tokens / context_tokens) for name, share in shares.items()}
    if min(windows.values()) < 1:
        raise ValueError(
            f"data.unique_tokens={unique_tokens} leaves a source less than one context of {context_tokens}"
        )
    return {name: count * context_tokens for name, count in windows.items()}


def _milestones(config: Config, phase: PhaseConfig, start: int, end: int) -> list[int]:
    """Tokens since the recipe's beginning whose checkpoints are kept and evaluated, including the phase's end."""
    batch_tokens = config.recipe.batch_sequences * phase.batch_scale * config.model.context_tokens
    wanted = [float(tokens) for tokens in config.recipe.milestones]
    if config.recipe.log_milestones:
        ratio = 2 ** (-1 / config.recipe.log_milestones)
        tokens = end * ratio
        while tokens > max(start, config.recipe.warmup_tokens):
            wanted.append(tokens)
            tokens *= ratio
    steps = {round((tokens - start) / batch_tokens) for tokens in wanted}
    return sorted({start + s * batch_tokens for s in steps if 0 < s * batch_tokens < end - start} | {end})
