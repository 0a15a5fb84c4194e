"""One stage, from the checkpoint it begins at to its last target.

`StageRun.all_targets` is the visible loop: restore, and step by step draw a batch, take an optimizer step,
write a row, and write a checkpoint where one is due. `workbench.train.stage` locks around it.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.config.schema import Stage
from workbench.data.store import Prepared, open_prepared
from workbench.data.stream import Stream
from workbench.model.attention import check_attention
from workbench.model.batch import Batch
from workbench.model.matmul import uses_onednn
from workbench.model.transformer import summed_loss
from workbench.study.chain import is_annealed
from workbench.study.files import exclusive, read_stage
from workbench.study.flops import count_parameters, training_flops_per_token
from workbench.study.layout import Layout, StageDir
from workbench.study.memory import state_bytes
from workbench.tracking import spool
from workbench.train import checkpoint as ckpt
from workbench.train.clearing import clear_leftovers
from workbench.train.compiler import compile_model, missing_for_compile
from workbench.train.determinism import check_determinism, determinism, is_deterministic
from workbench.train.distributed import World
from workbench.train.hooks import Hooks, Progress, StoppedError
from workbench.train.interval import CheckpointClock
from workbench.train.micro_batch import choose_micro_batch
from workbench.train.peak import peak_flops
from workbench.train.peak_memory import PeakMemory
from workbench.train.schedule import learning_rate
from workbench.train.sharding import is_sharded, make_mesh
from workbench.train.state import TrainState, initial_state, load_state, save_state
from workbench.train.status import write_status
from workbench.train.step import NonFiniteLossError, StepResult, train_step
from workbench.train.targets import clear_superseded, missing_targets


class StageRun:
    """One process's attempt at a stage."""

    def __init__(
        self,
        layout: Layout,
        stage_dir: StageDir,
        stage: Stage,
        goals: Sequence[int],
        hooks: Hooks,
        world: World,
        code: dict[str, Any] | None = None,
    ) -> None:
        self.layout, self.dir, self.stage, self.hooks, self.world = layout, stage_dir, stage, hooks, world
        self.goals = goals
        world.together(lambda: self._prepare(code))
        # One number for all processes: where the model is shared out, each pass is a collective.
        begun_with = world.main_only(self._begun_with)
        chosen = choose_micro_batch(stage, world.size, self.device, begun_with=begun_with)
        self.micro_batch = min(world.gather(chosen))
        self.numerics = self._numerics()
        self.mesh = make_mesh(world) if is_sharded(stage, world) else None

    def _prepare(self, code: dict[str, Any] | None) -> None:
        """Open what training needs, before any process waits for another."""
        stage = self.stage
        self.code = code or _code_version(self.dir)
        self.device = self.world.device or stage_device(stage)
        self.memory = PeakMemory(self.device)
        self.world.local_range(0, stage.batch_sequences)
        check_attention(stage.numerics.attention, self.device)
        if self.device.type == "cpu":
            torch.set_num_threads(stage.numerics.threads)
        self.prepared = _open_data(self.layout, stage)
        self.stream = Stream(self.prepared, stage.stream)
        self.stream.check(max(self.goals) // stage.stream.context_tokens)
        self.compiled = self._can_compile()
        self.deterministic = is_deterministic(stage.numerics, self.device)
        check_determinism(self.deterministic, self.device)
        params = count_parameters(stage.model)
        self.params, self.flops_per_token = params, training_flops_per_token(stage.model)
        self.clock = CheckpointClock(stage.checkpoint.interval_seconds, state_bytes(params.total))

    def _begun_with(self) -> int | None:
        """Micro-batch of the stage's latest checkpoint; None if it has none, or was trained by more or fewer processes."""
        found = ckpt.checkpoints_by_tokens(self.dir)
        numerics = ckpt.read_manifest(found[max(found)])["numerics"] if found else {}
        return numerics.get("micro_batch_sequences") if numerics.get("world_size") == self.world.size else None

    def _numerics(self) -> dict[str, Any]:
        """How the arithmetic is carried out here, with what the stage leaves open as it was chosen."""
        return {
            **asdict(self.stage.numerics),
            "device": self.device.type,
            "compile": self.compiled,
            "deterministic": self.deterministic,
            "micro_batch_sequences": self.micro_batch,
            "world_size": self.world.size,
            "torch": torch.__version__,
            "onednn": uses_onednn(self.device),
        }

    def _can_compile(self) -> bool:
        missing = missing_for_compile(self.device.type) if self.stage.numerics.compile else None
        if missing is not None:
            self.hooks.log(f"training is eager: torch.compile needs {missing}")
        return self.stage.numerics.compile and missing is None

    def all_targets(self) -> None:
        """Reach every missing target, each from the nearest checkpoint before it."""
        with determinism(self.deterministic, self.device):
            self._all_targets()

    def _all_targets(self) -> None:
        self.world.main_only(lambda: clear_leftovers(self.dir))
        missing = self.world.main_only(lambda: missing_targets(self.dir, self.stage, self.goals))
        if not missing:
            return
        start_step = self.world.main_only(self._start_step)
        durable = self.world.main_only(lambda: ckpt.durable_step(self.dir, start_step))
        state = self._restore(missing[0])
        model = compile_model(state.model) if self.compiled else state.model
        self.world.main_only(lambda: spool.truncate_after(self.dir.metrics, durable))
        with spool.MetricsWriter(self.dir.metrics) if self.world.is_main else nullcontext() as writer:
            for target in missing:
                nearer = self._nearest(target)
                if nearer is not None and nearer[0] > state.tokens:
                    state.adopt(self._load(nearer[1]))
                self._train_to(target, model, state, writer, durable)

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
        return self._load(self.world.main_only(self._parent_checkpoint))

    def _start_step(self) -> int:
        return 0 if self.stage.parent is None else ckpt.read_manifest(self._parent_checkpoint())["step"]

    def _parent_checkpoint(self) -> Path:
        assert self.stage.parent is not None
        parent = self.layout.stage(self.stage.parent.stage)
        path = ckpt.find_checkpoint(parent, self.stage.parent.tokens, resumable=True)
        if path is None:
            raise ValueError(
                f"stage {self.dir.id} begins at {self.stage.parent.tokens} tokens of stage {self.stage.parent.stage}, "
                "which has no checkpoint there to resume from"
            )
        return path

    def _load(self, path: Path) -> TrainState:
        manifest = self.world.main_only(lambda: ckpt.verify(path))
        state = self.world.together(lambda: load_state(path, self.stage, self.device, self.mesh))
        self.hooks.log(f"resumes from {path.parent.parent.name}/{path.name} at {manifest['tokens']} tokens")
        before = {k: v for k, v in manifest["numerics"].items() if v is not None}  # None: the choice was not recorded
        changed = {k: (v, self.numerics.get(k)) for k, v in before.items() if self.numerics.get(k) != v}
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
    ) -> None:
        """Train `state` through `model`, its own or what was compiled from it."""
        while state.tokens < target:
            began = time.perf_counter()
            result = self._step(model, state)
            row = self._row(state, result, time.perf_counter() - began)
            new_row = writer if state.step > durable else None
            stop, overdue = self._agree(partial(self._tell, state, result.loss, row, new_row))
            if stop and state.tokens < target:
                self._save(state, writer, keep=False)
                raise StoppedError(f"stage {self.dir.id} stopped at step {state.step}")
            if state.tokens == target or overdue:
                self._save(state, writer, keep=state.tokens == target)

    def _tell(self, state: TrainState, loss: float, row: dict[str, Any], writer: spool.MetricsWriter | None) -> None:
        if writer is not None:
            self._write(writer, row)
        self.hooks.on_progress(self._progress(state, loss, row[spool.TRAIN_TOKENS_PER_SECOND]))

    def _agree(self, tell: Callable[[], None]) -> tuple[bool, bool]:
        """Whether to stop and whether a checkpoint is overdue, agreed by all processes in one collective.

        What fails on one process between two steps travels with it, and ends all.
        """
        stop, failure = False, None
        try:
            tell()
            stop = self.hooks.should_stop()
        except BaseException as error:
            failure = error
        overdue = self.world.is_main and self.clock.is_due()
        stop, overdue, failed = self.world.any_(stop, overdue, failure is not None)
        self.world.raise_any(failed, failure)
        return stop, overdue

    def _step(self, model: torch.nn.Module, state: TrainState) -> StepResult:
        stage, skips, z_loss = self.stage, self.stage.optimizer.non_finite == "skip", self.stage.optimizer.z_loss
        first = state.sequences(stage.stream.context_tokens)
        mine = self.world.local_range(first, stage.batch_sequences)
        tokens, sources = self.stream.batch(mine.start, len(mine))
        result = train_step(
            model,
            partial(summed_loss, model, **({"z_loss": z_loss} if z_loss else {})),
            state.optimizer,
            self._batch(tokens),
            self._on_device(sources),
            num_sources=len(self.stream.source_names),
            learning_rate=learning_rate(stage.schedule, state.tokens, stage.batch_tokens),
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

    def _batch(self, tokens: np.ndarray) -> Batch:
        tokens_BT1 = self._on_device(tokens)
        if not self.stage.stream.document_mask:
            return Batch(tokens_BT1)
        return Batch.by_document(tokens_BT1, self.prepared.bos_id)

    def _on_device(self, array: np.ndarray) -> torch.Tensor:
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
                stage.schedule, state.tokens - stage.batch_tokens, stage.batch_tokens
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

    def _write(self, writer: spool.MetricsWriter, row: dict[str, Any]) -> None:
        try:
            writer.write(row)
        except OSError as error:
            if not ckpt.is_disk_full(error):
                raise
            raise ckpt.DiskFullError(
                f"no room for a row of {self.dir.metrics}: it needs {len(json.dumps(row)) + 1} bytes; the checkpoints "
                "are whole, so make room and run the same command again"
            ) from error

    def _clear_superseded(self) -> None:
        """Delete what nothing needs; another launch may have added targets since this run began."""
        with exclusive(self.dir.path / "freeze.lock"):
            stage = replace(read_stage(self.dir), checkpoint=self.stage.checkpoint)
            clear_superseded(self.dir, stage, self.goals)

    def _save(self, state: TrainState, writer: spool.MetricsWriter | None, *, keep: bool) -> None:
        """Rows first, so that whatever a checkpoint stands for is on the disk before it is."""
        began = time.monotonic()
        self.world.main_only(lambda: writer and writer.sync())
        path = ckpt.write_checkpoint(
            self.dir,
            state.step,
            lambda folder: save_state(
                state, folder, self.prepared.tokenizer_dir, self.prepared.bos_id, self.prepared.eos_id, self.world
            ),
            self._manifest(state),
            keep=keep,
            needed_bytes=state_bytes(self.params.total),
            world=self.world,
            say=self.hooks.log,
        )
        seconds = time.monotonic() - began
        self.world.main_only(lambda: self._after_save(state, path))
        self.clock.saved(seconds)

    def _after_save(self, state: TrainState, path: Path) -> None:
        self._clear_superseded()
        write_status(self.dir, "running", step=state.step, tokens=state.tokens)
        self.hooks.on_checkpoint(path)

    def _manifest(self, state: TrainState) -> dict[str, Any]:
        sequences = state.sequences(self.stage.stream.context_tokens)
        return {
            "format": 1,
            "stage": self.dir.id,
            "step": state.step,
            "tokens": state.tokens,
            "sequences": sequences,
            "annealed": is_annealed(self.stage, state.tokens),
            "params": self.params.total,
            "params_non_embedding": self.params.non_embedding,
            "flops": float(self.flops_per_token * state.tokens),
            **({"skipped_updates": state.skipped} if self.stage.optimizer.non_finite == "skip" else {}),
            "data_fingerprint": self.prepared.fingerprint,
            "heldout_fingerprint": self.prepared.manifest["heldout_fingerprint"],
            "counts": {name: asdict(counts) for name, counts in self.stream.counts(sequences).items()},
            "numerics": self.numerics,
            **self.code,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": time.time(),
        }


def _code_version(stage_dir: StageDir) -> dict[str, Any]:
    version = json.loads((stage_dir.code / "version.json").read_text(encoding="utf-8"))
    return {key: version[key] for key in ("commit", "dirty", "copy") if key in version}


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


def _open_data(layout: Layout, stage: Stage) -> Prepared:
    prepared = open_prepared(layout.data(stage.stream.data_fingerprint))
    if prepared.vocab_size != stage.model.vocab_size:
        raise ValueError(
            f"model.vocab_size={stage.model.vocab_size}, but the tokenizer of {prepared.fingerprint} has "
            f"{prepared.vocab_size} ids"
        )
    return prepared


def _known(name: str, value: float | None) -> dict[str, float]:
    """Give a row's column, or nothing where its value is unknown or not finite (which JSON has no word for)."""
    return {name: value} if value is not None and math.isfinite(value) else {}
