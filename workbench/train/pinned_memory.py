"""Page-locked memory of the host, in few blocks that tensors of many sizes lie in.

PyTorch takes a power of two for each pinned tensor (2.11 and 2.13, `CachingHostAllocator.h`): up to twice a model's
bytes, which a job's request of memory would not cover. Blocks that are powers of two themselves lose little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_ALIGNED = 64
"""Bytes: each tensor begins at a multiple, as PyTorch's own do."""

Shapes = Mapping[str, tuple[torch.Size, torch.dtype]]
"""Tensors by name."""


def pinned_tensors(shapes: Shapes, take: Callable[[int], Tensor] | None = None) -> dict[str, Tensor]:
    """Make tensors in page-locked memory, without values.

    Parameters
    ----------
    shapes
        What is wanted.
    take
        Takes a block of so many bytes, a tensor of uint8; None asks PyTorch for page-locked ones.
    """
    take = take or _pinned_block
    tensors: dict[str, Tensor] = {}
    sizes = {name: shape.numel() * dtype.itemsize for name, (shape, dtype) in shapes.items()}
    for size, places in plan_blocks({name: size for name, size in sizes.items() if size}):
        block = take(size).numpy()
        for name, place in places.items():
            shape, dtype = shapes[name]
            # With a storage of its own: what writes shares copies those that are parts of a larger one.
            flat = torch.frombuffer(block, dtype=dtype, count=shape.numel(), offset=place)
            tensors[name] = flat.view(shape)
    empty = {name: torch.empty(shapes[name][0], dtype=shapes[name][1]) for name, size in sizes.items() if not size}
    return tensors | empty


def plan_blocks(sizes: Mapping[str, int]) -> list[tuple[int, dict[str, int]]]:
    """Divide tensors among blocks: each one's bytes, a power of two, and where in it tensors begin.

    Each block is as large as the rest would fill, or as its largest tensor needs, and takes tensors from the largest on.

    Parameters
    ----------
    sizes
        Bytes of each tensor, above 0.
    """
    rest = {name: math.ceil(size / _ALIGNED) * _ALIGNED for name, size in sizes.items()}
    rest = dict(sorted(rest.items(), key=lambda item: item[1], reverse=True))
    blocks: list[tuple[int, dict[str, int]]] = []
    while rest:
        largest, total = next(iter(rest.values())), sum(rest.values())
        block = max(1 << (largest - 1).bit_length(), 1 << (total.bit_length() - 1))
        places: dict[str, int] = {}
        end = 0
        for name, size in rest.items():
            if end + size <= block:
                places[name], end = end, end + size
        rest = {name: size for name, size in rest.items() if name not in places}
        blocks.append((block, places))
    return blocks


def _pinned_block(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)
