"""Measured training speed, for plans and `workbench bench`."""

from __future__ import annotations

import json
import socket
import time
from functools import partial
from pathlib import Path

from workbench.config.schema import Stage
from workbench.study.files import exclusive, write_atomically
from workbench.study.flops import training_flops_per_token
from workbench.study.identity import digest, model_identity

_FLOPS_WORTH_MEASURING = 2e11
"""A step above this many FLOPs is not tried for a plan; its speed is scaled from the largest one tried."""


def throughput_key(stage: Stage) -> str:
    """Name what the speed of a stage depends on, this host included."""
    numerics = vars(stage.numerics)
    shape = [model_identity(stage.model), stage.batch_sequences, stage.precision, numerics, socket.gethostname()]
    return digest(shape)


def measure_tokens_per_second(stage: Stage, seconds: float = 1.0) -> float:
    """Train on random tokens for about `seconds` after two steps of warm-up; tokens a second, best of all steps.

    Best, since other work on the machine only ever slows a step down.
    """
    import torch

    from workbench.model.transformer import loss_per_token
    from workbench.train.compiler import compile_model, missing_for_compile
    from workbench.train.state import initial_state
    from workbench.train.step import train_step

    device = torch.device("cuda" if stage.numerics.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(stage.numerics.threads)
    state = initial_state(stage, device)
    model = state.model
    if stage.numerics.compile and missing_for_compile(device.type) is None:
        model = compile_model(model)
    generator = torch.Generator().manual_seed(0)
    shape = (stage.batch_sequences, stage.stream.context_tokens + 1)
    tokens = torch.randint(stage.model.vocab_size, shape, generator=generator).to(device)
    sources = torch.zeros(stage.batch_sequences, dtype=torch.int64, device=device)
    step = partial(
        train_step,
        model,
        partial(loss_per_token, model),
        state.optimizer,
        tokens,
        sources,
        num_sources=1,
        learning_rate=1e-5,
        clip_norm=1.0,
        precision=stage.precision,
        micro_batch_sequences=stage.numerics.micro_batch_sequences,
    )
    for _ in range(2):
        step()
    best, start = 0.0, time.perf_counter()
    while time.perf_counter() - start < seconds or best == 0.0:
        began = time.perf_counter()
        step()
        best = max(best, stage.batch_tokens / (time.perf_counter() - began))
    return best


class Throughputs:
    """Speeds measured on this host so far, kept in a file beside the stages."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, stage: Stage) -> float | None:
        """Tokens a second where it was measured."""
        return self._known.get(throughput_key(stage))

    def measure(self, stages: list[Stage]) -> dict[str, float]:
        """Tokens a second of each stage's kind by `throughput_key`, measuring what is not known yet.

        Kinds too large to try are scaled, by FLOPs, from the largest that was measured.
        """
        kinds = {throughput_key(stage): stage for stage in stages}
        small = {k: s for k, s in kinds.items() if _step_flops(s) <= _FLOPS_WORTH_MEASURING}
        found = {k: self._known[k] for k in kinds if k in self._known}
        fresh = {k: measure_tokens_per_second(s) for k, s in small.items() if k not in found}
        self._remember(fresh)
        found |= fresh
        reference = max(((training_flops_per_token(kinds[k].model), v) for k, v in found.items()), default=None)
        if reference is not None:
            for key in set(kinds) - set(found):
                found[key] = reference[1] * reference[0] / training_flops_per_token(kinds[key].model)
        return found

    def _remember(self, fresh: dict[str, float]) -> None:
        if not fresh or not self._path.parent.is_dir():
            return
        with exclusive(self._path.with_suffix(".lock")):
            known = json.loads(self._path.read_text()) if self._path.exists() else {}
            self._known = {**known, **fresh}
            write_atomically(self._path, json.dumps(self._known, indent=1))


def _step_flops(stage: Stage) -> float:
    return training_flops_per_token(stage.model) * stage.batch_tokens
