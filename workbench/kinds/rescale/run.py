"""The work of rescaling: the parent's weights, written with another config."""

from __future__ import annotations

from typing import cast

from workbench.kinds.rescale.spec import Spec
from workbench.model.weights import load_model
from workbench.train.job import StageJob


def run(job: StageJob) -> None:
    """Copy the parent's weights; `config.json` carries the new context and the scaling.

    Raises
    ------
    ValueError
        The parent's checkpoint is not there.
    DamagedCheckpointError
        A file of it is not what its manifest says.
    """
    job.world.main_only(lambda: _copy(job, cast(Spec, job.stage)))


def _copy(job: StageJob, stage: Spec) -> None:
    assert stage.parent is not None
    path, manifest = job.read_input(stage.parent.stage, stage.parent.tokens)
    model = load_model(path)
    model.config = stage.model  # RoPE's table is made from it when the checkpoint is read, and is no weight
    facts = {key: manifest[key] for key in ("step", "flops", "sequences", "annealed", "counts")}
    job.write_weights(model, made_from=path, **facts)
