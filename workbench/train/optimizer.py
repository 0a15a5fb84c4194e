"""AdamW with weight decay on matrices alone, and its state as plain named tensors."""

from __future__ import annotations

import torch
from torch import nn

from workbench.config.schema import OptimizerConfig

_SLOTS = ("exp_avg", "exp_avg_sq", "step")


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Fused AdamW over `model`; tensors of two dimensions and more decay, gains do not.

    The learning rate is set before every step (`set_learning_rate`).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def step_if_(optimizer: torch.optim.Optimizer, finite: torch.Tensor) -> None:
    """Update where `finite`, a boolean scalar on the parameters' device, is true; else change no bit.

    Neither parameters nor moments nor step counts move otherwise. The fused kernel reads the flag itself, by the way
    in which PyTorch's `GradScaler` has it skip updates, so the host need not know.
    """
    optimizer.found_inf = (~finite).float()  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """State of the optimizer as `<parameter name>/<slot>` tensors; empty before the first step."""
    return {
        f"{name}/{slot}": optimizer.state[parameter][slot].detach()
        for name, parameter in model.named_parameters()
        for slot in _SLOTS
        if parameter in optimizer.state
    }


def empty_optimizer_tensors(model: nn.Module, device: torch.device | None = None) -> dict[str, torch.Tensor]:
    """Tensors as `optimizer_tensors` gives them, sharded as the parameters are, to be filled from a checkpoint."""
    return {
        f"{name}/{slot}": torch.zeros(())
        if slot == "step"
        else torch.empty_like(parameter, device=device, requires_grad=False)
        for name, parameter in model.named_parameters()
        for slot in _SLOTS
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put tensors from `optimizer_tensors` back.

    Raises
    ------
    ValueError
        A parameter has no state, or a state no parameter.
    """
    if not tensors:  # saved before the first step
        return
    expected = {f"{name}/{slot}" for name, _ in model.named_parameters() for slot in _SLOTS}
    if expected != set(tensors):
        raise ValueError(f"optimizer state does not fit the model: {sorted(expected ^ set(tensors))[:3]} ...")
    for name, parameter in model.named_parameters():
        state = {slot: tensors[f"{name}/{slot}"] for slot in _SLOTS}
        # Moments live where the parameter does; the fused kernel wants its step there too.
        optimizer.state[parameter] = {slot: tensor.to(parameter.device) for slot, tensor in state.items()}
