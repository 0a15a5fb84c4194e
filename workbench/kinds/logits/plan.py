"""What keeping logits needs: a forward pass of the teacher for each token, and room for what is kept."""

from __future__ import annotations

import sys
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path

from workbench.config.schema import NumericsConfig, Parent, Stage, TrainingStage
from workbench.data.corpus.referenced_tokens import refuse_mask
from workbench.data.store import Prepared, open_prepared
from workbench.data.stream import Stream, is_packed_for
from workbench.data.tokenizer import load_file
from workbench.kinds.logits.kept_logits import bytes_per_token, count_kept, covered
from workbench.kinds.logits.spec import Spec
from workbench.kinds.pretrain.plan import prepare as prepare
from workbench.study.flops import count_parameters, forward_flops_per_token
from workbench.study.identity import digest, stage_id
from workbench.study.layout import Layout, StageDir
from workbench.study.memory import FP32, Memory, forward_bytes


def kept_for(phases: Sequence[TrainingStage], teacher: Stage, top_k: int, vocabulary: str | None) -> list[Spec]:
    """Give the stage that keeps the logits of each phase's sequences; equal ones where phases draw one stream.

    Parameters
    ----------
    phases
        Of a student, first to last.
    teacher
        Its last stage.
    top_k
        Ids of each token.
    vocabulary
        Names the ids of a teacher from outside.
    """
    drawn: dict[str, list[TrainingStage]] = {}
    for phase in phases:
        drawn.setdefault(repr(phase.stream), []).append(phase)
    kept = {stream: _of_stream(alike, teacher, top_k, vocabulary) for stream, alike in drawn.items()}
    return [kept[repr(phase.stream)] for phase in phases]


def _of_stream(phases: list[TrainingStage], teacher: Stage, top_k: int, vocabulary: str | None) -> Spec:
    first, ends = phases[0], [phase.end_tokens - phase.origin.tokens for phase in phases]
    return Spec(
        parent=None,
        inputs={"teacher": Parent(stage_id(teacher), teacher.end_tokens)},
        model=teacher.model,
        stream=first.stream,
        batch_sequences=first.batch_sequences,
        precision=first.precision,
        top_k=top_k,
        vocab_size=first.model.vocab_size,
        first_tokens=first.start_tokens - first.origin.tokens,
        vocabulary=vocabulary,
        name=f"top {top_k}",
        end_tokens=max(ends),
        read_points=sorted(ends),
        numerics=_numerics(first.numerics),
        checkpoint=first.checkpoint,
        resources=first.resources,
    )


def _numerics(asked: NumericsConfig) -> NumericsConfig:
    """Nothing is measured for a stage without a backward pass: what is left open is PyTorch's own attention, and oneDNN."""
    asked = replace(asked, attention="sdpa") if asked.attention == "auto" else asked
    return replace(asked, products="onednn") if asked.products == "auto" else asked


def flops_per_token(stage: Spec) -> int:
    """Count a forward pass of the teacher."""
    return forward_flops_per_token(replace(stage.model, vocab_size=stage.vocab_size))


def checkpoint_bytes(stage: Spec, *, whole: bool) -> int:
    """Bytes of an average checkpoint, by which the time to write one is estimated; `kept_bytes` counts the disk."""
    return -(-kept_bytes(stage, stage.end_tokens - stage.start_tokens) // len(stage.targets))


def kept_bytes(stage: Spec, tokens: int) -> int:
    """Bytes of the ids and log-probabilities of so many tokens."""
    return tokens * bytes_per_token(stage.top_k, stage.vocab_size)


def passing_bytes(stage: Spec) -> int:
    """Nothing: the files that are written become the next checkpoint."""
    return 0


def tokens_left(stage: Spec, stage_dir: StageDir) -> int:
    """Tokens whose logits are not on the disk, in checkpoints or beside them."""
    first, stop = stage.sequences(stage.start_tokens), stage.sequences(stage.end_tokens)
    return (stop - first - count_kept(stage_dir, first, stop)) * stage.stream.context_tokens


def standing_tokens(stage: Spec, stage_dir: StageDir, found: Set[int]) -> set[int]:
    """Tokens up to which all is kept: not those of checkpoints behind a gap, which is to be filled first."""
    if not found:
        return set()
    reached = covered(stage_dir, stage.sequences(stage.start_tokens))
    return {tokens for tokens in {*found, *stage.targets} if stage.sequences(tokens) <= reached}


def progress(stage: Spec, stage_dir: StageDir) -> int:
    """Count the sequences that are kept: an attempt goes on with the next, also between two checkpoints."""
    return count_kept(stage_dir, stage.sequences(stage.start_tokens), sys.maxsize)


def process_memory(stage: Spec, processes: int, micro_batch_sequences: int, device: str) -> Memory:
    """Count the teacher's weights, its forward pass, and what is kept of a batch."""
    parameters = FP32 * count_parameters(stage.model).total
    total = forward_bytes(
        stage.model,
        micro_batch_sequences=micro_batch_sequences,
        precision=stage.precision,
        attention=stage.numerics.attention,
        device=device,
        logit_matrices=2,  # logits, and the logarithms of their softmax
    )
    # Ids as int64 and log-probabilities, of all micro-batches and once more as they are joined.
    total += 2 * (8 + 2) * stage.top_k * stage.batch_tokens // processes
    return Memory(parameters, 0, 0, total - parameters, total)


def check(stage: Spec, layout: Layout) -> None:
    """Refuse a stream that is too short or cannot be masked, and a teacher whose tokenizer has other ids than the data's.

    Raises
    ------
    ValueError
        One of them is. What is not prepared yet is not looked at.
    """
    folder = layout.data(stage.data_fingerprint)
    if (folder / "manifest.json").exists():
        prepared = open_prepared(folder)
        refuse_mask(prepared.manifest, stage.stream)
        if is_packed_for(prepared, stage.stream):
            Stream(prepared, stage.stream).check(stage.sequences(stage.end_tokens))
        check_vocabulary(prepared, stage.vocabulary, stage.model.name)


def name_vocabulary(tokenizer: Path) -> str:
    """Name the ids of a tokenizer by a hash of them."""
    return digest(load_file(tokenizer).get_vocab(with_added_tokens=True))


def check_vocabulary(prepared: Prepared, vocabulary: str | None, teacher: str) -> None:
    """Refuse data whose tokenizer has other ids than a teacher from outside, whose `vocabulary` has a name.

    Raises
    ------
    ValueError
        It has.
    """
    if vocabulary is not None and name_vocabulary(prepared.tokenizer_dir) != vocabulary:
        raise ValueError(
            f"teacher {teacher!r} has another tokenizer than the data: set tokenizer.kind=file, tokenizer.path "
            "and tokenizer.vocab_size to the teacher's"
        )
