"""The work of fine-tuning: the training loop on packed conversations, of all weights or of adapters.

A checkpoint of adapters holds the model with the adapters merged into it, which is scored, exported and begun from like
any other; beside it, in `adapter/`, the adapters in peft's format, from which training resumes onto the parent's weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file

from workbench.data.chat_store import ChatStore, find_named, write_chat_template
from workbench.data.chat_stream import ChatCounts, ChatStream
from workbench.kinds.sft.plan import uses_four_bit
from workbench.kinds.sft.spec import Spec
from workbench.model.adapter_files import load_adapters, save_adapters
from workbench.model.batch import Batch
from workbench.model.four_bit import check_four_bit
from workbench.model.init import init_weights
from workbench.model.lora import adapter_tensors, add_adapters, merged_state, quantise_frozen
from workbench.model.tensor_file import FileFacts
from workbench.model.transformer import Transformer, summed_loss
from workbench.study.memory import head_padded_to
from workbench.train.checkpoint import read_manifest
from workbench.train.distributed import World
from workbench.train.job import StageJob
from workbench.train.loop import StageRun
from workbench.train.optimizer import build_optimizer, restore_optimizer
from workbench.train.state import TrainState, load_counters, load_weights, save_state
from workbench.train.state_copy import Snapshot
from workbench.train.weights_only import OPTIMIZER_FILE

ADAPTER_DIR = "adapter"


def run(job: StageJob) -> None:
    """Train until every goal has a checkpoint.

    Raises
    ------
    ValueError
        The conversations are not prepared, or adapters were asked for where the model is shared out.
    """
    SftRun(job).all_targets()


class Conversations:
    """Packed conversations with the methods that a training loop asks a stream for; they are one source.

    Parameters
    ----------
    store, seed, max_epochs
        As `ChatStream` takes them.
    name
        Name of the source.
    """

    def __init__(self, store: ChatStore, seed: int, max_epochs: float | None, name: str) -> None:
        self.store, self.source_names = store, [name]
        self.stream = ChatStream(store, seed, max_epochs)
        self.check = self.stream.check

    def counts(self, sequences: int) -> dict[str, ChatCounts]:
        """Count what the first sequences draw, by source."""
        return {self.source_names[0]: self.stream.counts(sequences)}


class SftRun(StageRun):
    """One process's attempt at a fine-tuning."""

    def open_stream(self) -> Any:
        """Open the packed conversations."""
        stage = cast(Spec, self.stage)
        store = find_named(stage.conversations, stage.data_fingerprint, self.layout)
        if store is None:
            raise ValueError(f"conversations {stage.chat.name!r} are not prepared: `workbench run` the study again")
        if stage.lora is not None and stage.numerics.parallel != "replicate" and self.world.size > 1:
            raise ValueError(
                f"adapters cannot be trained with numerics.parallel={stage.numerics.parallel!r}: use replicate"
            )
        if self._four_bit:
            check_four_bit(self.device)
        return Conversations(store, stage.stream.seed, stage.chat.max_epochs, stage.chat.name)

    def draw(self, sequences: range) -> tuple[Batch, torch.Tensor]:
        """Draw packed conversations, with loss on the assistant's tokens alone."""
        drawn = self.stream.stream.batch(sequences.start, len(sequences))  # pyright: ignore[reportAttributeAccessIssue]
        sources = torch.zeros(len(sequences), dtype=torch.int64, device=self.device)
        tokens, weights, positions, documents = (self.to_device(part) for part in drawn)
        return Batch(tokens, weights, positions, documents), sources

    def begin_from(self, path: Path) -> TrainState:
        """Take the parent's weights, and put adapters on them where those are trained."""
        lora = cast(Spec, self.stage).lora
        if lora is None:
            return super().begin_from(path)
        self._base = path
        torch.manual_seed(self.stage.seed_init)  # as without adapters: a checkpoint holds the state of it
        model = self._frozen_model(path)
        add_adapters(model, lora, self.stage.stream.seed)
        return self._state_of(self._quantised(model))

    def resume_from(self, path: Path) -> TrainState:
        """Read a checkpoint of this stage."""
        if cast(Spec, self.stage).lora is None:
            return super().resume_from(path)
        assert self.stage.parent is not None
        base, _ = self.job.read_input(self.stage.parent.stage, self.stage.parent.tokens)
        self._base = base
        model = self._frozen_model(base)
        load_adapters(model, path / ADAPTER_DIR)
        state = self._state_of(self._quantised(model))
        restore_optimizer(model, state.optimizer, load_file(path / OPTIMIZER_FILE))
        for name, value in load_counters(path).items():
            setattr(state, name, value)
        return state

    @property
    def _four_bit(self) -> bool:
        return uses_four_bit(cast(Spec, self.stage))

    def _frozen_model(self, path: Path) -> Transformer:
        """Read weights that stay; those that are to be in 4 bits never lie whole on a GPU."""
        return load_weights(path, self.stage, torch.device("cpu") if self._four_bit else self.device)

    def _quantised(self, model: Transformer) -> Transformer:
        if self._four_bit:
            quantise_frozen(model, self.device)
        return model.to(self.device)

    def _state_of(self, model: Transformer) -> TrainState:
        return TrainState(model, build_optimizer(model, self.stage.optimizer, self.stage.schedule.peak), 0, 0)

    def snapshot(self, state: TrainState) -> Snapshot:
        """Give what a checkpoint holds: with adapters, these and the weights that they are merged into."""
        if cast(Spec, self.stage).lora is None:
            return super().snapshot(state)
        self._adapted = state.model
        weights = {name: tensor.detach() for name, tensor in merged_state(state.model).items()}
        adapters = {name: tensor.detach() for name, tensor in adapter_tensors(state.model).items()}
        return replace(state.snapshot(), weights=weights, adapters=adapters)

    def save_files(self, snapshot: Snapshot, folder: Path, world: World) -> dict[str, FileFacts]:
        """Write the model, merged where there are adapters, the tokenizer with its template, and what resuming needs."""
        store, prepared = self.conversations, self.prepared
        ids = prepared.bos_id, prepared.eos_id
        written = save_state(snapshot, folder, store.tokenizer_dir, *ids, world, self._all_stop_ids)
        if snapshot.adapters:
            saved = world.main_only(lambda: self._save_adapters(snapshot, folder))
            written |= saved if world.is_main else {}
        world.main_only(lambda: write_chat_template(store, folder))
        return written

    @property
    def conversations(self) -> ChatStore:
        """The packed conversations."""
        return cast(Conversations, self.stream).store

    @property
    def _all_stop_ids(self) -> list[int]:
        """What ends the base's texts, and what ends the assistant's turn here."""
        end = self.conversations.turn_end_id
        return self.stop_ids if end is None else [*self.stop_ids, end]

    def _save_adapters(self, snapshot: Snapshot, folder: Path) -> dict[str, FileFacts]:
        (folder / ADAPTER_DIR).mkdir()
        adapters = save_adapters(
            folder / ADAPTER_DIR, self._adapted, *_base_name(self._base), tensors=snapshot.adapters
        )
        return {f"{ADAPTER_DIR}/adapter_model.safetensors": adapters}


