"""Who does what: the claims of a study's stages beside Slurm's own answer. Nothing is stored but the claims."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from workbench.launch.slurm import claim as claims
from workbench.launch.slurm import commands as slurm
from workbench.launch.slurm.claim import Claim
from workbench.launch.slurm.commands import JobState
from workbench.study.layout import Layout
from workbench.study.study_plan import Plan


@dataclass(frozen=True)
class Entry:
    """A claim and what became of it."""

    claim: Claim
    """The claim."""
    state: JobState | None
    """Its job's state; None where it never got a job."""

    @property
    def live(self) -> bool:
        """Whether its part of the study will be done without us."""
        return claims.is_live(self.claim, self.state)


@dataclass(frozen=True)
class Ledger:
    """Every claim on a study."""

    entries: tuple[Entry, ...]
    """Oldest first."""

    def of(self, kind: str, stage: str | None = None) -> list[Entry]:
        """Entries of one kind, of one stage where it is given."""
        return [e for e in self.entries if e.claim.kind == kind and stage in (None, e.claim.stage)]

    def making(self, fingerprint: str) -> list[Entry]:
        """Entries of the jobs that make a corpus."""
        return [e for e in self.of(claims.PREPARE) if e.claim.corpus == fingerprint]

    def underway(self) -> dict[str, dict[int, str]]:
        """By stage: tokens of the checkpoints that a live job will write, and that job's id."""
        found: dict[str, dict[int, str]] = {}
        for entry in self.of("train"):
            if entry.live and entry.state is not None:
                jobs = found.setdefault(entry.claim.stage, {})
                jobs |= dict.fromkeys(entry.claim.targets, entry.state.id)
        return found

    def void_claims(self) -> set[tuple[str, int]]:
        """(token, index) of the claims whose jobs have ended, or never were."""
        return {(entry.claim.token, entry.claim.index) for entry in self.entries if not entry.live}

    def live_jobs(self) -> list[str]:
        """Ids of all jobs that are queued or running."""
        return [entry.state.id for entry in self.entries if entry.live and entry.state is not None]


def read_ledger(plan: Plan, layout: Layout, on_settling: Callable[[float], None] | None = None) -> Ledger:
    """Read the claims on a study's stages and corpora and ask Slurm for their jobs.

    Parameters
    ----------
    plan, layout
        The study.
    on_settling
        Called with seconds while a claim without a job is too young to be judged; None judges at once.

    Raises
    ------
    SlurmError
        Slurm does not answer.
    """

    def look() -> list[Claim]:
        # What others' jobs did for a corpus that is made concerns nobody any more.
        making = [
            claim
            for claim in claims.list_corpus_claims(layout, plan.corpora)
            if claim.study == plan.study or not (layout.data(claim.corpus) / "manifest.json").exists()
        ]
        return sorted([*making, *claims.list_claims(layout, plan.nodes, plan.study)], key=lambda claim: claim.time)

    return judge(look, on_settling)


def judge(look: Callable[[], list[Claim]], on_settling: Callable[[float], None] | None = None) -> Ledger:
    """Ask Slurm for the jobs of the claims that `look` finds; see `read_ledger`."""
    while True:
        found = look()
        if not found:
            return Ledger(())
        queue = slurm.list_queue()
        jobs = {claim: claims.find_job(claim, queue) for claim in found}
        settling = [claim for claim, job in jobs.items() if claims.is_settling(claim, job)]
        if not settling or on_settling is None:
            break
        seconds = claims.SETTLING_SECONDS - (time.time() - max(claim.time for claim in settling))
        on_settling(max(seconds, 0.1))
    states = slurm.job_states([job for job in jobs.values() if job is not None], queue)
    return Ledger(tuple(Entry(claim, None if job is None else states[job]) for claim, job in jobs.items()))
