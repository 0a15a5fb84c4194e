"""The work of averaging: tensor by tensor, so that the checkpoints are never held together."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open

from workbench.kinds.average.spec import Spec
from workbench.model.weights import WEIGHTS, from_hf, hf_keys, load_model
from workbench.train.job import StageJob


def run(job: StageJob) -> None:
    """Average the checkpoints, summing in fp64, and write the result in fp32.

    Raises
    ------
    ValueError
        A checkpoint is not there.
    DamagedCheckpointError
        A file of one is not what its manifest says.
    """
    job.world.main_only(lambda: _average(job, cast(Spec, job.stage)))


def _average(job: StageJob, stage: Spec) -> None:
    assert stage.parent is not None
    references = [*stage.inputs.values(), stage.parent]
    found = [job.read_input(reference.stage, reference.tokens) for reference in references]
    last, manifest = found[-1]
    model = load_model(last)
    names = list(model.state_dict())
    means = {
        key: _mean(key, [path for path, _ in found], stage.weights)
        for name in names
        for key in hf_keys(name, model.config)
    }
    model.load_state_dict(from_hf(means, model.config, names))
    facts = {key: manifest[key] for key in ("step", "flops", "sequences", "counts")}
    averaged = [reference.tokens for reference in references]
    job.write_weights(model, made_from=last, **facts, annealed=True, averaged=averaged)


def _mean(name: str, checkpoints: list[Path], weights: list[float]) -> torch.Tensor:
    total: torch.Tensor | None = None
    for checkpoint, weight in zip(checkpoints, weights, strict=True):
        with safe_open(checkpoint / WEIGHTS, "pt") as file:
            part = file.get_tensor(name).double() * weight
        total = part if total is None else total + part
    assert total is not None
    return total.float()
