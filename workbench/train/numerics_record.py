"""How a training's arithmetic is carried out, as its checkpoints record it, and what later attempts take from the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from workbench.config.schema import NumericsConfig, TrainingStage
from workbench.model.matmul import products_record
from workbench.study.layout import StageDir
from workbench.study.memory import HEAD_MULTIPLE
from workbench.train import checkpoint as ckpt

_OLDER = {"pad_vocabulary": False, "cross_entropy": "own", "compile_unit": "model", "products": "onednn"}
"""How checkpoints were made whose records do not say it."""


def make_record(
    stage: TrainingStage,
    device: torch.device,
    *,
    padded_to: int,
    cross_entropy: str,
    compiled: bool,
    deterministic: bool,
    micro_batch: int,
    world_size: int,
) -> dict[str, Any]:
    """Say how the arithmetic is carried out here, with what the stage leaves open as it was chosen.

    Parameters
    ----------
    stage, device
        What is trained, its attention settled, and where.
    padded_to
        Rows of the output head are filled up to a multiple of this.
    cross_entropy
        What makes the loss.
    compiled, deterministic
        Whether training is so.
    micro_batch
        Sequences of a forward pass.
    world_size
        Processes.
    """
    said = {key: value for key, value in asdict(stage.numerics).items() if key != "pad_vocabulary"}
    pads = {"pad_vocabulary": padded_to > 1} if stage.model.vocab_size % HEAD_MULTIPLE else {}
    return {
        **said,
        **pads,  # said where it makes a difference
        "device": device.type,
        "cross_entropy": cross_entropy,
        "compile": compiled,
        "deterministic": deterministic,
        "micro_batch_sequences": micro_batch,
        "world_size": world_size,
        "torch": torch.__version__,
        **products_record(stage.numerics.products, device),
    }


def read_latest_record(stage_dir: StageDir) -> dict[str, Any]:
    """Give the record of a stage's latest checkpoint; empty if it has none."""
    found = ckpt.checkpoints_by_tokens(stage_dir)
    return ckpt.read_manifest(found[max(found)])["numerics"] if found else {}


def products_of(before: Mapping[str, Any]) -> str | None:
    """Name the library by which a checkpoint's products were made; None where there is no record."""
    return (_OLDER | dict(before))["products"] if before else None


def settle_loss(
    numerics: NumericsConfig, before: Mapping[str, Any], *, padded_to: int, cross_entropy: str
) -> tuple[int, str]:
    """Compute the loss as the stage's latest checkpoint was made, where the settings leave it open.

    Parameters
    ----------
    numerics
        The settings.
    before
        Record of that checkpoint; empty where there is none.
    padded_to, cross_entropy
        What a stage would take that begins here.

    Returns
    -------
    tuple of int and str
        The same two, as this attempt takes them.
    """
    if not before:
        return padded_to, cross_entropy
    before = _OLDER | dict(before)
    if numerics.pad_vocabulary is None and not before["pad_vocabulary"]:
        padded_to = 1
    if numerics.cross_entropy == "auto" and before["cross_entropy"] == "own":
        cross_entropy = "own"
    return padded_to, cross_entropy


def find_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Name what a checkpoint was made with and is otherwise now: both values by their key.

    A value that is None in the checkpoint's record was not recorded.
    """
    then = _OLDER | {key: value for key, value in before.items() if value is not None}
    here = _OLDER | dict(now)
    return {key: (value, here.get(key)) for key, value in then.items() if here.get(key) != value}
