"""The work of a distillation: training, with a teacher that is asked of each micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.config.schema import ModelConfig
from workbench.kinds.distill.spec import Spec
from workbench.kinds.logits.kept_logits import KeptLogits, Verification, find_pieces
from workbench.model.batch import Batch
from workbench.model.distillation import Lesson
from workbench.model.init import init_weights
from workbench.model.sparse_distillation import SparseLesson
from workbench.model.transformer import Transformer
from workbench.model.weights import load_model
from workbench.study.identity import model_identity
from workbench.study.layout import StageDir
from workbench.tracking import spool
from workbench.train.job import StageJob
from workbench.train.loop import StageRun
from workbench.train.state import TrainState
from workbench.train.step import LossFunction, StepResult
from workbench.train.throughput import plain_step

VERIFY_TURN_SECONDS = 10.0


def run(job: StageJob) -> None:
    """Train until every goal has a checkpoint."""
    DistillRun(job).all_targets()


HAS_PLAIN_LOSS = False
"""The loss asks a teacher, and has one kernel."""


class DistillRun(StageRun):
    """A training whose loss asks a teacher; its rows have the divergence from it beside the cross-entropy."""

    stage: Spec
    has_plain_loss = HAS_PLAIN_LOSS

    def __init__(self, job: StageJob) -> None:
        super().__init__(job)
        self.teacher = self._load_teacher() if self.stage.logits is None else None
        self.kept: KeptLogits | None = None
        self.sums_2 = torch.zeros(2, dtype=torch.float64, device=self.device)
        """Of a step so far, on this process: divergences times the targets' weights, and the weights."""

    def _load_teacher(self) -> Transformer:
        read, numerics = self.stage.inputs["teacher"], self.stage.numerics
        path = self.world.main_only(lambda: self.job.read_input(read.stage, read.tokens)[0])
        load = partial(load_teacher, path, self.stage.teacher, numerics.attention, self.device)
        return self.world.together(load)

    def _restore(self, target: int) -> TrainState:
        if self.stage.logits is not None:
            nearest = self._nearest(target)
            begin = self.stage.start_tokens if nearest is None else nearest[0]
            self.kept = self._open_kept(self.layout.stage(self.stage.logits), begin)
        return super()._restore(target)

    def _open_kept(self, stage_dir: StageDir, begin: int) -> KeptLogits:
        """Open what the teacher said of the sequences after `begin` tokens, in the pieces that rank 0 sees."""
        first, stop = self.stage.sequences(begin), self.stage.sequences(max(self.goals))
        pieces = self.world.main_only(lambda: find_pieces(stage_dir, first, stop))
        return self.world.together(lambda: KeptLogits(pieces))

    def draw(self, sequences: range) -> tuple[Batch, Tensor]:
        """Draw sequences of the stream, with what was kept of them."""
        batch, sources = super().draw(sequences)
        if self.kept is None:
            return batch, sources
        self._verify(self.kept, sequences)
        ids, log_q = (self.to_device(part) for part in self.kept.batch(sequences))
        return batch._replace(taught_ids=ids, taught_log_q=log_q), sources

    def _verify(self, kept: KeptLogits, sequences: range) -> None:
        """Hold pieces that this step is the first to read against their checksums; `sequences` are this process's.

        Rank 0 reads them, in turns, so that no process sits in one collective for as long as that takes.
        """
        begin = sequences.start - self.world.rank * len(sequences)
        for piece in kept.take_unverified(range(begin, begin + self.world.size * len(sequences))):
            verification = Verification(piece)
            while not self.world.main_only(lambda: verification.go_on(VERIFY_TURN_SECONDS)):  # noqa: B023  (run at once)
                pass

    def loss_of(self, model: nn.Module) -> LossFunction:
        """Give the mixed loss, which a step takes the gradient of, with each target's cross-entropy."""
        self.sums_2.zero_()
        return partial(self._loss, model)

    def _loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        total, losses_BT, divergences_BT = distillation_loss(model, self.teacher, self.stage, batch)
        weighted = divergences_BT if batch.weights is None else divergences_BT * batch.weights
        self.sums_2[0] += weighted.double().sum()
        self.sums_2[1] += batch.targets
        return total, losses_BT

    def _row(self, state: TrainState, result: StepResult, seconds: float) -> dict[str, Any]:
        divergence, targets = self.world.sum_(self.sums_2).tolist()
        return {**super()._row(state, result, seconds), **_finite(spool.TRAIN_DIVERGENCE, divergence / targets)}


