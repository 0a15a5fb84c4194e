"""Which kernel computes attention, where `numerics.attention=auto` leaves it open: the fastest on the stage's shapes.

It is measured once, on what will run: attention by itself, or a compiled block, which fuses what is around each kernel. What
was chosen is recorded with every checkpoint and taken again by whoever goes on from there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from workbench.config.schema import ATTENTIONS, TrainingStage
from workbench.model.attention import attend, check_attention, document_borders, document_mask, takes_borders
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer
from workbench.train.compiler import compile_model, is_compiled
from workbench.train.determinism import is_deterministic
from workbench.train.step import autocast

_ROUNDS = 5
_VOCABULARY = 64
"""Of the model that a compiled block is measured in."""
_DOCUMENT_TOKENS = 512
"""Of the documents that are made up to measure with, where attention is confined to documents."""

Measure = Callable[[str, TrainingStage, int, torch.device], float]
"""Maps a backend, a stage, its sequences of a forward pass and the device to the seconds of a pass and its gradients."""


def compiled_seconds(backend: str, stage: TrainingStage, sequences: int, device: torch.device) -> float:
    """Time a compiled block, forward and backward, in a model of one layer on random tokens, as `measured_seconds` does.

    Compiling takes some seconds for each backend, less where PyTorch keeps the code of an earlier stage of that shape.

    Raises
    ------
    Exception
        Whatever the backend or the compiler raises, where it cannot do this.
    """
    T = stage.stream.context_tokens
    config = replace(stage.model, num_layers=1, vocab_size=_VOCABULARY)
    model = Transformer(config, backend, stage.numerics.activation_checkpointing)
    init_weights(model, 0)
    model = compile_model(model.to(device), "block")
    assert isinstance(model, Transformer)
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(_VOCABULARY, (sequences, T), generator=generator).to(device)
    documents_BT, at_most = _documents(stage, sequences, device), _documents_at_most(T)
    weights = list(model.blocks.parameters())

    def run() -> None:
        with autocast(stage.precision, device):
            out_BTD = model.hidden(tokens_BT, None, documents_BT, at_most)
        torch.autograd.grad(out_BTD.sum(), weights)

    try:
        return _fastest(run, device)
    finally:
        torch.compiler.reset()


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
    mask, documents_BT = None, _documents(stage, sequences, device)
    if documents_BT is not None:
        if takes_borders(backend):
            mask = document_borders(documents_BT, _documents_at_most(T))
        else:
            mask = document_mask(documents_BT, dtype)

    def run() -> None:
        out = attend(heads[0], heads[1], heads[2], backend, mask)
        torch.autograd.grad(out, heads, out)

    return _fastest(run, device)


def _documents(stage: TrainingStage, sequences: int, device: torch.device) -> torch.Tensor | None:
    """Make up the number of each token's document, (B, T); None where attention is not confined to documents."""
    if not stage.stream.document_mask:
        return None
    T = stage.stream.context_tokens
    return (torch.arange(T, device=device) // _DOCUMENT_TOKENS).expand(sequences, T)


def _documents_at_most(tokens: int) -> int:
    return math.ceil(tokens / _DOCUMENT_TOKENS)


def _fastest(run: Callable[[], None], device: torch.device) -> float:
    """Seconds of the fastest of a few runs, after two to warm up."""
    fastest = math.inf
    for round_ in range(2 + _ROUNDS):
        _wait(device)
        began = time.perf_counter()
        run()
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
    measure: Measure | None = None,
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
        How long each takes; None times attention by itself, or a compiled block where training is compiled.
    say
        Told what was measured, and what could not be.
    """
    if stage.numerics.attention != "auto":
        return stage.numerics.attention
    found = _candidates(stage, device)
    if begun_with in found:
        return begun_with
    compiled = is_compiled(stage.numerics, device)
    measure = measure or (compiled_seconds if compiled else measured_seconds)
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
    what = "a compiled block" if compiled else "a block's attention"
    say(f"numerics.attention=auto takes {chosen}: {what} and its gradients take {times}")
    return chosen


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
