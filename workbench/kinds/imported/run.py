"""The work of importing: read a checkpoint from outside, and write it as one of this project's."""

from __future__ import annotations

from typing import cast

from workbench.evaluate.outside_checkpoint import find_checkpoint, read_imported
from workbench.kinds.imported.spec import Spec
from workbench.model.weights import load_any
from workbench.train.job import StageJob


def run(job: StageJob) -> None:
    """Copy the checkpoint, in fp32, if its files are still those that were planned with.

    Raises
    ------
    ValueError
        The checkpoint is not there any more, or has changed since.
    """
    job.world.main_only(lambda: _copy(job, cast(Spec, job.stage)))


def _copy(job: StageJob, stage: Spec) -> None:
    directory = find_checkpoint(stage.path, stage.revision)
    found = read_imported(directory)
    if found.fingerprint != stage.fingerprint:
        raise ValueError(
            f"{directory} has changed since this was planned: its fingerprint is {found.fingerprint}, not "
            f"{stage.fingerprint}; plan again, or bring its files back"
        )
    model = load_any(directory).float()
    model.config = stage.model  # its context may be a shorter one
    job.write_weights(
        model,
        made_from=directory,
        step=0,
        flops=stage.inherited_flops,
        annealed=stage.annealed,
        licence=stage.licence,
        imported=stage.fingerprint,
        source=stage.path,
        revision=stage.revision,
    )
