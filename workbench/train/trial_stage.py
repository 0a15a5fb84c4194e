"""A stage and steps of any model on random tokens, for measurements and tests that have no data.

It imports nothing but `workbench.config.schema`, `workbench.model` and `workbench.train`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from workbench.config.schema import (
    MixtureSegment,
    ModelConfig,
    NumericsConfig,
    OptimizerConfig,
    Schedule,
    StreamConfig,
    StreamSource,
    TrainingStage,
)
from workbench.model.batch import Batch
from workbench.model.transformer import summed_loss
from workbench.train.step import LossFunction, StepResult, train_step

if TYPE_CHECKING:
    from torch import nn


def make_trial_stage(
    model: ModelConfig,
    *,
    batch_sequences: int,
    precision: str = "fp32",
    peak: float = 1e-3,
    numerics: NumericsConfig | None = None,
) -> TrainingStage:
    """Give a stage of a model whose data are never read; its sequences are as long as the model's context.

    Parameters
    ----------
    model
        Shapes and switches.
    batch_sequences
        Sequences of a step.
    precision
        `fp32` or `bf16`.
    peak
        Learning rate, without a warm-up.
    numerics
        How it is carried out; None takes the defaults.
    """
    random = StreamConfig(
        "none", model.context_tokens, 0, {"random": StreamSource()}, [MixtureSegment(0, {"random": 1.0})]
    )
    return TrainingStage(
        parent=None,
        model=model,
        stream=random,
        batch_sequences=batch_sequences,
        schedule=Schedule(peak=peak, warmup_tokens=0),
        optimizer=OptimizerConfig(),
        precision=precision,
        seed_init=0,
        numerics=numerics or NumericsConfig(),
    )


def make_trial_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    stage: TrainingStage,
    device: torch.device,
    *,
    loss: LossFunction | None = None,
    learning_rate: float = 1e-3,
    **settings: Any,
) -> partial[StepResult]:
    """Give a function that trains one step on the same random tokens each time.

    Parameters
    ----------
    model, optimizer
        What is trained, and what updates it.
    stage
        Its batch, context, vocabulary and precision count.
    device
        Where the model is.
    loss
        What is descended; None takes pretraining's.
    learning_rate
        Of every step.
    settings
        Further ones of `train_step`.
    """
    shape = (stage.batch_sequences, stage.stream.context_tokens + 1)
    tokens = torch.randint(stage.model.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device)
    return partial(
        train_step,
        model,
        loss or partial(summed_loss, model),
        optimizer,
        Batch(tokens),
        torch.zeros(stage.batch_sequences, dtype=torch.int64, device=device),
        num_sources=1,
        learning_rate=learning_rate,
        clip_norm=1.0,
        precision=stage.precision,
        **settings,
    )