def _finite(name: str, value: float) -> dict[str, float]:
    return {name: value} if abs(value) < float("inf") else {}


def load_teacher(path: Path, model: ModelConfig, attention: str, device: torch.device) -> Transformer:
    """Read the teacher, in evaluation mode and without gradients.

    Raises
    ------
    ValueError
        The checkpoint holds another model than was planned with.
    """
    teacher = load_model(path, attention)
    if model_identity(teacher.config) != model_identity(model):
        raise ValueError(f"checkpoint {path} holds another model than the teacher {model.name!r}")
    return teacher.requires_grad_(False).to(device)


def distillation_loss(
    model: nn.Module, teacher: Transformer | None, stage: Spec, batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the mixed loss over a batch, with its gradient, and each target's cross-entropy and divergence.

    Parameters
    ----------
    model
        The student, compiled or wrapped or neither.
    teacher
        Whole, on the same device; it is asked under the same autocast. None where the batch has what was kept of it.
    stage
        Temperature and share.
    batch
        The same for both.

    Returns
    -------
    tuple
        As `workbench.model.distillation.summed_distillation`.
    """
    return model(
        batch.tokens[:, :-1],
        batch.tokens[:, 1:],
        weights_BT=batch.weights,
        positions_BT=batch.positions,
        documents_BT=batch.documents,
        documents_at_most=batch.documents_at_most,
        z_loss=stage.optimizer.z_loss,
        lesson=_lesson(teacher, stage, batch),
    )


def _lesson(teacher: Transformer | None, stage: Spec, batch: Batch) -> Lesson | SparseLesson:
    if batch.taught_ids is not None and batch.taught_log_q is not None:
        return SparseLesson(batch.taught_ids.long(), batch.taught_log_q, stage.temperature, stage.alpha)
    assert teacher is not None
    with torch.no_grad():
        documents = batch.documents, batch.documents_at_most
        h_BTE = teacher.before_head(teacher.hidden(batch.tokens[:, :-1], batch.positions, *documents))
    return Lesson(h_BTE, teacher.head_weight[: stage.model.vocab_size], stage.temperature, stage.alpha)


def trial_step(stage: Spec, device: torch.device) -> Callable[[], Any]:
    """Give a function that takes one step on random tokens, with a teacher of random weights."""
    if stage.top_k is not None:
        return plain_step(stage, device, lambda model: lambda batch: _trial_loss(model, stage, batch))
    teacher = Transformer(stage.teacher, stage.numerics.attention)
    init_weights(teacher, 0)
    teacher.requires_grad_(False).eval().to(device)
    return plain_step(stage, device, lambda model: lambda batch: distillation_loss(model, teacher, stage, batch)[:2])


def _trial_loss(model: nn.Module, stage: Spec, batch: Batch) -> tuple[Tensor, Tensor]:
    """Loss of a batch of which the first ids were kept, all equally probable."""
    assert stage.top_k is not None
    shape, device = (*batch.tokens[:, 1:].shape, stage.top_k), batch.tokens.device
    ids = torch.arange(stage.top_k, dtype=torch.int32, device=device).expand(shape)
    log_q = torch.zeros(shape, dtype=torch.float16, device=device)
    return distillation_loss(model, None, stage, batch._replace(taught_ids=ids, taught_log_q=log_q))[:2]
