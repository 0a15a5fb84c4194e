"""One submission, exactly once: claim, write the batch's file, `sbatch`, and write the ids down."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.config.schema import ClusterConfig, EvaluationConfig, TrackingConfig, from_dict, to_dict
from workbench.forecast.job_graph import Batch, Part
from workbench.launch.slurm import claim as claims
from workbench.launch.slurm import commands as slurm
from workbench.launch.slurm import executor as sbatch
from workbench.launch.slurm.claim import Claim
from workbench.launch.slurm.executor import NoAnswerError
from workbench.study.files import exclusive, write_atomically
from workbench.study.identity import digest
from workbench.study.layout import Layout
from workbench.study.resources import Resources

_LOCK_SECONDS = 10.0
_ANSWER_SECONDS = 120.0
"""How long a controller that did not say whether it took a job is asked about it."""


@dataclass(frozen=True)
class Submitter:
    """What all submissions of a launch have in common."""

    layout: Layout
    """The outputs."""
    study: str
    """Whose launch it is."""
    cluster: ClusterConfig
    """Where to."""
    evaluation: EvaluationConfig
    """What is scored."""
    tracking: TrackingConfig
    """Where results are published."""
    threads: int
    """CPU threads of an evaluation."""
    code: Mapping[str, Any]
    """Commit, `dirty`, and the digest of the copy that jobs import from."""
    void: Set[tuple[str, int]] = frozenset()
    """(token, index) of claims that the ledger has found void; others are never touched."""

    def submit(
        self,
        batch: Batch,
        resources: Resources,
        elements: Mapping[Part, Mapping[str, Any]],
        *,
        name: str,
        dependency: str | None = None,
    ) -> dict[Part, str]:
        """Submit a batch; return Slurm's id of each part.

        Parameters
        ----------
        batch, resources
            What, and with what.
        elements
            Further facts of each part for its job.
        name
            The job's name.
        dependency
            As `sbatch --dependency` takes it.

        Raises
        ------
        SlurmError
            Slurm does not take it; the claims are free again. `LimitError` where it would take less.
        """
        token = claims.new_token()
        mine = {part: self._claim(part, token, i) for part, i in zip(batch.parts, batch.indices, strict=True)}
        self._take(list(mine.values()))
        file = self._write_batch(batch, token, elements)
        try:
            job = self._sbatch(batch, resources, token, file, name, dependency)
        except NoAnswerError:
            # The jobs may be there: the next launch finds them by their comment, or the claims void.
            raise
        except slurm.SlurmError:
            for claim in mine.values():
                claims.release(self.layout, claim)
            raise
        ids = {part: sbatch.job_id(job, batch.indices, claim.index) for part, claim in mine.items()}
        for part, claim in mine.items():
            claims.set_job(self.layout, claim, ids[part])
        return ids

    def _claim(self, part: Part, token: str, index: int) -> Claim:
        return Claim(part.kind, part.name, part.stage, part.targets, token, index, self.study)

    def _take(self, mine: Sequence[Claim]) -> None:
        """Write the claims in the place of void ones."""
        for claim in mine:
            before = claims.read(claims.path_of(self.layout, claim))
            if before is not None and (before.token, before.index) in self.void:
                claims.release(self.layout, before)
            if not claims.take(self.layout, claim):
                path = claims.path_of(self.layout, claim)
                raise slurm.SlurmError(f"another launch took {path} at the same time; run the command again")

    def _write_batch(self, batch: Batch, token: str, elements: Mapping[Part, Mapping[str, Any]]) -> Path:
        """Everything the jobs need, frozen; nothing is composed on a node."""
        values = {
            "token": token,
            "study": self.study,
            "outputs": str(self.layout.root),
            "kind": batch.parts[0].kind,
            "code": dict(self.code),
            "cluster": to_dict(self.cluster),
            "evaluation": to_dict(self.evaluation),
            "tracking": to_dict(self.tracking),
            "threads": self.threads,
            "elements": {
                str(index): {"name": part.name, "stage": part.stage, "targets": part.targets, **elements.get(part, {})}
                for part, index in zip(batch.parts, batch.indices, strict=True)
            },
        }
        file = self.layout.batch(token) / "batch.json"
        file.parent.mkdir(parents=True)
        write_atomically(file, json.dumps(values, indent=1))
        return file

    def _sbatch(
        self, batch: Batch, resources: Resources, token: str, file: Path, name: str, dependency: str | None
    ) -> str:
        run = sbatch.make_executor(
            file.parent,
            self.cluster,
            resources,
            name=name,
            token=token,
            code=self.layout.code_copy(self.code["copy"]),
            dependency=dependency,
        )
        command = sbatch.node_command(self.cluster, file)
        until = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                return run.submit_command(command, batch.indices, self.cluster.array_parallelism)
            except NoAnswerError as error:
                job = next((j.id for j in slurm.list_queue().values() if j.comment == token), None)
                if job is not None:
                    return job.split("_")[0]
                if time.monotonic() > until:
                    raise NoAnswerError(f"{error}; launch again when Slurm answers") from error
                time.sleep(1.0)


def evaluation_digest(evaluation: EvaluationConfig) -> str:
    """Name what is scored and how, in eight hex digits."""
    return digest(to_dict(evaluation))[:8]


def evaluation_resources(cluster: ClusterConfig) -> Resources:
    """Give what an evaluation or a publishing asks for."""
    return Resources(
        nodes=1,
        processes_per_node=1,
        gpus_per_node=cluster.evaluation_gpus,
        cpus_per_process=cluster.evaluation_cpus,
        memory_bytes_per_node=cluster.evaluation_memory_bytes,
        minutes=cluster.evaluation_minutes,
        micro_batch_sequences=None,
        peak_memory_bytes=0,
        seconds=None,
    )


def _give_up_after(seconds: float) -> Callable[[], None]:
    """Give what to do while a launch holds the lock: training must not stand still for it."""
    until = time.monotonic() + seconds

    def wait() -> None:
        if time.monotonic() > until:
            raise slurm.SlurmError(f"a launch has been submitting for {seconds:.0f} s")

    return wait


@contextmanager
def _outside_a_job() -> Generator[None]:
    """Hide the job we are in: what `sbatch` is run with, the new job would take for its own index and ranks."""
    hidden = {k: v for k, v in os.environ.items() if k.startswith("SLURM_") and k != "SLURM_CONF"}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def submit_evaluation(layout: Layout, batch: Mapping[str, Any], stage: str, milestones: Sequence[int]) -> str | None:
    """Submit the evaluation of a stage from one of its jobs, unless a live job does it; return its id.

    Parameters
    ----------
    layout
        The outputs.
    batch
        The job's own batch file.
    stage
        Id of the stage.
    milestones
        Tokens of the stage's checkpoints that are to be scored.
    """
    evaluation = from_dict(EvaluationConfig, batch["evaluation"])
    if not evaluation.suites:
        return None
    submitter = Submitter(
        layout,
        batch["study"],
        from_dict(ClusterConfig, batch["cluster"]),
        evaluation,
        from_dict(TrackingConfig, batch["tracking"]),
        batch["threads"],
        batch["code"],
    )
    part = Part("evaluate", f"{evaluation_digest(evaluation)}-{max(milestones)}", stage)
    with exclusive(layout.root / "launch.lock", _give_up_after(_LOCK_SECONDS)), _outside_a_job():
        queue = slurm.list_queue()
        held = claims.read(claims.claim_path(layout, part.kind, part.name, stage, submitter.study))
        job = None if held is None else claims.find_job(held, queue)
        if job is not None and job in queue and queue[job].live:
            return None
        if held is not None:
            submitter = replace(submitter, void={(held.token, held.index)})
        resources = evaluation_resources(submitter.cluster)
        return submitter.submit(
            Batch((part,), (0,)), resources, {part: {"milestones": milestones}}, name=f"{submitter.study}/evaluate"
        )[part]
