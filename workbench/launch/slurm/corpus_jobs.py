"""Corpora that a cluster makes: their jobs are submitted once, and looked at, by the data's fingerprint alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from workbench.config.schema import ClusterConfig
from workbench.data.corpus.pipeline import begin_corpus, building_folder
from workbench.data.corpus.task_counts import TaskCounts, count_begun, count_tasks
from workbench.forecast.job_graph import Batch, Part
from workbench.forecast.study_facts import Facts, unmade_corpora
from workbench.kinds.corpus.source_files import record_files
from workbench.launch.slurm import claim as claims
from workbench.launch.slurm import commands as slurm
from workbench.launch.slurm.executor import LimitError
from workbench.launch.slurm.launch_lock import launch_lock, wait_to_settle
from workbench.launch.slurm.ledger import Entry, Ledger, judge
from workbench.launch.slurm.queue_view import last_line
from workbench.launch.slurm.submitter import Submitter
from workbench.launch.snapshot import CodeVersion
from workbench.study.layout import Layout
from workbench.study.resources import Resources


@dataclass
class Preparing:
    """A corpus that is not made yet, and the jobs that make it."""

    fingerprint: str
    """Of the data."""
    name: str
    """Of the data, for people."""
    counts: TaskCounts | None
    """Its tasks; None where it was not begun."""
    ledger: Ledger
    """Jobs of earlier launches."""
    submitted: list[str] = field(default_factory=list[str])
    """Ids of the jobs of this launch."""
    refusal: str = ""
    """Why the cluster did not take as many as were wanted."""

    @property
    def live(self) -> list[Entry]:
        """Jobs of earlier launches that are queued or running."""
        return [entry for entry in self.ledger.entries if entry.live]


def submit_corpora(facts: Facts, code: CodeVersion, say: Callable[[str], None]) -> list[Preparing]:
    """Submit the jobs that make a study's corpora; run again, it submits none that is queued or running.

    Parameters
    ----------
    facts
        The study.
    code
        A frozen version of the code.
    say
        Told what a user should know meanwhile.

    Returns
    -------
    list of Preparing
        Those that are not made yet.

    Raises
    ------
    SlurmError
        Slurm is not here, does not answer, or refuses a job for another reason than a limit.
    ValueError
        An input is missing.
    """
    found: list[Preparing] = []
    with launch_lock(facts.layout, say):
        for fingerprint, node in unmade_corpora(facts).items():
            corpus = begin_corpus(facts.layout.data(fingerprint), node.spec.data, node.spec.tokenizer)
            if corpus is None:  # finished meanwhile
                continue
            record_files(node.spec, facts.layout)
            ledger = _read(facts.layout, [fingerprint], wait_to_settle(say))
            preparing = Preparing(fingerprint, node.spec.name, count_tasks(corpus), ledger)
            _submit(facts, code, preparing, facts.config.cluster)
            found.append(preparing)
    return found


def _read(layout: Layout, fingerprints: Sequence[str], on_settling: Callable[[float], None] | None = None) -> Ledger:
    return judge(lambda: claims.list_corpus_claims(layout, fingerprints), on_settling)


def free_places(counts: TaskCounts, live: Sequence[int], cluster: ClusterConfig) -> tuple[list[int], int]:
    """Numbers of the jobs to submit, and CPU cores of each.

    Parameters
    ----------
    counts
        Tasks of the corpus.
    live
        Numbers of the jobs that are queued or running.
    cluster
        Its `prepare_jobs` and `prepare_cpus` bound them, and so do the tasks that can be done at the same time.
    """
    most, cores = jobs_of_corpus(counts.at_once, cluster)
    free = [number for number in range(most + len(live)) if number not in live]
    return free[: max(most - len(live), 0)], cores


def jobs_of_corpus(at_once: int, cluster: ClusterConfig) -> tuple[int, int]:
    """Most jobs that make a corpus, and CPU cores of each, where so many tasks can be done at the same time."""
    cores = min(cluster.prepare_cpus or cluster.cpus_per_node, max(at_once, 1))
    return min(cluster.prepare_jobs, cluster.max_array_tasks, max(math.ceil(at_once / cores), 1)), cores


def preparing_resources(cluster: ClusterConfig, cores: int) -> Resources:
    """Give what a job that makes a corpus asks for: one task, whose worker processes share its cores."""
    return Resources(
        nodes=1,
        processes_per_node=1,
        gpus_per_node=0,
        cpus_per_process=cores,
        memory_bytes_per_node=cluster.prepare_memory_bytes,
        minutes=cluster.prepare_minutes or cluster.time_limit_minutes,
        micro_batch_sequences=None,
        peak_memory_bytes=0,
        seconds=None,
    )


def _submit(facts: Facts, code: CodeVersion, preparing: Preparing, cluster: ClusterConfig) -> None:
    assert preparing.counts is not None
    numbers, cores = free_places(preparing.counts, [entry.claim.index for entry in preparing.live], cluster)
    if cluster.max_submit is not None and numbers:
        queued = sum(job.live for job in slurm.list_queue().values())
        room = max(cluster.max_submit - queued, 0)
        if room < len(numbers):
            numbers = numbers[:room]
            preparing.refusal = f"cluster.max_submit={cluster.max_submit} jobs are queued"
    config = facts.config
    submitter = Submitter(
        facts.layout,
        facts.plan.study,
        replace(cluster, partition=cluster.prepare_partition or cluster.partition),
        config.evaluation,
        config.tracking,
        config.numerics.threads,
        code.facts,
        frozenset(preparing.ledger.void_claims()),
    )
    while numbers:
        parts = [Part(claims.PREPARE, f"{preparing.fingerprint}-{number}") for number in numbers]
        elements = {part: {"data": preparing.fingerprint, "workers": cores} for part in parts}
        try:
            ids = submitter.submit(
                Batch(tuple(parts), tuple(numbers)),
                preparing_resources(cluster, cores),
                elements,
                name=f"{facts.plan.study}/prepare",
            )
        except LimitError as error:
            preparing.refusal = str(error)
            numbers = numbers[: len(numbers) // 2] if error.of_number else []
        else:
            preparing.submitted = list(ids.values())
            return


def look_at_corpora(facts: Facts) -> list[Preparing]:
    """Corpora of a study that are not made yet and were begun, or have jobs.

    Raises
    ------
    SlurmError
        There are claims, and Slurm does not answer.
    """
    found: list[Preparing] = []
    for fingerprint, node in unmade_corpora(facts).items():
        counts = count_begun(building_folder(facts.layout.data(fingerprint)))
        ledger = _read(facts.layout, [fingerprint])
        if counts is not None or ledger.entries:
            found.append(Preparing(fingerprint, node.spec.name, counts, ledger))
    return found


def describe(preparing: Preparing, layout: Layout) -> str:
    """Say in one line how far a corpus is, and who makes it."""
    counts = preparing.counts
    how_far = "begun" if counts is None else f"{counts.done:,} of {counts.tasks:,} tasks are done ({counts.doing})"
    states = [entry.state for entry in preparing.live if entry.state is not None]
    running = sum(state.running for state in states)
    queued = len(states) - running + len(preparing.submitted)
    text = f"data {preparing.name} is being made: {how_far}; {running} jobs running, {queued} queued"
    if not running and not queued:
        text = f"data {preparing.name} is not made yet: {how_far}; no job of it is queued or running"
    text += f"; {counts.waits}" if counts is not None and counts.waits else ""
    ended = [entry for entry in preparing.ledger.entries if entry.state and entry.state.state in slurm.FAILED]
    if ended and ended[-1].state:
        said = last_line(layout, ended[-1])
        text += f"; job {ended[-1].state.id} {ended[-1].state.state}" + (f": {said}" if said else "")
    return text + (f"; the cluster took no more ({preparing.refusal})" if preparing.refusal else "")
