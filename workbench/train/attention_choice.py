"""Which kernel computes attention, where `numerics.attention=auto` leaves it open: the fastest on the stage's shapes.

It is measured once: what was chosen is recorded with every checkpoint and taken again by whoever goes on from there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from workbench.config.schema import ATTENTIONS, TrainingStage
from workbench.model.attention import attend, check_attention, document_borders, document_mask, takes_borders
from workbench.train.determinism import is_deterministic

_ROUNDS = 5
_DOCUMENT_TOKENS = 512
"""Of the documents that are made up to measure with, where attention is confined to documents."""

Measure = Callable[[str, TrainingStage, int, torch.device], float]
"""Maps a backend, a stage, its sequences of a forward pass and the device to the seconds of a pass and its gradients."""


def measured_seconds(backend: str, stage: TrainingStage, sequences: int, device: torch.device) -> float:
    """Time one block's attention, forward and backward, on random heads: the fastest of a few, after two to warm up.

    Raises
    ------
    Exception
        Whatever the backend raises, where it cannot do this.
    """
    model, T = stage.model, stage.stream.context_tokens
    dtype = torch.float32 if stage.precision == "fp32" else torch.bfloat16
    generator = torch.Generator(device).manual_seed(0)
    heads = [
        torch.randn(
            (sequences, T, count, model.head_width), generator=generator, device=device, dtype=dtype
        ).requires_grad_()
        for count in (model.num_heads, model.num_kv_heads, model.num_kv_heads)
    ]
    mask = None
    if stage.stream.document_mask:
        documents_BT = (torch.arange(T, device=device) // _DOCUMENT_TOKENS).expand(sequences, T)
        if takes_borders(backend):
            mask = document_borders(documents_BT, math.ceil(T / _DOCUMENT_TOKENS))
        else:
            mask = document_mask(documents_BT, dtype)
    fastest = math.inf
    for round_ in range(2 + _ROUNDS):
        _wait(device)
        began = time.perf_counter()
        out = attend(heads[0], heads[1], heads[2], backend, mask)
        torch.autograd.grad(out, heads, out)
        _wait(device)
        if round_ >= 2:
            fastest = min(fastest, time.perf_counter() - began)
    return fastest


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def choose_attention(
    stage: TrainingStage,
    sequences: int,
    device: torch.device,
    *,
    begun_with: str | None = None,
    measure: Measure = measured_seconds,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """Name the backend of a stage: as its numerics say, else what it was begun with, else the fastest that is here.

    Parameters
    ----------
    stage
        What is trained.
    sequences
        Of a forward pass.
    device
        Where. On a CPU in fp32 there are `sdpa` and `blocks`, on a CPU in bf16 and on a GPU in fp32 `sdpa` alone.
    begun_with
        What the stage was trained with so far. It is taken again while it is here, since another one changes the last
        bits.
    measure
        How long each takes.
    say
        Told what was measured, and what could not be.
    """
    if stage.numerics.attention != "auto":
        return stage.numerics.attention
    found = _candidates(stage, device)
    if begun_with in found:
        return begun_with
    seconds: dict[str, float] = {}
    for backend in found if len(found) > 1 else ():
        try:
            seconds[backend] = measure(backend, stage, sequences, device)
        except Exception as error:
            say(f"numerics.attention=auto leaves {backend} out: {' '.join(str(error).split())[:200]}")
    if not seconds:
        return "sdpa"
    times = ", ".join(f"{backend} {1000 * each:.3f} ms" for backend, each in seconds.items())
    chosen = min(seconds, key=seconds.__getitem__)
    say(f"numerics.attention=auto takes {chosen}: a block's attention and its gradients take {times}")
    return chosen


def with_attention(stage: TrainingStage, attention: str) -> TrainingStage:
    """Give the stage with its attention settled."""
    return replace(stage, numerics=replace(stage.numerics, attention=attention))


def _candidates(stage: TrainingStage, device: torch.device) -> list[str]:
    """List the backends that this machine has for the stage's precision; cuDNN's adds in no fixed order."""
    if device.type == "cpu" or stage.precision == "fp32":
        return ["sdpa", "blocks"] if device.type == "cpu" and stage.precision == "fp32" else ["sdpa"]
    fixed_order = is_deterministic(stage.numerics, device)
    return [
        backend
        for backend in ATTENTIONS
        if backend != "auto" and not (backend == "cudnn" and fixed_order) and _is_here(backend, device)
    ]


def _is_here(backend: str, device: torch.device) -> bool:
    try:
        check_attention(backend, device)
    except ValueError:
        return False
    return True
