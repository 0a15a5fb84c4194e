"""Everything that resumes, in one `TrainState`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from workbench.config.schema import TrainingStage
from workbench.model.init import init_weights, initial_values
from workbench.model.tensor_file import FileFacts, write_tensors
from workbench.model.transformer import Transformer
from workbench.model.weights import WEIGHTS, load_model, read_config, to_hf, write_hf_config
from workbench.study.identity import model_identity
from workbench.train.distributed import World
from workbench.train.eager_optimizers import EagerAdamW
from workbench.train.muon import MuonWithAdamW
from workbench.train.optimizer import (
    build_optimizer,
    empty_optimizer_tensors,
    optimizer_tensors,
    restore_optimizer,
)
from workbench.train.shares import is_share
from workbench.train.state_copy import Snapshot
from workbench.train.weights_only import OPTIMIZER_DIR, OPTIMIZER_FILE

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

RNG_FILE = "rng.safetensors"
STATE_FILE = "train_state.json"
_COUNTERS = ("step", "tokens", "skipped", "skipped_in_a_row")


@dataclass
class TrainState:
    """Model, optimizer and counters between two steps."""

    model: Transformer
    """Weights in fp32."""
    optimizer: EagerAdamW | MuonWithAdamW
    """The optimizer with its moments."""
    step: int
    """Optimizer steps since the start of the chain."""
    tokens: int
    """Tokens since the start of the chain."""
    skipped: int = 0
    """Updates skipped since the start of the chain."""
    skipped_in_a_row: int = 0
    """Of these the last ones, without an update after them."""

    def advance(self, tokens: int, *, skipped: bool) -> None:
        """Count one step of so many tokens."""
        self.step += 1
        self.tokens += tokens
        self.skipped += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def snapshot(self) -> Snapshot:
        """Give what a checkpoint of now holds, in place: but for the random state it changes with the next step."""
        shared = is_share(self.model.norm.weight)
        named = self.model.named_parameters() if shared else self.model.state_dict().items()
        return Snapshot(
            config=self.model.config,
            weights={name: tensor.detach() for name, tensor in named},
            optimizer=optimizer_tensors(self.model, self.optimizer),
            rng=_rng_tensors(self.model.norm.weight.device),
            counters={name: getattr(self, name) for name in _COUNTERS},
            shared=shared,
        )

    def adopt(self, other: TrainState) -> None:
        """Take another's values into this one's own tensors, for which a model may have been compiled."""
        with torch.no_grad():
            for mine, theirs in zip(self.model.parameters(), other.model.parameters(), strict=True):
                mine.copy_(theirs)
        self.optimizer.state.clear()
        restore_optimizer(self.model, self.optimizer, optimizer_tensors(other.model, other.optimizer))
        for counter in _COUNTERS:
            setattr(self, counter, getattr(other, counter))


def initial_state(stage: TrainingStage, device: torch.device, mesh: DeviceMesh | None = None) -> TrainState:
    """Draw initial weights from the stage's seed, at step 0; with a mesh, this process's share of them.

    The global random state begins at that seed too: nothing draws from it, but it is part of every checkpoint.
    """
    torch.manual_seed(stage.seed_init)
    if mesh is None:
        model = Transformer(stage.model, stage.numerics.attention, stage.numerics.activation_checkpointing)
        init_weights(model, stage.seed_init)
        model.to(device)
    else:
        from workbench.train.sharding import empty_sharded, fill

        model = empty_sharded(stage, device, mesh)
        fill(model, lambda name, shape: initial_values(name, shape, stage.model, stage.seed_init))
    return TrainState(model, build_optimizer(model, stage.optimizer, stage.schedule.peak), 0, 0)


def fresh_state(
    directory: Path, stage: TrainingStage, device: torch.device, mesh: DeviceMesh | None = None
) -> TrainState:
    """Take the weights of a checkpoint, of whatever kind of stage, and begin a training from them at step 0.

    Raises
    ------
    ValueError
        The checkpoint's model is not the stage's.
    """
    torch.manual_seed(stage.seed_init)
    model = load_weights(directory, stage, device, mesh)
    return TrainState(model, build_optimizer(model, stage.optimizer, stage.schedule.peak), 0, 0)


def save_state(
    state: TrainState | Snapshot,
    directory: Path,
    tokenizer_dir: Path,
    bos_id: int,
    eos_id: int | None,
    world: World = World(),  # noqa: B008  (frozen)
    stop_ids: Sequence[int] = (),
) -> dict[str, FileFacts]:
    """Write a Hugging Face model directory and, beside it, what resuming needs; every process calls this.

    Parameters
    ----------
    state
        What is written: a training as it is, or as it was.
    directory
        An existing one.
    tokenizer_dir, bos_id, eos_id, stop_ids
        As `workbench.model.weights.write_hf` takes them.
    world
        The processes.

    Returns
    -------
    dict
        Checksum and size, as they were written, of this process's large files: paths relative to `directory`.

    Raises
    ------
    OSError
        On every process, wherever it happened.
    """
    snapshot = state.snapshot() if isinstance(state, TrainState) else state
    if not snapshot.shared:
        written = world.main_only(lambda: _save_whole(snapshot, directory, tokenizer_dir, bos_id, eos_id, stop_ids))
        return written if world.is_main else {}
    from workbench.train.shard_files import write_shards, write_weights

    weights = write_weights(directory, snapshot, world)
    world.main_only(lambda: write_hf_config(directory, snapshot.config, tokenizer_dir, bos_id, eos_id, stop_ids))
    world.main_only(lambda: save_counters(snapshot, directory))
    shards = write_shards(directory / OPTIMIZER_DIR, snapshot.optimizer, world)
    written = {f"{OPTIMIZER_DIR}/{name}": facts for name, facts in shards.items()}
    return written | ({WEIGHTS: weights} if world.is_main else {})


def _save_whole(
    snapshot: Snapshot,
    directory: Path,
    tokenizer_dir: Path,
    bos_id: int,
    eos_id: int | None,
    stop_ids: Sequence[int],
) -> dict[str, FileFacts]:
    weights = write_tensors(directory / WEIGHTS, to_hf(snapshot.weights, snapshot.config), {"format": "pt"})
    write_hf_config(directory, snapshot.config, tokenizer_dir, bos_id, eos_id, stop_ids)
    optimizer = write_tensors(directory / OPTIMIZER_FILE, snapshot.optimizer)
    save_counters(snapshot, directory)
    return {WEIGHTS: weights, OPTIMIZER_FILE: optimizer}


def save_counters(snapshot: Snapshot, directory: Path) -> None:
    """Write the counters, and the random state that nothing draws from."""
    write_tensors(directory / RNG_FILE, snapshot.rng)
    (directory / STATE_FILE).write_text(json.dumps(snapshot.counters), encoding="utf-8")


def load_state(
    directory: Path, stage: TrainingStage, device: torch.device, mesh: DeviceMesh | None = None
) -> TrainState:
    """Read what `save_state` wrote on however many processes; the stage's optimizer settings apply from here on.

    Parameters
    ----------
    directory
        A checkpoint.
    stage
        What is trained.
    device, mesh
        Where; with a mesh, only this process's share is kept.

    Raises
    ------
    ValueError
        The checkpoint's model is not the stage's, or the checkpoint holds weights alone.
    """
    if not (directory / OPTIMIZER_FILE).exists() and not (directory / OPTIMIZER_DIR).is_dir():
        raise ValueError(f"checkpoint {directory} holds weights alone: training cannot resume from it")
    model = load_weights(directory, stage, device, mesh)
    optimizer = build_optimizer(model, stage.optimizer, stage.schedule.peak)
    restore_optimizer(model, optimizer, _load_optimizer(directory, model, optimizer, whole=mesh is None))
    return TrainState(model, optimizer, **load_counters(directory))


def load_counters(directory: Path) -> dict[str, Any]:
    """Read what `save_counters` wrote: the counters by name; the random state is put back."""
    _restore_rng(load_file(directory / RNG_FILE))
    return json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))


def load_weights(
    directory: Path, stage: TrainingStage, device: torch.device, mesh: DeviceMesh | None = None
) -> Transformer:
    """Read the weights of a checkpoint, or with a mesh this process's share of them.

    Raises
    ------
    ValueError
        The checkpoint's model is not the stage's.
    """
    if model_identity(read_config(directory)) != model_identity(stage.model):
        raise ValueError(f"checkpoint {directory} holds another model than the stage's {stage.model.name!r}")
    return _load_whole(directory, stage).to(device) if mesh is None else _load_share(directory, stage, device, mesh)


def _load_whole(directory: Path, stage: TrainingStage) -> Transformer:
    model = load_model(directory, stage.numerics.attention)
    model.activation_checkpointing = stage.numerics.activation_checkpointing
    return model


def _load_share(directory: Path, stage: TrainingStage, device: torch.device, mesh: DeviceMesh) -> Transformer:
    from workbench.train.shard_files import WeightsFile
    from workbench.train.sharding import empty_sharded, fill

    model = empty_sharded(stage, device, mesh)
    fill(model, WeightsFile(directory, stage.model).read)
    return model.eval()


def _load_optimizer(
    directory: Path, model: Transformer, optimizer: torch.optim.Optimizer, *, whole: bool
) -> dict[str, torch.Tensor]:
    shards = (directory / OPTIMIZER_DIR).is_dir()
    if whole and not shards:
        return load_file(directory / OPTIMIZER_FILE)
    from workbench.train.shard_files import read_shards

    tensors = empty_optimizer_tensors(model, optimizer, torch.device("cpu") if whole else None)
    read_shards(directory / OPTIMIZER_DIR if shards else directory, tensors)
    return tensors


def _rng_tensors(device: torch.device) -> dict[str, torch.Tensor]:
    tensors = {"cpu": torch.get_rng_state()}
    # Of no other device: asking a GPU starts CUDA, which takes its memory, also beside a training on the CPU.
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def _restore_rng(tensors: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
