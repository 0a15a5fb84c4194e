"""Whether a model is shared out between processes, asked without importing what shares it out.

PyTorch's sharded tensors bring parts of its compiler along: 1.2 s of processor time (PyTorch 2.13), which most trainings
have no use for. `workbench.train.sharding` imports them where one has.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

from torch import nn

from workbench.config.schema import TrainingStage
from workbench.train.distributed import World

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def is_sharded(stage: TrainingStage, world: World) -> bool:
    """Whether the processes share the model out; one alone has nothing to share."""
    return stage.numerics.sharers(world.size) > 1


def find_mesh(stage: TrainingStage, world: World) -> DeviceMesh | None:
    """Give the processes in the order in which they share a model out; None where each has all of it."""
    if not is_sharded(stage, world):
        return None
    from workbench.train.sharding import make_mesh

    return make_mesh(stage, world)


def is_share(tensor: object) -> TypeGuard[DTensor]:
    """Whether a tensor is this process's share of one that several processes hold."""
    kind = _imported("torch.distributed.tensor", "DTensor")
    return kind is not None and isinstance(tensor, kind)


def is_shared_out(module: nn.Module) -> TypeGuard[FSDPModule]:
    """Whether a module's weights are gathered, and its gradients summed, by FSDP2."""
    kind = _imported("torch.distributed.fsdp", "FSDPModule")
    return kind is not None and isinstance(module, kind)


def _imported(module: str, name: str) -> type | None:
    """Give a class of a module; None where nobody has imported that, so that nothing can be of the class."""
    return getattr(sys.modules.get(module), name, None)


def reduce_gradients_after(model: nn.Module, last: bool) -> None:
    """Have a shared-out model's gradients summed over the processes after the last micro-batch of a step alone.

    Until then each process holds the whole gradient. Models of other kinds are left alone.
    """
    for module in model.modules():
        if is_shared_out(module):
            module.set_requires_gradient_sync(last)  # of the modules within it too
            return
