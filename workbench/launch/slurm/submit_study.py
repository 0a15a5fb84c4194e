"""A study on Slurm: what is missing is submitted once, and the launch returns."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.config.schema import Stage, TrainingStage, to_dict
from workbench.forecast.cluster_cost import part_tokens
from workbench.forecast.job_graph import Batch, Part, evaluation_parts, make_batches, training_parts
from workbench.forecast.speeds import ClusterSpeeds
from workbench.forecast.study_facts import Facts, pending_evaluations, prepare_data, unmade_corpora
from workbench.launch.slurm import claim as claims
from workbench.launch.slurm import commands as slurm
from workbench.launch.slurm.corpus_jobs import Preparing, submit_corpora
from workbench.launch.slurm.executor import LimitError, is_single, job_id
from workbench.launch.slurm.launch_lock import launch_lock, wait_to_settle
from workbench.launch.slurm.ledger import Ledger, read_ledger
from workbench.launch.slurm.submitter import Submitter, evaluation_digest, evaluation_resources
from workbench.launch.snapshot import CodeVersion, freeze_code, freeze_study, record_evaluations, write_study
from workbench.study.kind_plan import unprepared_bytes
from workbench.study.resources import Resources, shared_within_nodes, stage_resources, uses_gpus


@dataclass
class Submission:
    """What a launch did."""

    submitted: dict[Part, str] = field(default_factory=dict[Part, str])
    """New jobs: part and Slurm's id."""
    resources: dict[Part, Resources] = field(default_factory=dict[Part, Resources])
    """What each asks for."""
    calls: int = 0
    """Submissions, an array counted once."""
    underway: dict[str, dict[int, str]] = field(default_factory=dict[str, dict[int, str]])
    """By stage: checkpoints that jobs of earlier launches will write."""
    left: list[Part] = field(default_factory=list[Part])
    """What the cluster did not take."""
    refusal: str = ""
    """Why not."""
    preparing: list[Preparing] = field(default_factory=list[Preparing])
    """Corpora that are being made first; trainings are submitted with them only where `cluster.train_after_prepare` says so."""

    def jobs_of(self, stage: str) -> list[str]:
        """Ids of the jobs, new and old, that train a stage."""
        new = [job for part, job in self.submitted.items() if part.stage == stage and part.kind == "train"]
        return [*dict.fromkeys(self.underway.get(stage, {}).values()), *new]


def submit_study(facts: Facts, say: Callable[[str], None], command: str = "") -> Submission:
    """Freeze a study and submit every job it lacks; run again, it submits nothing that is queued, running or done.

    Parameters
    ----------
    facts
        The study.
    say
        Told what a user should know meanwhile.
    command
        What the user typed, kept to be typed again.

    Raises
    ------
    SlurmError
        Slurm is not here, does not answer, or refuses a job for another reason than a limit.
    ValueError
        The study asks for more tokens than there are, or for resources the cluster does not have.
    """
    slurm.list_queue()
    preparing = prepare_on_cluster(facts, say, command) if unmade_corpora(facts) else []
    if preparing and not _may_wait_in_the_queue(facts, preparing, say):
        return Submission(preparing=preparing)
    prepare_data(facts, say, leave={each.fingerprint for each in preparing})
    with launch_lock(facts.layout, say):
        ledger = read_ledger(facts.plan, facts.layout, wait_to_settle(say))
        code = freeze_code(facts.layout)
        facts = freeze_study(facts, code, ledger.underway(), command, {"kind": "slurm"})
        launch = _Launch(facts, code, ledger)
        launch.result.preparing = preparing
        training = training_parts(facts.plan, facts.settled(), launch.underway)
        launch.submit([*training, *launch.evaluations(training)])
        launch.submit_publishing()
        return launch.result


def _may_wait_in_the_queue(facts: Facts, preparing: Sequence[Preparing], say: Callable[[str], None]) -> bool:
    """Whether trainings can be submitted before their corpora are made; why not is said where the user asked for it."""
    if not facts.config.cluster.train_after_prepare:
        return False
    for node in facts.plan.nodes.values():
        if node.stage.data_fingerprint in facts.plan.corpora and unprepared_bytes(node.stage, facts.layout):
            say(
                f"{node.stage.label} reads what is prepared with the corpus's tokenizer, so no training is submitted yet"
            )
            return False
    if any(point.config.data.unique_tokens is not None for point in facts.plan.points):
        say("data.unique_tokens is held against the corpus before training, so no training is submitted yet")
        return False
    return all(each.live or each.submitted for each in preparing)


