"""Gradients summed over the processes while the backward pass still makes others.

Each bucket of them sets out as soon as it is whole; what a model that is shared out sums, FSDP2 has sent in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from workbench.train.distributed import World
from workbench.train.shares import is_share

BUCKET_ELEMENTS = 8 << 20
"""Gradients summed at once, 32 MB in fp32."""


class GradientSums:
    """Context of a step's last backward pass, at whose end each gradient is the sum over all processes.

    They travel in fp32, in buckets cut from the order of the parameters and sent from the last to the first: the same
    sums in the same order at every start and on every process, whenever each of its gradients is there.

    Parameters
    ----------
    model
        Between two passes. Parameters that are shared out are left alone, and frozen ones.
    world
        All processes; one alone has nothing to sum.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        plain = [p for p in model.parameters() if p.requires_grad and not is_share(p)]
        self._buckets = list(_buckets(plain)) if world.size > 1 else []
        self._place: dict[Tensor, int] = {p: place for place, bucket in enumerate(self._buckets) for p in bucket}
        self._lacking: list[set[Tensor]] = [set(bucket) for bucket in self._buckets]
        self._sent: list[tuple[list[Tensor], Tensor, dist.Work | None]] = []

    def __enter__(self) -> GradientSums:
        self._hooks = [p.register_post_accumulate_grad_hook(self._ready) for p in self._place]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()
        if error is not None:
            return
        while len(self._sent) < len(self._buckets):  # where a parameter had no part in the last micro-batch
            self._send()
        sent, self._sent = self._sent, []
        while sent:  # each bucket goes as soon as it is copied
            gradients, flat, work = sent.pop(0)
            if work is not None:
                work.wait()
            for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(total.view_as(gradient))

    def _ready(self, parameter: Tensor) -> None:
        place = self._place[parameter]
        assert parameter in self._lacking[place], "a gradient has been added to after it was summed"
        self._lacking[place].remove(parameter)
        while len(self._sent) < len(self._buckets) and not self._lacking[self._next]:
            self._send()

    @property
    def _next(self) -> int:
        return len(self._buckets) - 1 - len(self._sent)

    def _send(self) -> None:
        gradients = [p.grad for p in self._buckets[self._next] if p.grad is not None]
        flat = torch.cat([gradient.float().flatten() for gradient in gradients]) if gradients else torch.empty(0)
        self._sent.append((gradients, flat, dist.all_reduce(flat, async_op=True) if gradients else None))


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
