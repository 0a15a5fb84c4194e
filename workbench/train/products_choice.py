"""Which library multiplies fp32 matrices on a CPU, where `numerics.products=auto` leaves it open.

It is the faster on the stage's shapes, measured once on the products of a training step with weights. What was chosen is
recorded with every checkpoint and taken again by whoever goes on from there, since the other adds in another order and gives
other last bits. A stage that is killed before its first checkpoint begins anew, and measures anew: where the two are about as
fast, or other work disturbs, it may take the other. Who needs the same bits of two beginnings names the library.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from workbench.config.schema import TrainingStage
from workbench.model.matmul import linear, products_by
from workbench.model.openblas import found_openblas
from workbench.model.transformer import Linear, Transformer

_ROUNDS = 5
"""Both libraries in turn; the first round warms up."""
_FEWEST_ROWS, _ROUND_FLOPS = 128, 12e9
"""Rows are fewer than a pass has where all products of a round would take more FLOPs: a fifth of a second on a slow core."""
_LEAST_GAIN = 0.02
"""By which OpenBLAS must be faster: a smaller difference may be other work's."""

Measure = Callable[[TrainingStage, int], Mapping[str, float]]
"""Maps a stage and its sequences of a forward pass to the seconds that each library takes."""


def measured_seconds(stage: TrainingStage, sequences: int) -> dict[str, float]:
    """Time the products of a step with weights by each library, in turn: the fastest round of each.

    A product, its gradient of the input and that of the weight are computed for each shape of a block, on random numbers,
    and for the output head, each as often as the model has it.

    Parameters
    ----------
    stage
        What is trained, in fp32 on this machine's CPU.
    sequences
        Of a forward pass.
    """
    counts = weight_shapes(stage)
    weights = sum(math.prod(shape) for shape in counts)
    rows = min(sequences * stage.stream.context_tokens, max(_FEWEST_ROWS, int(_ROUND_FLOPS / (6 * weights))))
    generator = torch.Generator().manual_seed(0)
    operands = [
        (torch.randn((rows, inputs), generator=generator), torch.randn((outputs, inputs), generator=generator), count)
        for (outputs, inputs), count in counts.items()
    ]
    for x, weight, _ in operands:
        x.requires_grad_()
        weight.requires_grad_()
    fastest: dict[str, float] = {"onednn": math.inf, "openblas": math.inf}
    for round_ in range(1 + _ROUNDS):
        for library in fastest:
            seconds = 0.0
            with products_by(library, stage.numerics.threads):
                for x, weight, count in operands:
                    began = time.perf_counter()
                    out = linear(x, weight)
                    torch.autograd.grad(out, (x, weight), out)
                    seconds += count * (time.perf_counter() - began)
            if round_:
                fastest[library] = min(fastest[library], seconds)
    return fastest


def weight_shapes(stage: TrainingStage) -> Counter[tuple[int, int]]:
    """Count the matrices that a model multiplies by, by their outputs and inputs, the output head's among them."""
    model = stage.model
    with torch.device("meta"):
        blocks = Transformer(replace(model, num_layers=1)).blocks
    shapes = [(module.out_features, module.in_features) for module in blocks.modules() if isinstance(module, Linear)]
    counts = Counter({shape: count * model.num_layers for shape, count in Counter(shapes).items()})
    counts[model.vocab_size, model.width] += 1
    return counts


def choose_products(
    stage: TrainingStage,
    sequences: int,
    device: torch.device,
    *,
    begun_with: str | None = None,
    measure: Measure = measured_seconds,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """Name the library of a stage: as its numerics say, else what it was begun with, else the faster one that is here.

    OpenBLAS is taken if it is faster by more than 2%. Products are timed as they are in eager training, all of them with the rows
    of a pass, the output head's too, and gradients of frozen weights as if they were needed.

    Parameters
    ----------
    stage
        What is trained.
    sequences
        Of a forward pass.
    device
        Where. On a GPU, in bf16, and without OpenBLAS there is nothing to choose: `onednn`.
    begun_with
        What the stage was trained with so far. It is taken again while it is here.
    measure
        How long each takes.
    say
        Told what was measured.
    """
    if stage.numerics.products != "auto":
        return stage.numerics.products
    if device.type != "cpu" or stage.precision != "fp32" or not _has_openblas():
        return "onednn"
    if begun_with is not None:
        return begun_with
    seconds = measure(stage, sequences)
    chosen = "openblas" if seconds["openblas"] < (1 - _LEAST_GAIN) * seconds["onednn"] else "onednn"
    times = ", ".join(f"{library} {1000 * each:.3f} ms" for library, each in seconds.items())
    say(f"numerics.products=auto takes {chosen}: the products of a pass with weights and their gradients take {times}")
    return chosen


def _has_openblas() -> bool:
    try:
        return found_openblas() is not None
    except ImportError:  # of what looks for it
        return False
