"""What fine-tuning needs and costs: which stage it is, its FLOPs, its memory and what it leaves on disk."""

from __future__ import annotations

from dataclasses import replace

from workbench.config.schema import (
    Config,
    LoraConfig,
    NumericsConfig,
    Parent,
    Schedule,
    Stage,
    StreamConfig,
    TrainingStage,
)
from workbench.kinds.sft.adapter_sizes import (
    adapted_matrices,
    adapter_parameters,
    check_adapters,
    four_bit_bytes,
    is_quantised,
)
from workbench.kinds.sft.preparation import context_of, conversations_of, setting_name
from workbench.kinds.sft.preparation import prepare as prepare
from workbench.kinds.sft.preparation import resolve as resolve
from workbench.kinds.sft.preparation import unprepared_bytes as unprepared_bytes
from workbench.kinds.sft.spec import Settings, Spec
from workbench.study.flops import count_parameters, forward_flops_per_token
from workbench.study.identity import stage_id
from workbench.study.kind_plan import main_line, origin_after
from workbench.study.layout import Layout
from workbench.study.memory import FP32, Adapters, Memory, state_bytes, weights_bytes
from workbench.study.resources import training_memory


def expand(settings: Settings, config: Config, before: list[Stage], data_fingerprint: str) -> list[Stage]:
    """Fine-tune the chain's last checkpoint, or the one at `at_tokens` of its recipe.

    Raises
    ------
    ValueError
        Nothing comes before, its recipe does not reach `at_tokens`, the training is shorter than one step, or adapters
        cannot be trained as asked for.
    """
    if not before:
        raise ValueError("then: sft needs weights to begin from: train some, or take a checkpoint from outside (init)")
    if settings.lora is not None and config.optimizer.kind != "adamw":
        raise ValueError(f"then: adapters are trained by AdamW, not by optimizer.kind={config.optimizer.kind!r}")
    foreign = [stage.name for stage in before if stage.kind not in ("pretrain", "imported")]
    if settings.at_tokens is not None and foreign:
        raise ValueError(
            f"then: at_tokens={settings.at_tokens} is a place in the recipe, but {foreign[0]!r} comes after it"
        )
    begin = before[-1] if settings.at_tokens is None else _stage_at(settings.at_tokens, before)
    if settings.lora is not None:
        where = setting_name(settings, config)
        check_adapters(where, settings.lora, begin.model, config.numerics, config.resources)
    context = context_of(settings, begin.model)
    name = conversations_of(settings, context)
    for suite in config.evaluation.suites.values():
        if suite.include_path == "conversations" and suite.conversations != name:
            raise ValueError(
                f"then: the sft begins from a model of another context ({begin.model.context_tokens}) than model.context_tokens="
                f"{config.model.context_tokens}: set its own context_tokens to at most that, so that both are scored on one"
            )
    steps = round(settings.tokens / (settings.batch_sequences * context))
    length = steps * settings.batch_sequences * context
    if not steps or settings.warmup_tokens >= length:
        raise ValueError(
            f"then: sft of tokens={settings.tokens} has {steps} steps of {settings.batch_sequences} x {context} tokens, "
            f"warm-up {settings.warmup_tokens}: raise tokens, or lower batch_sequences"
        )
    start = begin.end_tokens
    kept = [] if begin is before[-1] else [begin]
    origin = origin_after([*(stage for stage in before if stage_id(stage) != stage_id(begin)), begin])
    return [
        *kept,
        Spec(
            parent=Parent(stage_id(begin), start),
            model=begin.model,
            stream=StreamConfig(data_fingerprint, context, config.seed_data, {}, [], document_mask=True),
            batch_sequences=settings.batch_sequences,
            schedule=_schedule(settings, length),
            optimizer=replace(config.optimizer, learning_rate=settings.learning_rate),
            precision=config.precision,
            origin=origin,
            conversations=name,
            lora=settings.lora,
            chat=settings.chat,
            name=_stage_name(settings.lora),
            end_tokens=start + length,
            milestones=[start + length],
            numerics=_numerics(settings, config.numerics),
            checkpoint=config.checkpoint,
            resources=config.resources,
        ),
    ]


def _numerics(settings: Settings, asked: NumericsConfig) -> NumericsConfig:
    """How the stage is computed, where it cannot be as asked for.

    Other kernels of attention ask how many conversations share a sequence, which is not counted here, and torch.compile
    cannot look into the package that keeps matrices in 4 bits.
    """
    return replace(asked, attention="sdpa", compile=asked.compile and not is_quantised(settings.lora))


def _stage_name(lora: LoraConfig | None) -> str:
    if lora is None:
        return "chat"
    return f"chat r{lora.rank}" + (f" {lora.quantize}" if is_quantised(lora) else "")


