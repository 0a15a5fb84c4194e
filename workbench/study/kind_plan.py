"""What the planner asks of a stage, answered by its kind's `plan` module or, where that says nothing, for all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import Any

from workbench.config.kind_registry import find_kind
from workbench.config.schema import Config, Origin, Stage, TrainingStage
from workbench.study.flops import count_parameters, training_flops_per_token
from workbench.study.identity import stage_id
from workbench.study.layout import Layout, StageDir, checkpoint_step
from workbench.study.memory import Memory, state_bytes, weights_bytes


def _answer(kind: str, question: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    return getattr(find_kind(kind).plan, question, otherwise)


def flops_per_token(stage: Stage) -> int:
    """FLOPs that a stage spends for each token of the chain that it adds."""
    return _answer(stage.kind, "flops_per_token", _training_flops)(stage)


def _training_flops(stage: Stage) -> int:
    return training_flops_per_token(stage.model) if isinstance(stage, TrainingStage) else 0


def total_flops(line: Sequence[Stage]) -> float:
    """FLOPs of a chain of stages, each to its end: their own, and those that were spent on what they begin from."""
    own = sum(flops_per_token(stage) * (stage.end_tokens - stage.start_tokens) for stage in line)
    return own + sum(stage.inherited_flops for stage in line)


def origin_after(before: Sequence[Stage]) -> Origin:
    """Where a schedule and a stream begin that start anew after the last of these stages; at 0 where there is none."""
    return (
        Origin(before[-1].end_tokens, float(total_flops([stage for _, stage in main_line(before)])))
        if before
        else Origin()
    )


def main_line(stages: Sequence[Stage]) -> list[tuple[str, Stage]]:
    """List the last stage's ancestors and itself, first to last, with their ids."""
    by_id = {stage_id(stage): stage for stage in stages}
    line = [(stage_id(stages[-1]), stages[-1])]
    while (parent := line[0][1].parent) is not None:
        line.insert(0, (parent.stage, by_id[parent.stage]))
    return line


def needed(stages: Sequence[Stage]) -> list[Stage]:
    """List the last stage and all that it reads, directly or not; of equal ids the later one, whose targets count."""
    by_id = {stage_id(stage): stage for stage in stages}
    wanted: set[str] = set()
    waiting = [stage_id(stages[-1])]
    while waiting:
        identifier = waiting.pop()
        if identifier not in wanted:
            wanted.add(identifier)
            waiting += [reference.stage for reference in by_id[identifier].references]
    return [stage for identifier, stage in by_id.items() if identifier in wanted]


def checkpoint_bytes(stage: Stage, *, whole: bool) -> int:
    """Bytes of one of a stage's checkpoints on disk, with the optimizer's state or without."""
    return _answer(stage.kind, "checkpoint_bytes", _model_bytes)(stage, whole=whole)


def _model_bytes(stage: Stage, *, whole: bool) -> int:
    params = count_parameters(stage.model).total
    return state_bytes(params) if whole and isinstance(stage, TrainingStage) else weights_bytes(params)


def standing_tokens(stage: Stage, stage_dir: StageDir, found: Set[int]) -> set[int]:
    """Tokens up to which a stage has done its work, given those of its complete checkpoints: those, of most kinds."""
    return _answer(stage.kind, "standing_tokens", _found)(stage, stage_dir, found)


def _found(stage: Stage, stage_dir: StageDir, found: Set[int]) -> set[int]:
    return set(found)


def tokens_left(stage: Stage, stage_dir: StageDir) -> int | None:
    """Tokens still to be done of a stage that keeps more than its checkpoints say; None leaves it to those."""
    return _answer(stage.kind, "tokens_left", lambda *_: None)(stage, stage_dir)


def kept_bytes(stage: Stage, tokens: int) -> int | None:
    """Bytes on disk that so many tokens more will take for good; None where that is a matter of whole checkpoints."""
    return _answer(stage.kind, "kept_bytes", lambda *_: None)(stage, tokens)


def passing_bytes(stage: Stage) -> int:
    """Bytes on disk, at most, that come and go while a stage is worked on."""
    return _answer(stage.kind, "passing_bytes", _resumed_from)(stage)


def _resumed_from(stage: Stage) -> int:
    return (stage.checkpoint.keep_last + 1) * checkpoint_bytes(stage, whole=True)


def progress(stage: Stage, stage_dir: StageDir) -> int:
    """Count what of a stage is safe on the disk: it grows with all that an attempt which ends now leaves to the next."""
    return _answer(stage.kind, "progress", _latest_step)(stage, stage_dir)


def _latest_step(stage: Stage, stage_dir: StageDir) -> int:
    return max(map(checkpoint_step, stage_dir.list_checkpoints()), default=0)


def held_bytes(stage: Stage, micro_batch_sequences: int, device: str) -> int:
    """Bytes of memory that a training process holds beside the training itself, such as a teacher."""
    return _answer(stage.kind, "held_bytes", lambda *_: 0)(stage, micro_batch_sequences, device)


def process_memory(stage: Stage, processes: int, micro_batch_sequences: int, device: str) -> Memory | None:
    """Peak memory of a process, where its kind counts all of it itself; None takes a training's and `held_bytes`."""
    return _answer(stage.kind, "process_memory", lambda *_: None)(stage, processes, micro_batch_sequences, device)


def check_here(stage: Stage) -> None:
    """Refuse a stage for which this machine, which is to train it, lacks something.

    Raises
    ------
    ValueError
        It does, and what.
    """
    _answer(stage.kind, "check_here", lambda *_: None)(stage)


def resolve(config: Config) -> Config:
    """Fill in what a point's settings leave to files outside, such as the model of a checkpoint from elsewhere.

    What it finds is recorded with the study, so that files that change later do not make another study of it.

    Raises
    ------
    ValueError
        A file or a checkpoint is missing, or is not what the settings say.
    """
    if config.init.kind != "none":
        settings, config = _resolved(config.init, config)
        config = replace(config, init=settings)
    for name in config.then:
        settings, config = _resolved(config.then[name], config)
        config = replace(config, then={**config.then, name: settings})
    return config


def _resolved(settings: Any, config: Config) -> tuple[Any, Config]:
    return _answer(settings.kind, "resolve", _as_it_is)(settings, config)


def _as_it_is(settings: Any, config: Config) -> tuple[Any, Config]:
    return settings, config


def prepare(stage: Stage, config: Config, layout: Layout, say: Callable[[str], None]) -> None:
    """Prepare what a stage reads besides a study's token store, before anything is trained.

    Raises
    ------
    ValueError
        It cannot be prepared.
    """
    _answer(stage.kind, "prepare", lambda *_: None)(stage, config, layout, say)


def unprepared_bytes(stage: Stage, layout: Layout) -> dict[str, int]:
    """Bytes of text that `prepare` has still to read for a stage, by a name that stages which share it share."""
    return _answer(stage.kind, "unprepared_bytes", lambda *_: {})(stage, layout)


def check(stage: Stage, layout: Layout) -> None:
    """Refuse a stage that asks for more than its prepared data has; what is not prepared yet is not looked at.

    Raises
    ------
    ValueError
        It does, and by how much.
    """
    _answer(stage.kind, "check", lambda *_: None)(stage, layout)
