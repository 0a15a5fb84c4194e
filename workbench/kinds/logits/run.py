"""The work of keeping logits: one forward pass of the teacher over the sequences that students will draw.

Rows are appended to two files beside the checkpoints, and `progress.json` says how many of them are on the disk; from there
an interrupted stage goes on. At a target the files become a checkpoint, whole or not at all. Batches begin at multiples of
their size and end at targets, wherever a stage was interrupted, so that its bits do not depend on it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from workbench.data.stream import Stream
from workbench.kinds.distill.run import load_teacher
from workbench.kinds.logits.kept_logits import (
    IDS,
    LOG_Q,
    LOG_Q_DTYPE,
    PROGRESS,
    WORK,
    bytes_per_token,
    ids_dtype,
    next_gap,
    put_others_aside,
    read_progress,
    weights_checksum,
)
from workbench.kinds.logits.spec import Spec
from workbench.model.attention import check_attention, takes_borders
from workbench.model.batch import Batch
from workbench.model.init import init_weights
from workbench.model.matmul import check_products, products_by, products_record
from workbench.model.sparse_distillation import most_probable
from workbench.model.transformer import Transformer
from workbench.study.files import exclusive, fsync, write_atomically
from workbench.study.kind_plan import flops_per_token
from workbench.train import checkpoint as ckpt
from workbench.train.determinism import determinism, is_deterministic
from workbench.train.drawn_batch import make_batch
from workbench.train.freed_memory import keep_freed_memory
from workbench.train.hooks import Progress, StoppedError
from workbench.train.interval import CheckpointClock
from workbench.train.job import StageJob
from workbench.train.loop import stage_device
from workbench.train.micro_batch import choose_micro_batch
from workbench.train.step import autocast
from workbench.train.targets import keep_targets, missing_targets


@dataclass(frozen=True)
class Answer:
    """What a teacher says of n sequences."""

    ids: NDArray[Any]
    """Most probable ids, (n, T, k)."""
    log_q: NDArray[np.float16]
    """Logarithms of their probabilities, (n, T, k)."""
    loss: float
    """The teacher's own cross-entropy on the text, summed over targets, in nats."""
    targets: float
    """Targets of the text: positions without padding."""


def run(job: StageJob) -> None:
    """Ask the teacher of every sequence up to each goal.

    Raises
    ------
    StoppedError
        It was asked to stop; what has been computed is on the disk.
    DiskFullError
        There is no room for what is to be kept, with both numbers.
    """
    LogitsRun(job).all_targets()


HAS_PLAIN_LOSS = False
"""It has none."""


