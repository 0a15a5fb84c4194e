"""Everything that resumes, in one `TrainState`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from workbench.config.schema import Stage
from workbench.model.hf import load_model, write_hf
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer
from workbench.train.optimizer import build_optimizer, optimizer_tensors, restore_optimizer

OPTIMIZER_FILE = "optimizer.safetensors"
RNG_FILE = "rng.safetensors"
STATE_FILE = "train_state.json"


@dataclass
class TrainState:
    """Model, optimizer and counters between two steps."""

    model: Transformer
    """Weights in fp32."""
    optimizer: torch.optim.AdamW
    """AdamW with its moments."""
    step: int
    """Optimizer steps since the start of the chain."""
    tokens: int
    """Tokens since the start of the chain."""

    def sequences(self, context_tokens: int) -> int:
        """Index into the stream: sequences since the start of the chain."""
        return self.tokens // context_tokens


def initial_state(stage: Stage, device: torch.device) -> TrainState:
    """Draw initial weights from the stage's seed, at step 0."""
    model = Transformer(stage.model, stage.numerics.attention)
    init_weights(model, stage.seed_init)
    model.to(device)
    return TrainState(model, build_optimizer(model, stage.optimizer), 0, 0)


def save_state(state: TrainState, directory: Path, tokenizer_dir: Path, bos_id: int, eos_id: int | None) -> None:
    """Write a Hugging Face model directory and, beside it, what resuming needs."""
    write_hf(directory, state.model, tokenizer_dir, bos_id, eos_id)
    save_file(optimizer_tensors(state.model, state.optimizer), directory / OPTIMIZER_FILE)
    save_file(_rng_tensors(), directory / RNG_FILE)
    (directory / STATE_FILE).write_text(json.dumps({"step": state.step, "tokens": state.tokens}))


def load_state(directory: Path, stage: Stage, device: torch.device) -> TrainState:
    """Read what `save_state` wrote; the stage's optimizer settings apply from here on.

    Raises
    ------
    ValueError
        The checkpoint's model is not the stage's.
    """
    model = load_model(directory, stage.numerics.attention).to(device)
    counters: dict[str, Any] = json.loads((directory / STATE_FILE).read_text())
    optimizer = build_optimizer(model, stage.optimizer)
    tensors = load_file(directory / OPTIMIZER_FILE)
    if tensors:
        restore_optimizer(model, optimizer, tensors)
    _restore_rng(load_file(directory / RNG_FILE))
    return TrainState(model, optimizer, counters["step"], counters["tokens"])


def state_bytes(params: int) -> int:
    """Bytes a checkpoint takes: weights and two moments in fp32, and a margin for the small files."""
    return 12 * params + 4_000_000


def _rng_tensors() -> dict[str, torch.Tensor]:
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def _restore_rng(tensors: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
