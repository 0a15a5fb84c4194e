"""What fine-tuning needs: conversations, prepared with the tokenizer of the study's data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from workbench.config.schema import (
    CHAT_TEMPLATES,
    Config,
    LoraConfig,
    ModelConfig,
    Parent,
    Schedule,
    Stage,
    StreamConfig,
    TokenizerConfig,
    TrainingStage,
)
from workbench.kinds.sft.spec import Settings, Spec
from workbench.study.flops import count_parameters, forward_flops_per_token
from workbench.study.identity import stage_id
from workbench.study.kind_plan import main_line, origin_after
from workbench.study.layout import Layout
from workbench.study.memory import FP32, Adapters, Memory, state_bytes, weights_bytes
from workbench.study.resources import training_memory

_QUESTIONS_BYTES = 1_900_000
"""Of the conversations that this project makes itself, with Python 3.11."""


def resolve(settings: Settings, config: Config) -> tuple[Settings, Config]:
    """Read what the conversations are, and have suites of conversations score the held-out ones.

    Raises
    ------
    ValueError
        A file is missing, or the tokenizer has no template where its own is asked for.
    """
    from workbench.data.chat_store import files_fingerprint

    template = _tokenizer_template(config.tokenizer) if settings.chat.template == "tokenizer" else None
    settings = replace(settings, fingerprint=files_fingerprint(settings.chat), tokenizer_template=template)
    name = _conversations(settings, config.model)
    suites = {
        key: replace(suite, conversations=name) if suite.include_path == "conversations" else suite
        for key, suite in config.evaluation.suites.items()
    }
    return settings, replace(config, evaluation=replace(config.evaluation, suites=suites))


def _tokenizer_template(tokenizer: TokenizerConfig) -> str:
    from workbench.data.special_tokens import own_template

    found = own_template(tokenizer)
    if found is None:
        which = "the tokenizer that is trained here" if tokenizer.kind == "bpe" else tokenizer.path
        built_in = ", ".join(name for name in CHAT_TEMPLATES if name != "tokenizer")
        raise ValueError(
            f"then: {which} has no chat_template: set chat.template to one of {built_in}, or tokenizer.path to a tokenizer "
            "with one"
        )
    return found


def _conversations(settings: Settings, model: ModelConfig) -> str:
    return _conversations_at(settings, _context(settings, model))


def _conversations_at(settings: Settings, context: int) -> str:
    from workbench.data.chat_store import conversations_name

    assert settings.fingerprint is not None
    return conversations_name(settings.chat, settings.fingerprint, context, settings.tokenizer_template)


def _context(settings: Settings, model: ModelConfig) -> int:
    asked = settings.context_tokens or model.context_tokens
    if asked > model.context_tokens:
        raise ValueError(f"then: context_tokens={asked} is longer than model.context_tokens={model.context_tokens}")
    return asked


def expand(settings: Settings, config: Config, before: list[Stage], data_fingerprint: str) -> list[Stage]:
    """Fine-tune the chain's last checkpoint, or the one at `at_tokens` of its recipe.

    Raises
    ------
    ValueError
        Nothing comes before, its recipe does not reach `at_tokens`, or the training is shorter than one step.
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
    context = _context(settings, begin.model)
    name = _conversations(settings, begin.model)
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
            # torch.compile cannot look into the package that keeps matrices in 4 bits.
            numerics=replace(config.numerics, compile=config.numerics.compile and not _is_quantised(settings.lora)),
            checkpoint=config.checkpoint,
            resources=config.resources,
        ),
    ]


def _is_quantised(lora: LoraConfig | None) -> bool:
    return lora is not None and lora.quantize != "none"


def _stage_name(lora: LoraConfig | None) -> str:
    if lora is None:
        return "chat"
    return f"chat r{lora.rank}" + (f" {lora.quantize}" if _is_quantised(lora) else "")


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


def adapter_parameters(model: ModelConfig, targets: list[str], rank: int) -> int:
    """Count the parameters of the adapters of a model."""
    keys, width, hidden = model.num_kv_heads * model.head_width, model.width, model.mlp_width
    sizes = {
        "q_proj": width + width,
        "k_proj": width + keys,
        "v_proj": width + keys,
        "o_proj": width + width,
        "gate_proj": width + hidden,
        "up_proj": width + hidden,
        "down_proj": hidden + width,
    }
    return model.num_layers * rank * sum(sizes[target] for target in targets)


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
    return _is_quantised(stage.lora)


def four_bit_bytes(weights: int) -> int:
    """Bytes of weights in NF4: 4 bits each, and a magnitude in fp32 for every 64."""
    return weights // 2 + FP32 * (-(-weights // 64))


def adapted_matrices(model: ModelConfig, targets: list[str]) -> list[int]:
    """Count the weights of each of a block's matrices, fused as they are kept, that have an adapter on some rows."""
    keys, width, hidden = model.num_kv_heads * model.head_width, model.width, model.mlp_width
    gate_up = {"gate_proj": hidden, "up_proj": hidden} if model.mlp == "swiglu" else {"up_proj": hidden}
    matrices = [
        (width, {"q_proj": width, "k_proj": keys, "v_proj": keys}),
        (width, {"o_proj": width}),
        (width, gate_up),
        (hidden, {"down_proj": width}),
    ]
    return [inputs * sum(rows.values()) for inputs, rows in matrices if rows.keys() & set(targets)]


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


def prepare(stage: Spec, config: Config, layout: Layout, say: Callable[[str], None]) -> None:
    """Render, tokenize and pack the conversations, once for each tokenizer.

    Raises
    ------
    ValueError
        A file has changed since the study was planned, or no conversation fits.
    """
    from workbench.data.chat_store import prepare_named

    context = stage.stream.context_tokens
    settings = next(
        s
        for s in config.then.values()
        if isinstance(s, Settings)
        and s.fingerprint is not None
        and _conversations_at(replace(s, chat=stage.chat), context) == stage.conversations
    )
    files, template = cast(str, settings.fingerprint), settings.tokenizer_template
    prepare_named(stage.chat, files, stage.data_fingerprint, context, layout, say, template)


def unprepared_bytes(stage: Spec, layout: Layout) -> dict[str, int]:
    """Bytes of the conversations' files; compressed ones hold some four times as much text."""
    from workbench.data.chat_store import find_named
    from workbench.data.conversations import find_files

    if find_named(stage.conversations, stage.data_fingerprint, layout) is not None:
        return {}
    name = f"{stage.data_fingerprint}-{stage.conversations}"
    if stage.chat.kind == "python_questions":
        return {name: _QUESTIONS_BYTES}
    sizes = [
        path.stat().st_size * (4 if path.suffix in (".gz", ".zst", ".parquet") else 1)
        for path in find_files(stage.chat)
    ]
    return {name: sum(sizes)}


def check(stage: Spec, layout: Layout) -> None:
    """Refuse a training that repeats conversations more often than allowed; what is not prepared is not looked at."""
    from workbench.data.chat_store import find_named
    from workbench.data.chat_stream import ChatStream

    store = find_named(stage.conversations, stage.data_fingerprint, layout)
    if store is not None:
        limit = stage.chat.max_epochs
        ChatStream(store, stage.stream.seed, limit).check(stage.sequences(stage.end_tokens))