class LogitsRun:
    """One process's attempt at a stage; each computes its share of a batch, and rank 0 writes."""

    def __init__(self, job: StageJob) -> None:
        self.job, self.stage, self.world = job, cast(Spec, job.stage), job.world
        self.work = job.dir.path / WORK
        read = self.stage.inputs["teacher"]
        path, manifest = self.world.main_only(lambda: job.read_input(read.stage, read.tokens))
        self.teacher_files = manifest["files"]
        self.teacher_weights = weights_checksum(self.teacher_files)
        self.world.together(lambda: self._prepare(path))
        self.clock = CheckpointClock(self.stage.checkpoint.interval_seconds, 0)

    def _prepare(self, teacher: Path) -> None:
        stage = self.stage
        self.device = self.world.device or stage_device(stage)
        check_attention(stage.numerics.attention, self.device)
        check_products(stage.numerics.products, self.device)
        if self.device.type == "cpu":
            torch.set_num_threads(stage.numerics.threads)
            keep_freed_memory()
        self.prepared = self.job.open_data()
        self.stream = Stream(self.prepared, stage.stream)
        self.stream.check(stage.sequences(max(self.job.goals)))
        self.deterministic = is_deterministic(stage.numerics, self.device)
        self.micro_batch = choose_micro_batch(stage, self.world.size, self.device)
        self.teacher = load_teacher(teacher, stage.model, stage.numerics.attention, self.device)

    def all_targets(self) -> None:
        """Reach every missing target, each from the one before it, and fill the gaps before it."""
        self.world.main_only(self._put_others_aside)
        products = products_by(self.stage.numerics.products, self.stage.numerics.threads)
        with determinism(self.deterministic, self.device), products:
            for goal in self.world.main_only(lambda: missing_targets(self.job.dir, self.stage, self.job.goals)):
                self._reach(goal)

    def _put_others_aside(self) -> None:
        for path in put_others_aside(self.job.dir, self.teacher_weights):
            self.job.hooks.log(f"the teacher was trained anew since it was asked: {path.name} is of its former weights")

    def _reach(self, goal: int) -> None:
        stage = self.stage
        begin, ends = (
            stage.sequences(stage.start_tokens),
            [stage.sequences(t) for t in {*stage.targets, goal} if t <= goal],
        )
        while (gap := self.world.main_only(lambda: next_gap(self.job.dir, begin, ends))) is not None:
            self._fill(gap.start, gap.stop)

    def _fill(self, first: int, stop: int) -> None:
        """Make a checkpoint of the sequences from `first` to before `stop`."""
        stage = self.stage
        at = self.world.main_only(lambda: self._resume(first, stop))
        while at < stop:
            began, rows = time.perf_counter(), _batch(at, stop, stage.batch_sequences)
            answers = self.world.gather(self.world.together(partial(self._ask, rows)))
            self.world.main_only(partial(self._append, answers))
            at = rows.stop
            asked = self.world.together(partial(self._tell, rows, answers, time.perf_counter() - began))
            stopped, due = self.world.any_(asked, self.world.is_main and self.clock.is_due())
            if stopped or due:
                self.world.main_only(partial(self._note, first, at))
            if stopped and at < stop:
                raise StoppedError(f"stage {self.job.dir.id} stopped at sequence {at}")
        self._keep(first, stop)

    def _tell(self, rows: range, answers: list[Answer], seconds: float) -> bool:
        """Tell of a batch, the teacher's loss among it; whether to stop."""
        context, goal = self.stage.stream.context_tokens, max(self.job.goals)
        tokens, reached = len(rows) * context, rows.stop * context
        loss = sum(answer.loss for answer in answers) / sum(answer.targets for answer in answers)
        start = self.stage.start_tokens
        self.job.hooks.on_progress(Progress(self.job.dir.id, rows.stop, reached, start, goal, loss, tokens / seconds))
        return self.job.hooks.should_stop()

    def _ask(self, rows: range) -> Answer:
        """Ask of this process's share of a batch."""
        size, rank = self.world.size, self.world.rank
        mine = rows[len(rows) * rank // size : len(rows) * (rank + 1) // size]
        drawn, masked = self.stream.draw(mine.start, len(mine)), self.stage.stream.document_mask
        bounded = takes_borders(self.stage.numerics.attention)
        batch = make_batch(drawn, self._to_device, self.prepared.bos_id, document_mask=masked, bounded=bounded)
        return ask(self.teacher, self.stage, batch, self.micro_batch)

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _resume(self, first: int, stop: int) -> int:
        """Cut the files to what is known to be on the disk, and give the sequence to go on with."""
        self.work.mkdir(exist_ok=True)
        noted = read_progress(self.job.dir)
        ours = noted.get("first") == first and noted.get("teacher") == self.teacher_weights
        at = noted["next"] if ours and noted["next"] <= stop else first
        try:
            for name, row in self._row_bytes().items():
                with (self.work / name).open("ab") as file:
                    at = min(at, first + file.tell() // row)
            for name, row in self._row_bytes().items():
                with (self.work / name).open("ab") as file:
                    file.truncate((at - first) * row)
        except OSError as error:
            raise self._without_room(error) from error
        needed = (stop - at) * sum(self._row_bytes().values())
        free = shutil.disk_usage(self.work).free
        if free < needed:
            raise ckpt.DiskFullError(_no_room(self.work, needed, free))
        if at > first:
            self.job.hooks.log(f"goes on at sequence {at}")
        return at

    def _row_bytes(self) -> dict[str, int]:
        """Bytes of a sequence in each file."""
        stage = self.stage
        numbers = stage.stream.context_tokens * stage.top_k
        sizes = {IDS: ids_dtype(stage.vocab_size).itemsize, LOG_Q: LOG_Q_DTYPE.itemsize}
        return {name: numbers * size for name, size in sizes.items()}

    def _append(self, answers: list[Answer]) -> None:
        try:
            for name, parts in {IDS: [a.ids for a in answers], LOG_Q: [a.log_q for a in answers]}.items():
                with (self.work / name).open("ab") as file:
                    for part in parts:
                        file.write(np.ascontiguousarray(part).data)
        except OSError as error:
            raise self._without_room(error) from error

    def _without_room(self, error: OSError) -> Exception:
        """Give the error to raise: of a full disk with what is free, any other as it is."""
        if not ckpt.is_disk_full(error):
            return error
        needed = sum(self._row_bytes().values()) * self.stage.batch_sequences
        return ckpt.DiskFullError(_no_room(self.work, needed, shutil.disk_usage(self.work).free))

    def _note(self, first: int, at: int) -> None:
        """Bring the rows to the disk, and then their number."""
        began = time.monotonic()
        for name in (IDS, LOG_Q):
            fsync(self.work / name)
        write_atomically(
            self.work / PROGRESS, json.dumps({"first": first, "next": at, "teacher": self.teacher_weights})
        )
        self.clock.saved(time.monotonic() - began)

    def _keep(self, first: int, stop: int) -> None:
        """Make a checkpoint of the files."""
        path = ckpt.write_checkpoint(
            self.job.dir,
            stop,
            self._move,
            self._manifest(first, stop),
            keep=True,
            needed_bytes=0,
            world=self.world,
            say=self.job.hooks.log,
        )
        self.world.main_only(lambda: self._after(path))

    def _move(self, folder: Path) -> dict[str, Any]:
        if self.world.is_main:
            (self.work / PROGRESS).unlink(missing_ok=True)
            for name in (IDS, LOG_Q):
                (self.work / name).replace(folder / name)
        return {}

    def _after(self, path: Path) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        with exclusive(self.job.dir.path / "freeze.lock"):
            keep_targets(self.job.dir, self.stage)
        self.job.hooks.on_checkpoint(path)

    def _manifest(self, first: int, stop: int) -> dict[str, Any]:
        stage = self.stage
        tokens = stage.origin.tokens + stop * stage.stream.context_tokens
        return self.job.manifest(
            self.prepared,
            step=stop,
            tokens=tokens,
            sequences=stop,
            annealed=False,
            flops=float(flops_per_token(stage) * (tokens - stage.start_tokens)),
            counts={},
            numerics={
                **{key: value for key, value in asdict(stage.numerics).items() if key != "pad_vocabulary"},
                "device": self.device.type,
                "deterministic": self.deterministic,
                "micro_batch_sequences": self.micro_batch,
                "world_size": self.world.size,
                "torch": torch.__version__,
                **products_record(stage.numerics.products, self.device),
            },
            logits={
                "first": first,
                "stop": stop,
                "context_tokens": stage.stream.context_tokens,
                "top_k": stage.top_k,
                "ids_dtype": ids_dtype(stage.vocab_size).str,
                "log_q_dtype": LOG_Q_DTYPE.str,
                "bytes_per_token": bytes_per_token(stage.top_k, stage.vocab_size),
                "teacher_files": self.teacher_files,
            },
        )


def ask(teacher: Transformer, stage: Spec, batch: Batch, micro_batch: int) -> Answer:
    """Ask a teacher of sequences, in the stage's precision.

    Parameters
    ----------
    teacher
        In evaluation mode, on the batch's device.
    stage
        Precision, and how much is kept.
    batch
        B sequences, as students are trained on them.
    micro_batch
        Sequences of one forward pass.
    """
    head, dtype = teacher.head_weight[: stage.vocab_size], ids_dtype(stage.vocab_size)
    shape = (0, stage.stream.context_tokens, stage.top_k)
    ids, log_q, loss = [np.empty(shape, dtype)], [np.empty(shape, LOG_Q_DTYPE)], 0.0
    with torch.no_grad(), autocast(stage.precision, batch.tokens.device):
        for micro in batch.split(micro_batch):
            documents = micro.documents, micro.documents_at_most
            h_BTE = teacher.before_head(teacher.hidden(micro.tokens[:, :-1], micro.positions, *documents))
            found, values, losses = most_probable(h_BTE, head, micro.tokens[:, 1:], stage.top_k)
            ids.append(found.cpu().numpy().astype(dtype))
            log_q.append(values.cpu().numpy().astype(LOG_Q_DTYPE))
            weighted = losses if micro.weights is None else losses * micro.weights
            loss += weighted.double().sum().item()
    return Answer(np.concatenate(ids), np.concatenate(log_q), loss, float(batch.targets))


def _batch(at: int, stop: int, size: int) -> range:
    """Sequences from `at` to the next multiple of the batch's size, or to the end."""
    return range(at, min(stop, (at // size + 1) * size))


def _no_room(folder: Path, needed: int, free: int) -> str:
    return (
        f"no room for logits in {folder}: they need {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free; what is "
        "there is whole, so make room and run the same command again"
    )


def trial_step(stage: Spec, device: torch.device) -> Callable[[], Any]:
    """Give a function that asks a teacher of random weights about a batch of random tokens."""
    teacher = Transformer(stage.model, stage.numerics.attention)
    init_weights(teacher, 0)
    teacher.requires_grad_(False).eval().to(device)
    generator = torch.Generator().manual_seed(0)
    shape = (stage.batch_sequences, stage.stream.context_tokens + 1)
    tokens = torch.randint(stage.vocab_size, shape, generator=generator).to(device)
    micro_batch = choose_micro_batch(stage, 1, device)
    batch = Batch.by_document(tokens, 0) if stage.stream.document_mask else Batch(tokens)
    return lambda: ask(teacher, stage, batch, micro_batch)
