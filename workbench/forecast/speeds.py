"""Measured speeds, kept in one file beside the stages: what this machine does, and what jobs did on a cluster."""

from __future__ import annotations

import json
import logging
import os
import socket
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from workbench.config.schema import Stage, SuiteConfig, TrainingStage, fields_of_role, to_dict
from workbench.forecast.slots import Slots
from workbench.study.files import exclusive, write_atomically
from workbench.study.identity import digest, model_identity
from workbench.study.kind_plan import flops_per_token
from workbench.study.layout import Layout
from workbench.tracking import spool
from workbench.train.throughput import measure_shared, measure_together, trains_plainly

logger = logging.getLogger(__name__)

_ROWS = 200
"""Steps whose median counts; the last ones, so that compilation and start-up are behind."""
_FEWEST_ROWS = 20
"""Steps that a stage must have before its speed replaces a measured one, whose first two steps are not timed."""
_FILE = "speeds.json"
_LARGEST_STEP_FLOPS = 2e11
"""A step above this many FLOPs is not tried for an estimate; its speed is scaled from the largest one tried."""
_INSTRUCTIONS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
"""Variables that keep libraries from the fastest instructions of a processor."""


class _SpeedFile:
    """Numbers by key. What was measured once is not measured again; delete the file to measure anew."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.root / _FILE
        self._known = self._read()

    def get(self, key: str) -> float | None:
        return self._known.get(key)

    def keep(self, values: Mapping[str, float]) -> None:
        """Add values, also to what other processes have added since."""
        self._known |= values
        if values and self._path.parent.is_dir():
            with exclusive(self._path.with_suffix(".lock")):
                write_atomically(self._path, json.dumps({**self._read(), **values}, indent=1))

    def _read(self) -> dict[str, float]:
        return json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}


class ClusterSpeeds:
    """Tokens per second of one process, as jobs measured them, for the next plan's time limits and costs.

    Parameters
    ----------
    layout
        The outputs.
    cluster
        The cluster's name.
    """

    def __init__(self, layout: Layout, cluster: str) -> None:
        self._file, self._cluster = _SpeedFile(layout), cluster

    def get(self, stage: Stage) -> float | None:
        """Speed of a stage like this one; None where no job has trained one yet."""
        return self._file.get(self._key(stage)) if isinstance(stage, TrainingStage) else None

    def remember(self, layout: Layout, stage_id: str, stage: Stage, processes: int) -> None:
        """Keep what a stage's last steps took, from its rows."""
        speed = _last_speed(layout, stage_id) if isinstance(stage, TrainingStage) else None
        if speed is not None and isinstance(stage, TrainingStage):
            self._file.keep({self._key(stage): speed / processes})

    def _key(self, stage: TrainingStage) -> str:
        numerics = stage.numerics
        circumstances = [numerics.threads, numerics.attention, numerics.compile, numerics.activation_checkpointing]
        # Older keys have no such parts.
        if stage.optimizer.kind != "adamw":
            circumstances.append(stage.optimizer.kind)
        if numerics.compile and numerics.compile_unit != "model":
            circumstances.append(numerics.compile_unit)
        if numerics.cross_entropy != "own":
            circumstances.append(f"cross_entropy={numerics.cross_entropy}")
        if numerics.products != "onednn":
            circumstances.append(f"products={numerics.products}")
        if numerics.pad_vocabulary is not None:
            circumstances.append(f"pad_vocabulary={numerics.pad_vocabulary}")
        if numerics.parallel == "hybrid":
            circumstances.append("hybrid")
        return digest(
            [model_identity(stage.model), stage.precision, circumstances, self._cluster, *_own_settings(stage)]
        )


