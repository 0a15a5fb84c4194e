"""The work of a distillation: training, with a teacher that is asked of each micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.kinds.distill.spec import Spec
from workbench.model.batch import Batch
from workbench.model.distillation import Lesson
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer
from workbench.model.weights import load_model
from workbench.study.identity import model_identity
from workbench.tracking import spool
from workbench.train.job import StageJob
from workbench.train.loop import StageRun
from workbench.train.state import TrainState
from workbench.train.step import LossFunction, StepResult
from workbench.train.throughput import plain_step


def run(job: StageJob) -> None:
    """Train until every goal has a checkpoint."""
    DistillRun(job).all_targets()


class DistillRun(StageRun):
    """A training whose loss asks a teacher; its rows have the divergence from it beside the cross-entropy."""

    stage: Spec

    def __init__(self, job: StageJob) -> None:
        super().__init__(job)
        read = self.stage.inputs["teacher"]
        path = self.world.main_only(lambda: job.read_input(read.stage, read.tokens)[0])
        self.teacher = self.world.together(lambda: load_teacher(path, self.stage, self.device))
        self.sums_2 = torch.zeros(2, dtype=torch.float64, device=self.device)
        """Of a step so far, on this process: divergences times the targets' weights, and the weights."""

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


def load_teacher(path: Path, stage: Spec, device: torch.device) -> Transformer:
    """Read the teacher, in evaluation mode and without gradients.

    Raises
    ------
    ValueError
        The checkpoint holds another model than was planned with.
    """
    teacher = load_model(path, stage.numerics.attention)
    if model_identity(teacher.config) != model_identity(stage.teacher):
        raise ValueError(f"checkpoint {path} holds another model than the teacher {stage.teacher.name!r}")
    return teacher.requires_grad_(False).to(device)


def distillation_loss(
    model: nn.Module, teacher: Transformer, stage: Spec, batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the mixed loss over a batch, with its gradient, and each target's cross-entropy and divergence.

    Parameters
    ----------
    model
        The student, compiled or wrapped or neither.
    teacher
        Whole, on the same device; it is asked under the same autocast.
    stage
        Temperature and share.
    batch
        The same for both.

    Returns
    -------
    tuple
        As `workbench.model.distillation.summed_distillation`.
    """
    inputs_BT, targets_BT = batch.tokens[:, :-1], batch.tokens[:, 1:]
    with torch.no_grad():
        h_BTE = teacher.before_head(teacher.hidden(inputs_BT, batch.positions, batch.documents))
    head_VE = teacher.head_weight[: stage.model.vocab_size]
    return model(
        inputs_BT,
        targets_BT,
        weights_BT=batch.weights,
        positions_BT=batch.positions,
        documents_BT=batch.documents,
        z_loss=stage.optimizer.z_loss,
        lesson=Lesson(h_BTE, head_VE, stage.temperature, stage.alpha),
    )


def trial_step(stage: Spec, device: torch.device) -> Callable[[], Any]:
    """Give a function that takes one step on random tokens, with a teacher of random weights."""
    teacher = Transformer(stage.teacher, stage.numerics.attention)
    init_weights(teacher, 0)
    teacher.requires_grad_(False).eval().to(device)
    return plain_step(stage, device, lambda model: lambda batch: distillation_loss(model, teacher, stage, batch)[:2])
