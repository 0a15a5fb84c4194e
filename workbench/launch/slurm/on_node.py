"""What runs on a node: `python -P -m workbench.launch.slurm.on_node BATCH`, every task of every element of a batch.

The batch's file says what to do; nothing else is read of the launch. Rank 0 alone writes, and alone puts the
job back into the queue.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from workbench.config.schema import ClusterConfig, EvaluationConfig, Stage, TrackingConfig, from_dict
from workbench.data.corpus.pipeline import building_folder
from workbench.data.corpus.task_counts import count_begun
from workbench.launch.slurm import claim as claims
from workbench.launch.slurm.early_warning import EarlyWarning, patience_seconds
from workbench.launch.slurm.interrupt import Interrupt
from workbench.study.checkpoint_copies import writes_beside
from workbench.study.files import write_atomically
from workbench.study.kind_plan import progress
from workbench.study.layout import Layout
from workbench.study.study_record import milestone_tokens, read_record

FINISHED, FAILED, STOPPED = 0, 1, 143
_REQUEUE_SECONDS = 60.0
_TURNS = 5
"""Turns in the queue without any progress, after which a job fails rather than burn time for ever."""
_PORTS = (16384, 32767)
_COLLECTIVE_SECONDS = 1800.0
"""A process that does not come for this long is gone; the longest wait is for rank 0 to hash a large checkpoint."""


class Job:
    """One task of a job: its element of the batch, its rank, and its signals."""

    def __init__(self, batch_file: Path) -> None:
        self.file = batch_file
        self.batch: dict[str, Any] = json.loads(batch_file.read_text(encoding="utf-8"))
        self.layout = Layout(Path(self.batch["outputs"]))
        self.cluster = from_dict(ClusterConfig, self.batch["cluster"])
        self.index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
        self.element: dict[str, Any] = self.batch["elements"][str(self.index)]
        self.kind: str = self.batch["kind"]
        self.stage: str = self.element["stage"]
        # The raw id of one of an array's elements is the array's own, which would mean all of them.
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        self.id = f"{array}_{self.index}" if array else os.environ.get("SLURM_JOB_ID", "")
        self.rank = int(os.environ.get("SLURM_PROCID", "0"))
        self.size = int(os.environ.get("SLURM_NTASKS", "1"))
        self.patience_seconds = patience_seconds(self.cluster.signal_seconds)
        self.interrupt = Interrupt(self.leave, self.patience_seconds)

    def run(self) -> int:
        """Do the job; return its exit status."""
        self.interrupt.listen()
        self._check_code()
        if not self._is_ours():
            self.say("another submission has taken this over; nothing to do")
            return FINISHED
        if self._gained_nothing():
            # Starting took until the signal: this turn goes on through the time that is kept for a checkpoint.
            self.interrupt.end_orderly()
        from workbench.train.distributed import RemoteError

        try:
            work = {"train": self.train, "evaluate": self.evaluate, "publish": self.publish, "prepare": self.prepare}
            status = work[self.kind]()
        except (RuntimeError, RemoteError) as error:
            if not self.interrupt.is_asked() or self.size == 1:
                raise
            # A rank that was told to leave takes the others' connections with it.
            self.say(f"stopped by {type(error).__name__}: {error}")
            status = STOPPED
        self.interrupt.finish()
        if self.interrupt.is_asked() and status != FINISHED:
            return self.go_back()
        return status

    def _check_code(self) -> None:
        import workbench

        ours = self.layout.code_copy(self.batch["code"]["copy"]).resolve()
        found = Path(workbench.__file__).resolve()
        if not found.is_relative_to(ours):
            raise RuntimeError(f"this job was to import its own copy {ours}, and has imported {found}")

    def _is_ours(self) -> bool:
        e = self.element
        held = claims.read(claims.claim_path(self.layout, self.kind, e["name"], e["stage"], self.batch["study"]))
        return held is None or held.token == self.batch["token"]

    # ------------------------------------------------------------------------------- the four kinds

    def prepare(self) -> int:
        """Work on a corpus, beside the other jobs that do."""
        from workbench.launch.slurm.corpus_worker import make_corpus

        directory = self.layout.data(self.element["data"])
        return FINISHED if make_corpus(directory, self.element["workers"], self.interrupt, self.say) else STOPPED

    def train(self) -> int:
        """Train one segment of a stage, with the other ranks."""
        from workbench.forecast.speeds import ClusterSpeeds
        from workbench.train.distributed import join
        from workbench.train.hooks import Hooks, StoppedError
        from workbench.train.loop import stage_device
        from workbench.train.whole_stage import train_stage

        frozen = from_dict(Stage, self.element["frozen"])
        self._check_corpus(self.layout.data(frozen.data_fingerprint))
        early = self._early_warning(frozen) if self.rank == 0 else None
        hooks = Hooks(
            should_stop=lambda: self._is_to_stop(early),
            # Until the first step is done (imports, rendezvous, loading, compilation) there is nothing to save.
            on_progress=lambda progress: self.interrupt.end_orderly(),
            on_checkpoint=self._submit_evaluation,
            on_written=lambda seconds: early and early.written(seconds),
            log=self.say,
        )
        with join(**self._rendezvous(), device=stage_device(frozen), timeout_seconds=_COLLECTIVE_SECONDS) as world:
            try:
                train_stage(
                    self.layout,
                    self.stage,
                    hooks,
                    world,
                    self.element["targets"],
                    frozen,
                    self.batch["code"],
                )
            except StoppedError as error:
                self.say(str(error))
                if not self.interrupt.is_asked():  # rank 0 was warned, or another rank has heard a signal first
                    self.interrupt.warn(self.patience_seconds, requeue=False)
                return STOPPED
        if self.rank == 0:
            ClusterSpeeds(self.layout, self.cluster.name).remember(self.layout, self.stage, frozen, self.size)
        return FINISHED

    def _early_warning(self, stage: Stage) -> EarlyWarning:
        from workbench.train.loop import stage_device

        writes = 2 if writes_beside(stage, stage_device(stage).type) else 1
        file = self.file.with_name(f"writes-{self.index}.json")
        return EarlyWarning(self.cluster.signal_seconds, writes, file, self._ask_end)

    def _is_to_stop(self, early: EarlyWarning | None) -> bool:
        """Whether a signal has come, or is expected too late for the checkpoints of a stop."""
        if early is not None and not self.interrupt.is_asked() and early.is_due():
            self.say(
                f"the limit is near for checkpoints that take {early.write_seconds:.1f} s: stopping before its signal"
            )
            self.interrupt.warn(early.left_seconds(), requeue=True)
        return self.interrupt.is_asked()

    def _check_corpus(self, directory: Path) -> None:
        """Refuse to begin on a corpus whose jobs were all cancelled in the queue, which Slurm takes for well ended."""
        if building_folder(directory).exists() and not (directory / "manifest.json").exists():
            raise RuntimeError(f"the corpus {directory.name} is not made: launch again, which submits its jobs")

    def _rendezvous(self) -> dict[str, Any]:
        from submitit.helpers import TorchDistributedEnvironment

        environment = TorchDistributedEnvironment()
        return {
            "rank": environment.rank,
            "size": environment.world_size,
            "local_rank": environment.local_rank,
            "address": environment.master_addr,
            "port": int(os.environ.get("MASTER_PORT", 0)) or self._port(),
        }

    def _port(self) -> int:
        """Where rank 0 listens: every task computes the same, and another turn in the queue gives another.

        Below the ports that systems give to outgoing connections (Linux: from 32768 on; IANA: from 49152 on): one of
        those stays taken for a minute after its connection has ended, and Slurm's commands leave hundreds.
        """
        turn = f"{self.id} {os.environ.get('SLURM_RESTART_COUNT', '0')}"
        return random.Random(turn).randint(*_PORTS)

    def _submit_evaluation(self, checkpoint: Path) -> None:
        """Where nodes may submit, have a milestone scored now."""
        if not self.cluster.submit_from_node or self.rank != 0:
            return
        from workbench.train.checkpoint import read_manifest

        milestones = self.element["milestones"]
        if read_manifest(checkpoint)["tokens"] not in milestones:
            return
        from workbench.launch.slurm.commands import SlurmError
        from workbench.launch.slurm.submitter import submit_evaluation

        try:
            submit_evaluation(self.layout, self.batch, self.stage, milestones)
        except (SlurmError, OSError) as error:
            self.say(f"the evaluation could not be submitted now and is left to the end: {error}")

    def evaluate(self) -> int:
        """Score every checkpoint of the stage that has no result, until none is left."""
        return self._score([self.stage])

    def _score(self, stages: Iterable[str]) -> int:
        from workbench.evaluate.reconcile import EvaluationError, Evaluator, next_checkpoint, pending
        from workbench.train.attempt_status import note_evaluation_error

        evaluation = from_dict(EvaluationConfig, self.batch["evaluation"])
        device = "cuda" if self.cluster.evaluation_gpus else "cpu"
        evaluator = Evaluator(self.layout, evaluation, self.batch["threads"], device)
        failed: set[tuple[Path, str]] = set()
        scored: set[str] = set()
        while True:
            todo = [pair for pair in pending(self._milestones(stages), evaluation, self.layout) if pair not in failed]
            if not todo:
                for stage in scored - {checkpoint.parents[1].name for checkpoint, _ in failed}:
                    note_evaluation_error(self.layout.stage(stage), None)
                return FAILED if failed else FINISHED
            for place, (checkpoint, suite) in enumerate(todo):
                stage = checkpoint.parents[1].name
                name = f"{suite} of {stage}/{checkpoint.name}"
                try:
                    evaluator.evaluate(checkpoint, suite, next_checkpoint(todo, place))
                    scored.add(stage)
                    self.say(f"evaluated {name}")
                except EvaluationError as error:
                    failed.add((checkpoint, suite))
                    note_evaluation_error(self.layout.stage(stage), f"{name}: {error}")
                    self.say(f"evaluation of {name} failed: {error}")

    def _milestones(self, stages: Iterable[str]) -> list[Path]:
        """Checkpoints that are there and that this launch, or the study's latest, wants scored."""
        from workbench.train.checkpoint import checkpoints_by_tokens

        wanted = milestone_tokens(read_record(self.layout, self.batch["study"]))
        found: list[Path] = []
        for stage in stages:
            present = checkpoints_by_tokens(self.layout.stage(stage))
            tokens = {*wanted.get(stage, []), *(self.element.get("milestones", []) if stage == self.stage else [])}
            found += [present[t] for t in sorted(tokens) if t in present]
        return found

    def publish(self) -> int:
        """Score what is still unscored, send the study to MLflow, and draw its figures."""
        from workbench.tracking.mlflow import PublishError, publish_study

        study = self.batch["study"]
        status = self._score(milestone_tokens(read_record(self.layout, study)))
        tracking = from_dict(TrackingConfig, self.batch["tracking"])
        if not tracking.publish:
            return status
        try:
            report = publish_study(self.layout, study, tracking.uri, tracking.timeout_seconds)
        except PublishError as error:
            self.say(str(error))
            return FAILED
        self.say(f"published {report}")
        command = [sys.executable, "-P", "-m", "workbench.cli", "report", study]
        environment = {**os.environ, "WORKBENCH_OUTPUTS": str(self.layout.root)}
        return max(status, subprocess.call(command, env=environment))

    # ------------------------------------------------------------------------------- leaving

    def leave(self) -> None:
        """End at once: what is on the disk stands, the rest is done again."""
        self.say("leaving before the work could end by itself")
        os._exit(self.go_back())

    def go_back(self) -> int:
        """Put the job back into the queue, unless the user has cancelled it."""
        if self.rank != 0:
            # Rank 0 speaks to Slurm, which then ends this task; ending first would look like a failure.
            if self.is_to_return():
                self.interrupt.expect_the_end()
                self.interrupt.await_the_end(_REQUEUE_SECONDS)
            return STOPPED
        from workbench.launch.slurm.commands import SlurmError, requeue

        if not self.is_to_return():
            self.say("ended as it was told to; the same launch continues from the last checkpoint")
            return STOPPED
        if self._stands_still():
            self.say(f"{_TURNS} turns in the queue brought nothing new: a job's time is too short for what it must do")
            return FAILED
        self.say("back into the queue under the same id")
        self.interrupt.expect_the_end()
        try:
            requeue(self.id, _REQUEUE_SECONDS)
        except SlurmError as error:
            # Slurm may end the job, and `scontrol` with it, before `scontrol` has its answer.
            if not self.interrupt.is_told_to_end():
                self.say(f"not requeued ({error}); the same launch continues from the last checkpoint")
        else:
            self.interrupt.await_the_end(_REQUEUE_SECONDS)
        return STOPPED

    def is_to_return(self) -> bool:
        """Whether the job was pre-empted or is out of time, and not cancelled."""
        facts = self._ask_slurm()
        if facts is None:
            return self.interrupt.requeue
        if facts.get("JobState") not in ("RUNNING", "PREEMPTED"):
            return False  # cancelled
        # A TERM alone is a pre-emption's, or srun's because another task has failed.
        return self.interrupt.requeue or facts.get("PreemptTime", "None") not in ("None", "N/A", "Unknown")

    def _ask_slurm(self) -> dict[str, str] | None:
        """Ask what Slurm says of the job; None where it is silent."""
        from workbench.launch.slurm.commands import SlurmError, call

        try:
            text = call(["scontrol", "--oneliner", "show", "job", self.id], patience=10.0)
        except SlurmError:
            return None
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def _ask_end(self) -> float | None:
        """When Slurm is going to end the job, in seconds since 1970; None where it does not say."""
        try:
            return datetime.fromisoformat((self._ask_slurm() or {})["EndTime"]).timestamp()
        except (KeyError, ValueError):  # no answer, or `Unknown`
            return None

    def _stands_still(self) -> bool:
        """Whether the last turns in the queue have all ended where the one before them did."""
        seen = [*self._turns(), self._progress()]
        write_atomically(self._turns_file, json.dumps(seen))
        return len(seen) > _TURNS and len(set(seen[-_TURNS - 1 :])) == 1

    def _gained_nothing(self) -> bool:
        """Whether the job's last turn in the queue ended without anything new on the disk."""
        seen = [0, *self._turns()]
        return len(seen) > 1 and seen[-1] == seen[-2]

    @property
    def _turns_file(self) -> Path:
        return self.file.with_name(f"turns-{self.index}.json")

    def _turns(self) -> list[int]:
        """Return what was on the disk at the end of each turn."""
        turns = self._turns_file
        return json.loads(turns.read_text(encoding="utf-8")) if turns.exists() else []

    def _progress(self) -> int:
        """Count what is on the disk: what the stage's kind counts of it, tasks of a corpus, or results of the study."""
        if self.kind == "train":
            return progress(from_dict(Stage, self.element["frozen"]), self.layout.stage(self.stage))
        if self.kind == "prepare":
            counts = count_begun(building_folder(self.layout.data(self.element["data"])))
            return -1 if counts is None else counts.done
        stages = [self.stage] if self.stage else list(milestone_tokens(read_record(self.layout, self.batch["study"])))
        return sum(len(list(self.layout.stage(stage).path.glob("checkpoints/*/evals/*.json"))) for stage in stages)

    def say(self, text: str) -> None:
        """Write a line into the job's log, and rank 0 into its stage's."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
        print(line, flush=True)  # noqa: T201
        if self.rank == 0 and self.stage:
            with self.layout.stage(self.stage).log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def main() -> None:
    """Run one task; its traceback is the end of its log."""
    job = Job(Path(sys.argv[1]))
    try:
        status = job.run()
    except Exception as error:
        traceback.print_exc()
        job.say(f"failed: {type(error).__name__}: {error}")
        status = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    # Libraries' threads must not keep a job alive that has ended.
    os._exit(status)


if __name__ == "__main__":
    main()