class MachineSpeeds:
    """What this machine does while a study's trainings run side by side, which share caches and memory bandwidth.

    Parameters
    ----------
    layout
        The outputs.
    slots
        Where stages train at the same time.
    at_once
        Processes that do, where the study never fills the slots; None is one in each slot.
    """

    def __init__(self, layout: Layout, slots: Slots, at_once: int | None = None) -> None:
        self._file, self._slots = _SpeedFile(layout), slots
        self._at_once = slots.count if at_once is None else min(at_once, slots.count)
        self._scaled: dict[str, float] = {}
        instructions = [os.environ.get(name, "") for name in _INSTRUCTIONS]
        self._here = [socket.gethostname(), os.cpu_count(), instructions, self._at_once]

    @property
    def start_seconds(self) -> float | None:
        """Seconds until a new process can train, nearly all of it imports; None if not measured."""
        return self._file.get(self._start_key())

    def training(self, stage: Stage) -> float | None:
        """Tokens per second of each process of a stage like this one; None if neither measured nor scaled."""
        if not isinstance(stage, TrainingStage):
            return None
        key = self._training_key(stage)
        known = self._file.get(key)
        return self._scaled.get(key) if known is None else known

    def _try(self, measure: Callable[[Mapping[str, TrainingStage]], None], stages: Mapping[str, TrainingStage]) -> None:
        try:
            measure(stages)
        except Exception as error:
            logger.warning("training speed was not measured: %s: %s", type(error).__name__, error)

    def _measure_alone(self, stages: Mapping[str, TrainingStage]) -> None:
        devices = [self._slots.environment((slot,)) for slot in range(self._at_once)]
        speeds, start = measure_together(list(stages.values()), devices)
        self._file.keep({**dict(zip(stages, speeds, strict=True)), self._start_key(): start})

    def _measure_shared(self, stages: Mapping[str, TrainingStage]) -> None:
        for key, stage in stages.items():
            speed, start = measure_shared(stage)
            self._file.keep({key: speed / stage.processes})
            if self.start_seconds is None:
                self._file.keep({self._start_key(): start})

    def is_measured(self, stage: TrainingStage) -> bool:
        """Whether the speed of a stage like this one is known and not scaled."""
        return self._file.get(self._training_key(stage)) is not None

    def _is_shared(self, stage: TrainingStage) -> bool:
        """Whether several processes of a stage can be measured as they train it together."""
        processes = stage.processes
        fits = 1 < processes <= self._slots.count and stage.batch_sequences % processes == 0
        return fits and not self._slots.gpus and stage.numerics.parallel == "replicate" and trains_plainly(stage)

    def evaluation(self, stage: Stage, suite: SuiteConfig) -> float | None:
        """Seconds that a suite took on a checkpoint of a stage like this one; None if none was scored yet."""
        return self._file.get(self._evaluation_key(stage, suite))

    def measure(self, stages: Iterable[TrainingStage]) -> None:
        """Measure the training speeds that are not known, about two seconds each, as many at once as will train.

        On a CPU, several processes of one stage are measured as they train it together, by themselves. Elsewhere each is
        measured as if it trained alone; what summing gradients costs them is known when a stage like theirs has been trained.
        Stages too large to try are scaled, by FLOPs, from the largest one that is known, and stay unknown without one.
        A measurement that fails is a warning, and leaves its speeds unknown: a plan can do without.
        """
        kinds = {self._training_key(stage): stage for stage in stages}
        small = {key: s for key, s in kinds.items() if _step_flops(s) <= _LARGEST_STEP_FLOPS}
        fresh = [key for key in small if self._file.get(key) is None]
        shared = [key for key in fresh if self._is_shared(small[key])]
        if alone := [key for key in fresh if key not in shared]:
            self._try(self._measure_alone, {key: small[key] for key in alone})
        for key in shared:
            self._try(self._measure_shared, {key: small[key]})
        known = {key: speed for key in kinds if (speed := self._file.get(key)) is not None}
        if known:
            largest = max(known, key=lambda key: flops_per_token(kinds[key]))
            flops = known[largest] * flops_per_token(kinds[largest])
            large = [key for key in kinds if key not in known and key not in small]
            self._scaled |= {key: flops / flops_per_token(kinds[key]) for key in large}

    def remember_training(self, layout: Layout, stage_id: str, stage: TrainingStage) -> None:
        """Keep what a stage's last steps took in place of what was measured: a machine may have been busy then."""
        speed = _last_speed(layout, stage_id, fewest=_FEWEST_ROWS)
        if speed is not None:
            self._file.keep({self._training_key(stage): speed / stage.processes})

    def remember_evaluations(self, stage: Stage, suite: SuiteConfig, seconds: Sequence[float]) -> None:
        """Keep what evaluations of a stage's checkpoints took: the median, so that one slow start-up does not count."""
        self._file.keep({self._evaluation_key(stage, suite): statistics.median(seconds)})

    def _start_key(self) -> str:
        return digest(["start", self._here])

    def _training_key(self, stage: TrainingStage) -> str:
        # Older keys have no such part.
        numerics = {key: value for key, value in vars(stage.numerics).items() if (key, value) != ("products", "onednn")}
        shape = [model_identity(stage.model), stage.batch_sequences, stage.precision, numerics]
        if stage.stream.document_mask:  # older keys have no such part
            shape.append("document_mask")
        if stage.optimizer.kind != "adamw":
            shape.append(stage.optimizer.kind)
        if stage.processes > 1:
            shape.append(f"processes={stage.processes}")
        shape += _own_settings(stage)
        return digest(["training", shape, self._here])

    def _evaluation_key(self, stage: Stage, suite: SuiteConfig) -> str:
        asked = {name: value for name, value in to_dict(suite).items() if (name, value) != ("conversations", None)}
        shape = [model_identity(stage.model), stage.data_fingerprint, stage.numerics.threads, asked]
        return digest(["evaluation", shape, self._here])


def _last_speed(layout: Layout, stage_id: str, fewest: int = 1) -> float | None:
    """Tokens per second of a stage's last steps, the median; None if there are fewer steps than that."""
    rows = spool.read_rows(layout.stage(stage_id).path)[-_ROWS:]
    return statistics.median(row[spool.TRAIN_TOKENS_PER_SECOND] for row in rows) if len(rows) >= fewest else None


def _step_flops(stage: TrainingStage) -> float:
    return flops_per_token(stage) * stage.batch_tokens


def _own_settings(stage: TrainingStage) -> list[Any]:
    """Give what a kind's stage has beside any training, which may change its speed; nothing of pretraining."""
    common = {f.name for f in fields(TrainingStage)}
    own = {name: to_dict(getattr(stage, name)) for name in fields_of_role(stage, "identity") if name not in common}
    return [] if stage.kind == "pretrain" else [stage.kind, own]
