"""A model of which every process holds a share: FSDP2, filled tensor by tensor.

On a mesh of two dimensions each row of processes holds a copy, and every process has a share of its row's.

No process ever holds more than its share, one whole tensor, and the matrices of one block (or of the root)
while they are computed with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from workbench.config.schema import TrainingStage
from workbench.model.transformer import Linear, Transformer
from workbench.train.distributed import World


def make_mesh(stage: TrainingStage, world: World) -> DeviceMesh:
    """All processes in a row, or a row for each group that shares a copy: neighbours by rank, as those of a node are.

    A collective, so that errors of what follows can be agreed on.
    """
    assert world.device is not None
    sharers = stage.numerics.sharers(world.size)
    shape = (sharers,) if sharers == world.size else (world.size // sharers, sharers)
    return init_device_mesh(world.device.type, shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])


def empty_sharded(stage: TrainingStage, device: torch.device, mesh: DeviceMesh) -> Transformer:
    """Build the stage's model with this process's share of its weights, not yet filled; no collectives."""
    with torch.device("meta"):
        model = Transformer(stage.model, stage.numerics.attention, stage.numerics.activation_checkpointing)
    _shard(model, mesh, stage.precision)
    model.to_empty(device=device)
    model.reset_buffers()
    return model


def _shard(model: Transformer, mesh: DeviceMesh, precision: str) -> None:
    """Gather each block's matrices together, in the precision they are multiplied in.

    The rest (embeddings, gains, head) is the root's and stays fp32, and so does the residual stream: the model
    computes under autocast as an unsharded one does, and sharding changes no more than the order of sums.
    """
    matrices = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    grouped: list[list[nn.Module]] = [[m for m in block.modules() if isinstance(m, Linear)] for block in model.blocks]
    for group in grouped:
        fully_shard(group, mesh=mesh, mp_policy=matrices)
    fully_shard(model, mesh=mesh)
    # Asked for before a block's own work is handed to the device; on the way back FSDP2 does so by itself.
    for block, following in pairwise(grouped):
        cast(FSDPModule, block[0]).set_modules_to_forward_prefetch([cast(FSDPModule, following[0])])
    # Said of outputs that are views, in case they are changed in place; the model changes none.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss is divided by the global batch's tokens already, so gradients are summed, not averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


@torch.no_grad()
def fill(model: Transformer, whole: Callable[[str, torch.Size], Tensor]) -> None:
    """Take each process's share of what `whole` gives for a parameter's name and full shape; no collectives."""
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        full = whole(name, parameter.shape)
        assert full.shape == parameter.shape, name
        share = distribute_tensor(
            full.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
        )
        parameter.to_local().copy_(share.to_local())