def prepare_on_cluster(facts: Facts, say: Callable[[str], None], command: str = "") -> list[Preparing]:
    """Submit what makes a study's corpora; the study's record is written, so that its name will do for other commands.

    Parameters
    ----------
    facts, say
        As for `submit_study`, and so are the errors.
    command
        What the user typed to run the study; empty leaves a record as it is.
    """
    slurm.list_queue()
    code = freeze_code(facts.layout)
    if command or not facts.layout.study_file(facts.plan.study).exists():
        write_study(facts, code.commit, code.dirty, command, {"kind": "slurm"})
    return submit_corpora(facts, code, say)


def submit_evaluations(facts: Facts, say: Callable[[str], None]) -> Submission:
    """Submit one array for every checkpoint of a study that lacks a result and that no live job scores."""
    with launch_lock(facts.layout, say):
        record_evaluations(facts)
        launch = _Launch(facts, freeze_code(facts.layout), read_ledger(facts.plan, facts.layout, wait_to_settle(say)))
        # What a live training will write is scored by the evaluation that was submitted with it.
        launch.submit([replace(part, after=None) for part in launch.evaluations([]) if part.stage in launch.unscored])
        launch.submit_publishing()
        return launch.result


class _Launch:
    """One launch, from the parts that are missing to Slurm's ids."""

    def __init__(self, facts: Facts, code: CodeVersion, ledger: Ledger) -> None:
        self.facts, self.ledger = facts, ledger
        self.plan, self.cluster = facts.plan, facts.config.cluster
        self.underway = ledger.underway()
        self.speeds = ClusterSpeeds(facts.layout, self.cluster.name)
        self.unscored = {checkpoint.parent.parent.name for checkpoint, _ in pending_evaluations(facts)}
        self.result = Submission(underway=self.underway)
        self.submitter = Submitter(
            facts.layout,
            facts.plan.study,
            facts.config.cluster,
            facts.plan.evaluation,
            facts.config.tracking,
            facts.config.numerics.threads,
            code.facts,
            ledger.void_claims(),
        )
        self.full = False
        self.room: int | None = None
        if self.cluster.max_submit is not None:
            self.room = max(0, self.cluster.max_submit - sum(job.live for job in slurm.list_queue().values()))

    def evaluations(self, training: Sequence[Part]) -> list[Part]:
        """List evaluations that no live job does."""
        evaluation = self.plan.evaluation
        if not evaluation.suites:
            return []
        live = {(e.claim.stage, e.claim.name) for e in self.ledger.of("evaluate") if e.live}
        parts = evaluation_parts(self.plan, evaluation_digest(evaluation), training, self.underway, self.unscored, live)
        return [part for part in parts if part.after is None or not self.cluster.submit_from_node]

    def submit(self, parts: Sequence[Part]) -> None:
        """Submit as much as the cluster takes, predecessors first."""
        self.result.resources |= {part: self._resources(part) for part in parts}
        batches = make_batches(parts, self._alike, self.cluster.max_array_tasks)
        jobs: dict[int, str] = {}
        for position, batch in enumerate(batches):
            awaited = [one for one in (batch.after, *batch.also) if isinstance(one, int)]
            if not self.full and all(one in jobs for one in awaited):
                self._submit_as_much(position, batch, batches, jobs)
            self.result.left += [part for part in batch.parts if part not in self.result.submitted]

    def submit_publishing(self) -> None:
        """Publish after everything; an earlier publishing that still waits is not needed any more."""
        old = [e for e in self.ledger.entries if e.live and e.state is not None]
        if self.full or not (self.result.submitted or self._owes_publishing()):
            return
        jobs = [e.state.id for e in old if e.state and e.claim.kind != "publish"] + list(self.result.submitted.values())
        part = Part("publish", claims.new_token())
        self.result.resources[part] = evaluation_resources(self.cluster)
        numbers = sorted({job.split("_")[0] for job in jobs}, key=int)
        dependency = "afterany:" + ":".join(numbers) if numbers else None
        if self._attempt(Batch((part,), (0,)), dependency) is None:
            self.result.left.append(part)
            return
        slurm.cancel([e.state.id for e in old if e.state and e.claim.kind == "publish" and not e.state.running])

    def _owes_publishing(self) -> bool:
        """Whether jobs are left that no live publishing waits for, or the latest publishing ended badly."""
        publishings = self.ledger.of("publish")
        if any(entry.live for entry in publishings):
            return False
        ended_badly = bool(publishings) and (
            publishings[-1].state is None or publishings[-1].state.state != "COMPLETED"
        )
        return ended_badly or bool(self.ledger.live_jobs())

    def _submit_as_much(self, position: int, batch: Batch, batches: Sequence[Batch], jobs: dict[int, str]) -> None:
        """Submit a batch, or where the number of jobs is limited the largest part of it that is taken."""
        size = len(batch.parts) if self.room is None else min(len(batch.parts), self.room)
        if size < len(batch.parts):
            self.result.refusal = f"cluster.max_submit={self.cluster.max_submit} jobs are queued"
            self.full = True
        while size:
            some = replace(batch, parts=batch.parts[:size], indices=batch.indices[:size])
            job = self._attempt(some, self._dependency(some, batches, jobs))
            if job is not None:
                jobs[position] = job
                return
            size = size // 2 if self.full else 0

    def _dependency(self, batch: Batch, batches: Sequence[Batch], jobs: Mapping[int, str]) -> str | None:
        others = [f"afterok:{jobs[one] if isinstance(one, int) else one}" for one in batch.also]
        own = self._own_dependency(batch, batches, jobs)
        # All of them: of several joined by "or" (`?`), one that was cancelled in the queue would let the trainings begin.
        data = [f"afterok:{':'.join(makers)}" for makers in self._makers_of_data(batch)]
        return ",".join([*([own] if own else []), *others, *data]) or None

    def _makers_of_data(self, batch: Batch) -> list[list[str]]:
        """Live jobs that make the corpora which a batch's stages read, by corpus; what waits for another batch waits for it."""
        if batch.parts[0].kind != "train" or isinstance(batch.after, int):
            return []
        read = dict.fromkeys(self.plan.nodes[part.stage].stage.data_fingerprint for part in batch.parts)
        found = [[e.state.id for e in self.ledger.making(each) if e.live and e.state is not None] for each in read]
        return [jobs for jobs in found if jobs]

    def _own_dependency(self, batch: Batch, batches: Sequence[Batch], jobs: Mapping[int, str]) -> str | None:
        if batch.after is None:
            return None
        single = "afterany" if batch.parts[0].kind == "evaluate" else "afterok"
        if isinstance(batch.after, str):
            return f"{single}:{batch.after}"
        job = jobs[batch.after]
        if batch.paired and is_single(batch.indices):
            return f"{single}:{job_id(job, batches[batch.after].indices, 0)}"
        # Slurm pairs elements for `aftercorr` alone; what a failed training leaves unscored is scored at the end.
        return f"{'aftercorr' if batch.paired else single}:{job}"

    def _attempt(self, batch: Batch, dependency: str | None) -> str | None:
        """Submit, and return the id without an element's index; None where a limit stands against it."""
        each = [self.result.resources[part] for part in batch.parts]
        longest = replace(each[0], minutes=max(resources.minutes for resources in each))
        elements = {part: self._element(part) for part in batch.parts}
        try:
            ids = self.submitter.submit(
                batch, longest, elements, name=self._job_name(batch.parts[0]), dependency=dependency
            )
        except LimitError as error:
            self.result.refusal = str(error)
            self.full = self.full or error.of_number
            return None
        self.result.calls += 1
        self.result.submitted |= ids
        if self.room is not None:
            self.room -= len(ids)
        return ids[batch.parts[0]].split("_")[0]

    def _job_name(self, part: Part) -> str:
        if part.kind == "publish":
            return f"{self.plan.study}/publish"
        stage = self.plan.nodes[part.stage].stage
        return f"{self.plan.study}/{stage.model.name}/{stage.name if part.kind == 'train' else 'evaluate'}"

    def _alike(self, part: Part) -> Hashable:
        """Name what parts of one array have in common."""
        resources = replace(self.result.resources[part], minutes=0, seconds=None)
        stage = self.plan.nodes[part.stage].stage
        return part.kind, stage.model.name, stage.name, resources

    def _resources(self, part: Part) -> Resources:
        if part.kind != "train":
            return evaluation_resources(self.cluster)
        resumable = self.facts.resumable(part.stage) | set(self.underway.get(part.stage, {}))
        tokens = part_tokens(self.plan, part, resumable)
        stage = self.plan.nodes[part.stage].stage
        return stage_resources(stage, self.cluster, tokens, self.speeds.get(stage))

    def _element(self, part: Part) -> dict[str, Any]:
        """Facts of a part that its job needs beside the batch's."""
        if part.kind == "publish":
            return {}
        milestones = {"milestones": self.plan.nodes[part.stage].stage.milestones}
        return milestones | ({"frozen": to_dict(self._frozen(part))} if part.kind == "train" else {})

    def _frozen(self, part: Part) -> Stage:
        """Give the stage as its job is to compute it: on the device that was asked for, or not at all."""
        stage = self.plan.nodes[part.stage].stage
        numerics = replace(stage.numerics, device="cuda" if uses_gpus(stage, self.cluster) else "cpu")
        micro_batch = self.result.resources[part].micro_batch_sequences
        if micro_batch is not None:
            numerics = replace(numerics, micro_batch_sequences=micro_batch)
        frozen = replace(stage, numerics=numerics)
        per_node = self.result.resources[part].processes_per_node
        return shared_within_nodes(frozen, per_node) if isinstance(frozen, TrainingStage) else frozen