def _stage_at(tokens: int, before: list[Stage]) -> TrainingStage:
    """Cut the stage of the recipe that trains through `tokens` there, where it is scored too."""
    line = [stage for _, stage in main_line(before) if isinstance(stage, TrainingStage) and stage.kind == "pretrain"]
    for stage in line:
        at = stage.origin.tokens + tokens
        # A budget that is rounded down to whole steps is reached all the same.
        if stage.start_tokens < at <= stage.end_tokens + stage.batch_tokens // 2:
            place = min(
                max(round((at - stage.start_tokens) / stage.batch_tokens), 1),
                (stage.end_tokens - stage.start_tokens) // stage.batch_tokens,
            )
            at = stage.start_tokens + place * stage.batch_tokens
            kept = [tokens for tokens in stage.milestones if tokens < at]
            return replace(stage, end_tokens=at, milestones=[*kept, at], branch_points=[], read_points=[at])
    raise ValueError(f"then: at_tokens={tokens} is beyond the recipe's end")


def _schedule(settings: Settings, length: int) -> Schedule:
    if settings.decay == "constant":
        return Schedule(settings.learning_rate, settings.warmup_tokens)
    return Schedule(
        settings.learning_rate,
        settings.warmup_tokens,
        settings.decay,
        settings.warmup_tokens,
        length - settings.warmup_tokens,
        settings.final_ratio,
    )


def flops_per_token(stage: Spec) -> int:
    """Count FLOPs of forward and backward at the packed context; of frozen matrices no gradient is computed.

    Adapters cost six operations a parameter, frozen matrices four in place of six; the head is always whole.
    """
    model = replace(stage.model, context_tokens=stage.stream.context_tokens)
    whole = 3 * forward_flops_per_token(model)
    if stage.lora is None:
        return whole
    attention = 12 * model.num_layers * model.context_tokens * model.width
    head = 6 * model.vocab_size * model.width
    matrices = whole - attention - head
    # Nothing before the first queries, keys and values is trained.
    first = 2 * model.width * (model.width + 2 * model.num_kv_heads * model.head_width)
    return (
        matrices * 2 // 3
        - first
        + attention
        + head
        + 6 * adapter_parameters(model, stage.lora.targets, stage.lora.rank)
    )


def checkpoint_bytes(stage: Spec, *, whole: bool) -> int:
    """Bytes of a checkpoint: the merged model, and of adapters alone what resuming needs."""
    params = count_parameters(stage.model).total
    if stage.lora is None:
        return state_bytes(params) if whole else weights_bytes(params)
    adapters = adapter_parameters(stage.model, stage.lora.targets, stage.lora.rank)
    return weights_bytes(params) + FP32 * adapters * (3 if whole else 1)


def process_memory(stage: Spec, processes: int, micro_batch_sequences: int, device: str) -> Memory:
    """Estimate the peak of a process that trains all weights, or adapters beside frozen ones."""
    if stage.lora is None:
        return training_memory(stage, processes, micro_batch_sequences, device)
    count = adapter_parameters(stage.model, stage.lora.targets, stage.lora.rank)
    adapters = Adapters(count, stage.lora.rank, tuple(stage.lora.targets))
    memory = training_memory(stage, processes, micro_batch_sequences, device, adapters)
    if not uses_four_bit(stage):
        return memory
    sizes = adapted_matrices(stage.model, stage.lora.targets)
    weights = stage.model.num_layers * sum(sizes)
    saved = FP32 * weights - four_bit_bytes(weights)
    # One matrix at a time is whole, in fp32 and as it is multiplied.
    total = memory.total - saved + 2 * FP32 * max(sizes)
    return replace(memory, parameters=memory.parameters - saved, total=total)


def uses_four_bit(stage: Spec) -> bool:
    """Whether the frozen matrices that have adapters are kept in 4 bits."""
    return is_quantised(stage.lora)


def check_here(stage: Spec) -> None:
    """Refuse matrices in 4 bits where this machine, which is to train, cannot keep them.

    Raises
    ------
    ValueError
        The package for it is missing, or does not work on the stage's device.
    """
    if uses_four_bit(stage):
        from workbench.model.four_bit import check_four_bit
        from workbench.train.loop import stage_device

        check_four_bit(stage_device(stage))


def check(stage: Spec, layout: Layout) -> None:
    """Refuse a training that repeats conversations more often than allowed; what is not prepared is not looked at."""
    from workbench.data.chat_store import find_named
    from workbench.data.chat_stream import ChatStream

    store = find_named(stage.conversations, stage.data_fingerprint, layout)
    if store is not None:
        limit = stage.chat.max_epochs
        ChatStream(store, stage.stream.seed, limit).check(stage.sequences(stage.end_tokens))
