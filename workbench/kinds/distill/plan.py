"""What a distillation needs: its teacher, which other points may train too, and a forward pass of it for every token."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from workbench.config.schema import Config, InitConfig, ModelConfig, Parent, Stage, TrainingStage
from workbench.data.corpus.referenced_tokens import refuse_mask
from workbench.data.store import open_prepared
from workbench.data.stream import Stream, is_packed_for
from workbench.kinds.distill.spec import Settings, Spec, TeacherSettings, describe
from workbench.kinds.imported import plan as imported
from workbench.kinds.logits.plan import check_vocabulary, kept_for, name_vocabulary
from workbench.kinds.logits.spec import Spec as LogitsSpec
from workbench.kinds.pretrain import plan as pretrain
from workbench.kinds.pretrain.plan import prepare as prepare
from workbench.study.chain import build_chain, merge_targets
from workbench.study.flops import forward_flops_per_token, training_flops_per_token
from workbench.study.identity import stage_id
from workbench.study.layout import Layout
from workbench.study.memory import FP32, forward_bytes, loss_rows


def resolve(settings: Settings, config: Config) -> tuple[Settings, Config]:
    """Read model, tokenizer and fingerprint of a teacher from outside.

    Raises
    ------
    ValueError
        There is no such checkpoint, it cannot be represented, or its context is shorter than the student's.
    """
    if settings.teacher.path is None or settings.alpha == 0:
        return settings, config
    init = replace(_as_init(settings.teacher), context_tokens=config.model.context_tokens)
    found, point = imported.resolve(init, config)
    assert point.tokenizer.path is not None
    teacher = replace(
        settings.teacher,
        model=point.model,
        revision=found.revision,
        fingerprint=found.fingerprint,
        vocabulary=name_vocabulary(Path(point.tokenizer.path)),
        licence=found.licence,
    )
    return replace(settings, teacher=teacher), config


def _as_init(teacher: TeacherSettings) -> InitConfig:
    return InitConfig(
        kind="imported",
        path=teacher.path,
        revision=teacher.revision,
        tokens=teacher.tokens,
        fingerprint=teacher.fingerprint,
        licence=teacher.licence,
    )


def expand(settings: Settings, config: Config, before: list[Stage], data_fingerprint: str) -> list[Stage]:
    """Make the teacher's stages, where it is trained here, and a distilled stage of each of the recipe's phases.

    With `alpha` 0 the phases are those of plain training, and shared with points that train so.

    Raises
    ------
    ValueError
        The student is to be fresh and something is before it, teacher and student do not fit, or a phase is shorter than
        one step.
    """
    if settings.student == "fresh" and before:
        raise ValueError(
            f"then: student=fresh begins from initial weights, but {before[-1].name!r} comes before it: set student=chain"
        )
    budget = replace(config, tokens=_tokens(settings, config), flops=None)
    phases = pretrain.expand(config.recipe, budget, before, data_fingerprint)
    if settings.alpha == 0:
        return phases
    _refuse_misfit(_teacher_model(settings), config.model, settings.teacher.top_k)
    teacher = _teacher_stages(settings.teacher, config, data_fingerprint)
    kept = _kept(phases, teacher[-1], settings.teacher)
    distilled: list[Stage] = []
    for phase, logits in zip(phases, kept or [None] * len(phases), strict=True):
        parent = phase.parent
        if distilled and parent:
            parent = Parent(stage_id(distilled[-1]), parent.tokens)
        distilled.append(_distilled(phase, parent, teacher[-1], settings, logits))
    return [*_with_targets_of(before, teacher), *kept, *distilled]


def _kept(phases: list[Stage], teacher: Stage, settings: TeacherSettings) -> list[LogitsSpec]:
    """Give the stage that keeps the logits of each phase; none where the teacher is asked anew."""
    if settings.top_k is None:
        return []
    trainings = [phase for phase in phases if isinstance(phase, TrainingStage)]
    return kept_for(trainings, teacher, settings.top_k, settings.vocabulary)


def _with_targets_of(before: list[Stage], teacher: list[Stage]) -> list[Stage]:
    """Give a teacher's stages that the chain has too the targets of both: the later of equal ids counts."""
    known = {stage_id(stage): stage for stage in before}
    return [merge_targets(known.get(stage_id(stage), stage), stage) for stage in teacher]


def _tokens(settings: Settings, config: Config) -> int:
    """Budget of the distillation in tokens."""
    if settings.tokens is not None:
        return settings.tokens
    if config.flops is not None:
        own = training_flops_per_token(config.model)
        asks = settings.alpha and settings.teacher.top_k is None
        return int(config.flops / (own + (forward_flops_per_token(_teacher_model(settings)) if asks else 0)))
    if not config.tokens:
        raise ValueError("then: tokens=0 trains nothing before the distillation: set its own tokens")
    return config.tokens


