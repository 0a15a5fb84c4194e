"""The work of importing: read a checkpoint from outside, and write it as one of this project's."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from workbench.data.carried_tokens import read_carried
from workbench.evaluate.outside_checkpoint import find_checkpoint, read_imported
from workbench.kinds.imported.adapted_checkpoint import adapted_fingerprint, check_adapter
from workbench.kinds.imported.spec import Spec
from workbench.model.adapter_files import load_adapters
from workbench.model.lora import merge
from workbench.model.weights import load_any
from workbench.train.job import StageJob


def run(job: StageJob) -> None:
    """Copy the checkpoint, in fp32 and with its adapters merged, if its files are still those that were planned with.

    Raises
    ------
    ValueError
        The checkpoint is not there any more, or has changed since.
    """
    job.world.main_only(lambda: _copy(job, cast(Spec, job.stage)))


def _copy(job: StageJob, stage: Spec) -> None:
    directory = find_checkpoint(stage.path, stage.revision)
    found = read_imported(directory)
    fingerprint, files = found.fingerprint, str(directory)
    adapter = None if stage.adapter is None else Path(stage.adapter)
    if adapter is not None:
        check_adapter(adapter, found.model)
        fingerprint, files = adapted_fingerprint(fingerprint, adapter), f"{directory} or {adapter}"
    if fingerprint != stage.fingerprint:
        raise ValueError(
            f"{files} has changed since this was planned: its fingerprint is {fingerprint}, not {stage.fingerprint}; plan "
            "again, or bring its files back"
        )
    model = load_any(directory).float()
    if adapter is not None:
        load_adapters(model, adapter)
        merge(model)
    model.config = stage.model  # its context may be a shorter one
    job.write_weights(
        model,
        made_from=directory,
        step=0,
        flops=stage.inherited_flops,
        annealed=stage.annealed,
        licence=stage.licence,
        imported=stage.fingerprint,
        carried=read_carried(directory),
        source=stage.path,
        revision=stage.revision,
        **({} if stage.adapter is None else {"adapter": stage.adapter}),
    )
