"""Claims: files that say which submission does which part of a study, so that nothing is submitted twice.

A claim is written before `sbatch` and carries the token that is also the jobs' comment. Whoever finds a claim
asks Slurm for its token: a launch that died in between has left either no job (the claim is void) or one
(the job is found by its comment). A job reads its own claim when it begins, and ends if it is not its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from workbench.launch.slurm.commands import UNKNOWN, JobState
from workbench.study.files import write_atomically
from workbench.study.layout import Layout

PREPARE = "prepare"
"""Kind of the claims on a corpus."""
SETTLING_SECONDS = 15.0
"""A claim without a job is believed for this long: its `sbatch` may still be on the way."""


@dataclass(frozen=True)
class Claim:
    """One job's part of a study."""

    kind: str
    """`train`, `evaluate`, `publish`, or `prepare`."""
    name: str
    """What it is of its kind; names the file. `prepare`: the data's fingerprint and the job's number."""
    stage: str
    """Id of the stage; empty for `publish` and `prepare`."""
    targets: tuple[int, ...]
    """`train`: tokens at which it writes checkpoints."""
    token: str
    """Of the submission, and the comment of its jobs."""
    index: int
    """Element of the submission's array."""
    study: str
    """Study whose launch submitted it."""
    job: str | None = None
    """Slurm's id, once known."""
    host: str = ""
    """Where it was submitted from."""
    pid: int = 0
    """By which process."""
    time: float = 0.0
    """When, Unix time in seconds."""

    @property
    def corpus(self) -> str:
        """`prepare`: fingerprint of the data; empty for others."""
        return self.name.partition("-")[0] if self.kind == PREPARE else ""


def new_token() -> str:
    """Name a submission."""
    return f"wb-{uuid.uuid4().hex[:12]}"


def claim_path(layout: Layout, kind: str, name: str, stage: str, study: str) -> Path:
    """Where a claim lies: with its stage, its study, or the data, which several studies may share."""
    if kind == PREPARE:
        return layout.corpus_jobs(name.partition("-")[0]) / f"{kind}-{name}.json"
    folder = layout.stage(stage).jobs if stage else layout.study(study) / "jobs"
    return folder / f"{kind}-{name}.json"


def path_of(layout: Layout, claim: Claim) -> Path:
    """Where this claim lies."""
    return claim_path(layout, claim.kind, claim.name, claim.stage, claim.study)


def take(layout: Layout, claim: Claim) -> bool:
    """Write a claim if there is none; tell whether it is ours now."""
    path = path_of(layout, claim)
    path.parent.mkdir(parents=True, exist_ok=True)
    _note_stage(layout, claim)
    claim = replace(claim, host=socket.gethostname(), pid=os.getpid(), time=time.time())
    partial = path.with_name(f".{path.name}.{claim.token}.partial")
    partial.write_text(json.dumps(asdict(claim)), encoding="utf-8")
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    return True


def set_job(layout: Layout, claim: Claim, job: str) -> Claim:
    """Add Slurm's id to a claim, as long as it is ours."""
    held = read(path_of(layout, claim))
    if held is None or held.token != claim.token:
        return claim
    named = replace(claim, job=job, host=socket.gethostname(), pid=os.getpid(), time=time.time())
    write_atomically(path_of(layout, claim), json.dumps(asdict(named)))
    return named


def release(layout: Layout, claim: Claim) -> None:
    """Remove a claim, unless somebody has replaced it meanwhile."""
    path = path_of(layout, claim)
    aside = path.with_name(f".{path.name}.{claim.token}.void")
    held = read(path)
    if held is None or held.token != claim.token:
        return
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        aside.unlink()


def read(path: Path) -> Claim | None:
    """Read a claim; None where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Claim(**{**values, "targets": tuple(values["targets"])})


def list_claims(layout: Layout, stages: Iterable[str], study: str) -> list[Claim]:
    """Every claim on some stages, and every claim of a study's launches, oldest first.

    The latter may be on stages that the study's present plan does not have.
    """
    planned = set(stages)
    places = sorted(planned | _noted_stages(layout, study))
    folders = [layout.study(study) / "jobs", *(layout.stage(stage).jobs for stage in places)]
    found = [claim for folder in folders for path in folder.glob("[a-z]*.json") if (claim := read(path)) is not None]
    return sorted((c for c in found if c.stage in planned or c.study == study), key=lambda claim: claim.time)


def list_corpus_claims(layout: Layout, fingerprints: Iterable[str]) -> list[Claim]:
    """Every claim of jobs that make some corpora, whoever launched them, oldest first."""
    paths = [path for each in fingerprints for path in layout.corpus_jobs(each).glob(f"{PREPARE}-*.json")]
    return sorted((claim for path in paths if (claim := read(path)) is not None), key=lambda claim: claim.time)


def _claimed(layout: Layout, study: str) -> Path:
    """Folder with an empty file for every stage that the study's launches have ever claimed, named by it."""
    return layout.study(study) / "claimed"


def _noted_stages(layout: Layout, study: str) -> set[str]:
    """Stages that may have a claim of a study's launches, whatever its present plan has."""
    try:
        return {path.name for path in _claimed(layout, study).iterdir()}
    except FileNotFoundError:
        return _found_stages(layout, study)


def _found_stages(layout: Layout, study: str) -> set[str]:
    """Read every claim there is, for launches of earlier versions, which have noted no stages."""
    found = map(read, (layout.root / "stages").glob("*/jobs/[a-z]*.json"))
    return {claim.stage for claim in found if claim is not None and claim.study == study}


def _note_stage(layout: Layout, claim: Claim) -> None:
    """Note a stage before it is claimed, so that the claim is found without looking through all stages."""
    if not claim.stage:
        return
    folder = _claimed(layout, claim.study)
    if not folder.is_dir():
        # Whole at once, since its being there says that it is complete.
        partial = folder.with_name(f".claimed.{uuid.uuid4().hex}.partial")
        partial.mkdir(parents=True)
        for stage in _found_stages(layout, claim.study):
            (partial / stage).touch()
        try:
            partial.rename(folder)
        except OSError:  # another launch was first, with the same stages
            shutil.rmtree(partial)
    (folder / claim.stage).touch()


def find_job(claim: Claim, queue: Mapping[str, JobState]) -> str | None:
    """Slurm's id of a claim's job: as recorded, or found in the queue by its token."""
    if claim.job is not None:
        return claim.job
    for job in queue.values():
        index = int(job.id.partition("_")[2] or 0)
        if job.comment == claim.token and index == claim.index:
            return job.id
    return None


def is_settling(claim: Claim, job: str | None) -> bool:
    """Whether a claim without a job may still get one."""
    return job is None and time.time() - claim.time < SETTLING_SECONDS


def is_live(claim: Claim, state: JobState | None) -> bool:
    """Whether a claim's part of the study is going to be done without us."""
    if state is None or state.state == UNKNOWN:
        return False
    return state.live