def _teacher_model(settings: Settings) -> ModelConfig:
    assert settings.teacher.model is not None, "resolve has read a checkpoint's"
    return settings.teacher.model


def _refuse_misfit(teacher: ModelConfig, student: ModelConfig, top_k: int | None) -> None:
    """Refuse a teacher that lacks some of the student's ids, or sees other sequences; rows beyond the ids are padding."""
    if teacher.vocab_size < student.vocab_size:
        raise ValueError(
            f"then: teacher {teacher.name!r} has model.vocab_size={teacher.vocab_size} and the student "
            f"{student.vocab_size}: they need one tokenizer"
        )
    if teacher.context_tokens != student.context_tokens:
        raise ValueError(
            f"then: teacher {teacher.name!r} has model.context_tokens={teacher.context_tokens} and the student "
            f"{student.context_tokens}: set teacher.model.context_tokens to ${{model.context_tokens}}"
        )

    if top_k is not None and top_k > student.vocab_size:
        raise ValueError(
            f"then: teacher.top_k={top_k} is more than the {student.vocab_size} ids of model.vocab_size: lower it"
        )


def _teacher_stages(teacher: TeacherSettings, config: Config, data_fingerprint: str) -> list[Stage]:
    """Make the teacher's chain, which is that of a point of its model and tokens, or a checkpoint from outside."""
    assert teacher.model is not None
    assert teacher.tokens is not None
    if teacher.path is not None:
        init = _as_init(teacher)
        return imported.expand(init, replace(config, model=teacher.model, init=init), [], data_fingerprint)
    try:
        point = replace(config, model=teacher.model, tokens=teacher.tokens, flops=None, init=InitConfig(), then={})
        return build_chain(point, data_fingerprint)
    except ValueError as error:
        raise ValueError(f"then: teacher {teacher.model.name!r}: {error}") from error


def _distilled(phase: Stage, parent: Parent | None, teacher: Stage, settings: Settings, logits: Stage | None) -> Spec:
    assert isinstance(phase, TrainingStage)
    values = {f.name: getattr(phase, f.name) for f in fields(phase) if f.name != "kind"}
    values |= {
        "parent": parent,
        "inputs": {"teacher": Parent(stage_id(teacher), teacher.end_tokens)},
        "name": f"{describe(settings.alpha, settings.temperature, settings.teacher.top_k)} {phase.name}",
    }
    return Spec(
        **values,
        alpha=settings.alpha,
        temperature=settings.temperature,
        teacher=teacher.model,
        top_k=settings.teacher.top_k,
        logits=None if logits is None else stage_id(logits),
        vocabulary=settings.teacher.vocabulary,
    )


def flops_per_token(stage: Spec) -> int:
    """Count the student's training, and a forward pass of the teacher, unless that is another stage's."""
    if stage.top_k is not None:
        return training_flops_per_token(stage.model)
    return training_flops_per_token(stage.model) + forward_flops_per_token(stage.teacher)


def held_bytes(stage: Spec, micro_batch_sequences: int, device: str) -> int:
    """Count the teacher's weights and forward pass, which are whole on every process; or the logits kept of a batch."""
    if stage.top_k is not None:
        return _kept_bytes(stage, micro_batch_sequences, device)
    return forward_bytes(
        stage.teacher,
        micro_batch_sequences=micro_batch_sequences,
        precision=stage.precision,
        attention=stage.numerics.attention,
        device=device,
    )


def _kept_bytes(stage: Spec, micro_batch_sequences: int, device: str) -> int:
    """Count ids and log-probabilities of a batch, ids of a micro-batch as the loss takes them, and its two more chunks."""
    assert stage.top_k is not None
    vocabulary, tokens = stage.model.vocab_size, micro_batch_sequences * stage.stream.context_tokens
    chunk = min(loss_rows(vocabulary, device), tokens) * vocabulary * 2 * FP32
    return stage.top_k * (6 * stage.batch_tokens + 8 * tokens) + chunk


def check(stage: Spec, layout: Layout) -> None:
    """Refuse a stream that is too short or cannot be masked, and a teacher whose tokenizer has other ids than the data's.

    Raises
    ------
    ValueError
        One of them is.
    """
    folder = layout.data(stage.data_fingerprint)
    if not (folder / "manifest.json").exists():
        return
    prepared = open_prepared(folder)
    refuse_mask(prepared.manifest, stage.stream)
    if is_packed_for(prepared, stage.stream):
        Stream(prepared, stage.stream).check(stage.sequences(stage.end_tokens))
    check_vocabulary(prepared, stage.vocabulary, stage.teacher.name)