def _base_name(checkpoint: Path) -> tuple[str, str | None]:
    """Path of a checkpoint; of one from outside its own path, or its name and commit on the hub."""
    manifest = read_manifest(checkpoint)
    if "imported" in manifest:
        return manifest["source"], manifest.get("revision")
    return str(checkpoint.resolve()), None


def trial_step(stage: Spec, device: torch.device) -> Callable[[], Any]:
    """Give a function that trains one step on made-up conversations, every other token of which has loss."""
    from workbench.train.micro_batch import choose_micro_batch
    from workbench.train.step import train_step

    model = Transformer(stage.model, stage.numerics.attention, stage.numerics.activation_checkpointing)
    init_weights(model, 0)
    if stage.lora is not None:
        add_adapters(model, stage.lora, 0)
    if uses_four_bit(stage):
        quantise_frozen(model, device)
    model.to(device)
    model.head_padded_to = head_padded_to(stage.numerics, stage.model.vocab_size, device.type)
    shape = (stage.batch_sequences, stage.stream.context_tokens + 1)
    tokens = torch.randint(stage.model.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device)
    weights = (torch.arange(shape[1] - 1, device=device) % 2).float().expand(shape[0], -1)
    return partial(
        train_step,
        model,
        partial(summed_loss, model),
        build_optimizer(model, stage.optimizer, stage.schedule.peak),
        Batch.by_document(tokens, 0, weights),
        torch.zeros(stage.batch_sequences, dtype=torch.int64, device=device),
        num_sources=1,
        learning_rate=1e-5,
        clip_norm=1.0,
        precision=stage.precision,
        micro_batch_sequences=choose_micro_batch(stage, 1, device),
    )
