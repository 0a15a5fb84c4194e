"""One stage, from the checkpoint it begins at to its last target.

`StageRun.all_targets` is the visible loop: restore, and step by step draw a batch, take an optimizer step,
write a row, and write a checkpoint where one is due. `workbench.train.whole_stage` locks around it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.config.schema import Stage, TrainingStage
from workbench.data.read_ahead import ReadAhead, batches_ahead
from workbench.data.stream import Stream
from workbench.model.attention import check_attention, takes_borders
from workbench.model.batch import Batch
from workbench.model.generation_file import read_stop_ids
from workbench.model.liger import choose_cross_entropy
from workbench.model.matmul import check_products, products_by
from workbench.model.tensor_file import FileFacts
from workbench.model.transformer import Transformer, summed_loss
from workbench.study.chain import is_annealed
from workbench.study.flops import count_parameters
from workbench.study.kind_plan import checkpoint_bytes, flops_per_token
from workbench.study.memory import head_padded_to
from workbench.tracking import spool
from workbench.train import checkpoint as ckpt
from workbench.train.attention_choice import choose_attention
from workbench.train.clearing import clear_leftovers
from workbench.train.compiler import compile_model, missing_for_compile
from workbench.train.determinism import check_determinism, determinism, is_deterministic
from workbench.train.distributed import World
from workbench.train.drawn_batch import make_batch
from workbench.train.freed_memory import keep_freed_memory
from workbench.train.hooks import Progress, StoppedError
from workbench.train.interval import CheckpointClock
from workbench.train.job import StageJob
from workbench.train.micro_batch import choose_micro_batch
from workbench.train.numerics_record import find_differences, make_record, products_of, read_latest_record, settle_loss
from workbench.train.peak import peak_flops
from workbench.train.peak_memory import PeakMemory
from workbench.train.products_choice import choose_products
from workbench.train.saving import StageSaver
from workbench.train.schedule import learning_rate
from workbench.train.shares import find_mesh
from workbench.train.state import TrainState, fresh_state, initial_state, load_state, save_state
from workbench.train.state_copy import Snapshot
from workbench.train.step import LossFunction, NonFiniteLossError, StepResult, train_step
from workbench.train.targets import missing_targets


class StageRun:
    """One process's attempt at a stage that trains; a kind that trains otherwise overrides what differs."""

    has_plain_loss = True
    """Whether the loss is that of `summed_loss`, whose kernel can be chosen."""

    def __init__(self, job: StageJob) -> None:
        assert isinstance(job.stage, TrainingStage)
        self.job, self.stage = job, job.stage
        self.layout, self.dir, self.goals = job.layout, job.dir, job.goals
        self.hooks, self.world = job.hooks, job.world
        self.world.together(self._prepare)
        # One number for all processes: where the model is shared out, each pass is a collective.
        before = self.world.main_only(lambda: read_latest_record(self.dir))
        begun_with = before.get("micro_batch_sequences") if before.get("world_size") == self.world.size else None
        chosen = choose_micro_batch(self.stage, self.world.size, self.device, begun_with=begun_with)
        self.micro_batch = min(self.world.gather(chosen))
        self.padded_to, self.cross_entropy = settle_loss(
            self.stage.numerics, before, padded_to=self.padded_to, cross_entropy=self.cross_entropy
        )
        attention, products = self.world.main_only(lambda: self._settle_numerics(before))
        settled = replace(self.stage.numerics, attention=attention, products=products)
        self.stage = replace(self.stage, numerics=settled)
        self.numerics = make_record(
            self.stage,
            self.device,
            padded_to=self.padded_to,
            cross_entropy=self.cross_entropy,
            compiled=self.compiled,
            deterministic=self.deterministic,
            micro_batch=self.micro_batch,
            world_size=self.world.size,
        )
        self.mesh = find_mesh(self.stage, self.world)
        self.stop_ids: list[int] = []
        self.saver = StageSaver(self)

    def _prepare(self) -> None:
        """Open what training needs, before any process waits for another."""
        stage = self.stage
        self.device = self.world.device or stage_device(stage)
        self.memory = PeakMemory(self.device)
        self.world.local_range(0, stage.batch_sequences)
        stage.numerics.sharers(self.world.size)
        check_attention(stage.numerics.attention, self.device)
        check_products(stage.numerics.products, self.device)
        asked = stage.numerics.cross_entropy if self.has_plain_loss else "own"
        self.cross_entropy = choose_cross_entropy(asked, self.device)
        if self.device.type == "cpu":
            torch.set_num_threads(stage.numerics.threads)
            keep_freed_memory()
        self.prepared = self.job.open_data()
        self.stream = self.open_stream()
        end = stage.sequences(max(self.goals))
        self.stream.check(end)
        ahead = batches_ahead(self.device.type)
        self.batches = ReadAhead(lambda *batch: self.stream.draw(*batch), stage.batch_sequences, ahead, end)
        self.compiled = self._can_compile()
        self.padded_to = head_padded_to(stage.numerics, stage.model.vocab_size, self.device.type)
        self.deterministic = is_deterministic(stage.numerics, self.device)
        check_determinism(self.deterministic, self.device)
        self.params, self.flops_per_token = count_parameters(stage.model), flops_per_token(stage)
        self.clock = CheckpointClock(stage.checkpoint.interval_seconds, checkpoint_bytes(stage, whole=True))

    # ------------------------------------------------------------------------------- what kinds override

    def open_stream(self) -> Stream:
        """Open the training sequences."""
        return Stream(self.prepared, self.stage.stream)

    def draw(self, sequences: range) -> tuple[Batch, torch.Tensor]:
        """Draw sequences of the stream: the batch, and the source of each sequence (B,), on the device."""
        drawn, masked = self.batches(sequences.start, len(sequences)), self.stage.stream.document_mask
        bounded = takes_borders(self.stage.numerics.attention)
        batch = make_batch(drawn, self.to_device, self.prepared.bos_id, document_mask=masked, bounded=bounded)
        return batch, self.to_device(drawn.sources)

    def loss_of(self, model: torch.nn.Module) -> LossFunction:
        """Give the function that a step takes the gradient of."""
        return partial(summed_loss, model, z_loss=self.stage.optimizer.z_loss, cross_entropy=self.cross_entropy)

    def begin_from(self, path: Path) -> TrainState:
        """Make the state that the stage begins with from its parent's weights, without a training behind them."""
        return fresh_state(path, self.stage, self.device, self.mesh)

    def resume_from(self, path: Path) -> TrainState:
        """Read the state of a checkpoint of this stage, or of the one whose training it goes on with."""
        return load_state(path, self.stage, self.device, self.mesh)

    def snapshot(self, state: TrainState) -> Snapshot:
        """Give what a checkpoint holds of a training as it is now, in place; no collectives."""
        return state.snapshot()

    def save_files(self, snapshot: Snapshot, folder: Path, world: World) -> dict[str, FileFacts]:
        """Write all of a checkpoint but its manifest; perhaps in a thread, whose processes agree by `world`."""
        prepared = self.prepared
        ids = prepared.bos_id, prepared.eos_id
        return save_state(snapshot, folder, prepared.tokenizer_dir, *ids, world, self.stop_ids)

    # -------------------------------------------------------------------------------

    def _settle_numerics(self, before: dict[str, Any]) -> tuple[str, str]:
        """Settle `numerics.attention=auto` and `products=auto`; a branch takes its trunk's choices."""
        asked = self.stage.numerics
        if "auto" in (asked.attention, asked.products) and not before and self.stage.parent and self.stage.resumes:
            before = ckpt.read_manifest(self._parent_checkpoint())["numerics"]
        what = self.stage, self.micro_batch, self.device
        attention, products = before.get("attention"), products_of(before)
        with determinism(self.deterministic, self.device):
            attention = choose_attention(*what, begun_with=attention, say=self.hooks.log)
            return attention, choose_products(*what, begun_with=products, say=self.hooks.log)

    def _can_compile(self) -> bool:
        missing = missing_for_compile(self.device.type) if self.stage.numerics.compile else None
        if missing is not None:
            self.hooks.log(f"training is eager: torch.compile needs {missing}")
        return self.stage.numerics.compile and missing is None

    def _compiled(self, model: Transformer) -> torch.nn.Module:
        return compile_model(model, self.stage.numerics.compile_unit) if self.compiled else model

    def all_targets(self) -> None:
        """Reach every missing target, each from the nearest checkpoint before it."""
        products = products_by(self.stage.numerics.products, self.stage.numerics.threads)
        with determinism(self.deterministic, self.device), products, closing(self.batches):
            self._all_targets()

    def _all_targets(self) -> None:
        self.world.main_only(lambda: clear_leftovers(self.dir))
        missing = self.world.main_only(lambda: missing_targets(self.dir, self.stage, self.goals))
        if not missing:
            return
        start_step = self.world.main_only(self._start_step)
        durable = self.world.main_only(lambda: ckpt.durable_step(self.dir, start_step))
        state = self._restore(missing[0])
        self.saver.watch(state)
        state.model.head_padded_to = self.padded_to
        model = self._compiled(state.model)
        self.world.main_only(lambda: spool.truncate_after(self.dir.metrics, durable))
        rows = spool.MetricsWriter(self.dir.metrics) if self.world.is_main else nullcontext()
        with rows as writer, closing(self.saver):
            for target in missing:
                nearer = self._nearest(target)
                if nearer is not None and nearer[0] > state.tokens:
                    self.saver.settle()  # what is superseded has been cleared away then
                    nearer = self._nearest(target)
                if nearer is not None and nearer[0] > state.tokens:
                    state.adopt(self._load(nearer[1]))
                self._train_to(target, model, state, writer, durable, last=target == missing[-1])
            self.saver.settle()

    def _nearest(self, target: int) -> tuple[int, Path] | None:
        """Last checkpoint to resume from before a target as rank 0 sees it, so that all begin at the same."""
        found = self.world.main_only(lambda: ckpt.checkpoints_by_tokens(self.dir, resumable=True))
        return max(((tokens, path) for tokens, path in found.items() if tokens <= target), default=None)

    def _restore(self, target: int) -> TrainState:
        """State nearest before `target`."""
        nearest = self._nearest(target)
        if nearest is not None:
            return self._load(nearest[1])
        if self.stage.parent is None:
            return self.world.together(lambda: initial_state(self.stage, self.device, self.mesh))
        parent = self.world.main_only(self._parent_checkpoint)
        return self._load(parent) if self.stage.resumes else self._begin_from(parent)

    def _begin_from(self, path: Path) -> TrainState:
        manifest = self.world.main_only(lambda: ckpt.verify(path, weights_only=True))
        self.stop_ids = self.world.main_only(lambda: read_stop_ids(path))
        state = self.world.together(lambda: self.begin_from(path))
        state.step, state.tokens = manifest["step"], manifest["tokens"]
        self.hooks.log(f"begins from the weights of {path.parent.parent.name}/{path.name}")
        return state

    def _start_step(self) -> int:
        return 0 if self.stage.parent is None else ckpt.read_manifest(self._parent_checkpoint())["step"]

    def _parent_checkpoint(self) -> Path:
        parent = self.stage.parent
        assert parent is not None
        return self.job.checkpoint_of(parent.stage, parent.tokens, resumable=self.stage.resumes)

    def _load(self, path: Path) -> TrainState:
        manifest = self.world.main_only(lambda: ckpt.verify(path))
        self.stop_ids = self.world.main_only(lambda: read_stop_ids(path))
        state = self.world.together(lambda: self.resume_from(path))
        self.hooks.log(f"resumes from {path.parent.parent.name}/{path.name} at {manifest['tokens']} tokens")
        changed = find_differences(manifest["numerics"], self.numerics)
        if changed:
            self.hooks.log(f"numerics differ from that checkpoint's, so last bits may too: {changed}")
        return state

    def _train_to(
        self,
        target: int,
        model: torch.nn.Module,
        state: TrainState,
        writer: spool.MetricsWriter | None,
        durable: int,
        *,
        last: bool,
    ) -> None:
        """Train `state` through `model`, its own or what was compiled from it."""
        while state.tokens < target:
            began = time.perf_counter()
            result = self._step(model, state)
            row = self._row(state, result, time.perf_counter() - began)
            new_row = writer if state.step > durable else None
            stop, overdue = self._agree(partial(self._tell, state, result.loss, row, new_row))
            there = state.tokens == target
            stops = stop and not (there and last)
            if there or overdue or stops:
                # A grace period has no time for a further step and its checkpoint: a milestone is the last one then.
                self.saver.save(state, writer, keep=there, last=stops or (there and last))
            if stops:
                raise StoppedError(f"stage {self.dir.id} stopped at step {state.step}")

    def _tell(self, state: TrainState, loss: float, row: dict[str, Any], writer: spool.MetricsWriter | None) -> None:
        if writer is not None:
            self.saver.write_row(writer, row)
        self.hooks.on_progress(self._progress(state, loss, row[spool.TRAIN_TOKENS_PER_SECOND]))

    def _agree(self, tell: Callable[[], None]) -> tuple[bool, bool]:
        """Whether to stop and whether a checkpoint is overdue, agreed by all processes in one collective.

        What fails on one process between two steps travels with it, and ends all.
        """
        stop, failure = False, None
        try:
            tell()
            self.saver.look()
            stop = self.hooks.should_stop()
        except BaseException as error:
            failure = error
        overdue = self.world.is_main and self.saver.is_due
        stop, overdue, failed = self.world.any_(stop, overdue, failure is not None)
        self.world.raise_any(failed, failure)
        return stop, overdue

    def _step(self, model: torch.nn.Module, state: TrainState) -> StepResult:
        stage, skips = self.stage, self.stage.optimizer.non_finite == "skip"
        first = stage.sequences(state.tokens)
        batch, sources = self.draw(self.world.local_range(first, stage.batch_sequences))
        result = train_step(
            model,
            self.loss_of(model),
            state.optimizer,
            batch,
            sources,
            num_sources=len(self.stream.source_names),
            learning_rate=learning_rate(stage.schedule, state.tokens - stage.origin.tokens, stage.batch_tokens),
            clip_norm=stage.optimizer.clip_norm,
            precision=stage.precision,
            micro_batch_sequences=self.micro_batch,
            world=self.world,
            step=state.step + 1,
            sequences=range(first, first + stage.batch_sequences),
            skip_non_finite=skips,
        )
        state.advance(stage.batch_tokens, skipped=result.skipped)
        if result.skipped:
            self._allow_skip(state, result, range(first, first + stage.batch_sequences))
        return result

    def to_device(self, array: np.ndarray) -> torch.Tensor:
        """Send a batch's numbers to the device; from pinned memory, so that the host need not wait until they are there."""
        tensor = torch.from_numpy(array)
        return (tensor.pin_memory() if self.device.type == "cuda" else tensor).to(self.device, non_blocking=True)

    def _allow_skip(self, state: TrainState, result: StepResult, sequences: range) -> None:
        """Log a skipped update, or stop the stage where it is one too many in a row."""
        limit = self.stage.optimizer.max_skips_in_a_row
        if state.skipped_in_a_row > limit:
            note = f"; it is update {state.skipped_in_a_row} in a row to skip: optimizer.max_skips_in_a_row={limit}"
            raise NonFiniteLossError(state.step, result.loss, result.gradient_norm, sequences, note)
        self.hooks.log(f"step {state.step}: update skipped, loss {result.loss}, gradient norm {result.gradient_norm}")

    def _row(self, state: TrainState, result: StepResult, seconds: float) -> dict[str, Any]:
        stage = self.stage
        rate = stage.batch_tokens / seconds
        peak = peak_flops(self.device.type, stage.precision, stage.numerics.threads)
        memory = self.memory.read()
        losses = zip(self.stream.source_names, result.source_losses, strict=True)
        return {
            spool.STEP: state.step,
            spool.TOKENS: state.tokens,
            spool.TIME: time.time(),
            **_known(spool.TRAIN_LOSS, result.loss),
            **{key: value for name, loss in losses for key, value in _known(spool.source_loss(name), loss).items()},
            spool.TRAIN_LEARNING_RATE: learning_rate(
                stage.schedule, state.tokens - stage.origin.tokens - stage.batch_tokens, stage.batch_tokens
            ),
            **_known(spool.TRAIN_GRADIENT_NORM, result.gradient_norm),
            **_known(spool.TRAIN_SKIPPED_UPDATES, state.skipped if stage.optimizer.non_finite == "skip" else None),
            spool.TRAIN_TOKENS_PER_SECOND: rate,
            **_known(
                spool.TRAIN_MODEL_FLOPS_UTILISATION, peak and rate * self.flops_per_token / peak / self.world.size
            ),
            **_known(spool.TRAIN_MEMORY_BYTES, memory),
        }

    def _progress(self, state: TrainState, loss: float, rate: float) -> Progress:
        return Progress(self.dir.id, state.step, state.tokens, self.stage.start_tokens, max(self.goals), loss, rate)

    def manifest(self, state: TrainState) -> dict[str, Any]:
        """Say what a checkpoint of now is of."""
        stage, origin = self.stage, self.stage.origin
        sequences = stage.sequences(state.tokens)
        return self.job.manifest(
            self.prepared,
            step=state.step,
            tokens=state.tokens,
            sequences=sequences,
            annealed=is_annealed(stage, state.tokens),
            flops=origin.flops + float(self.flops_per_token * (state.tokens - origin.tokens)),
            **({"skipped_updates": state.skipped} if stage.optimizer.non_finite == "skip" else {}),
            counts={name: asdict(counts) for name, counts in self.stream.counts(sequences).items()},
            numerics=self.numerics,
        )


def stage_device(stage: Stage) -> torch.device:
    """Device a stage is to be trained on.

    Raises
    ------
    ValueError
        It asks for CUDA and there is none.
    """
    wanted = stage.numerics.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("numerics.device='cuda', but PyTorch finds no CUDA device: use numerics.device=cpu")
    return torch.device(wanted)


def _known(name: str, value: float | None) -> dict[str, float]:
    """Give a row's column, or nothing where its value is unknown or not finite (which JSON has no word for)."""
    return {name: value} if value is not None and math.isfinite(value) else {}
