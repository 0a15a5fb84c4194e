"""AdamW, or Muon beside it, with weight decay on matrices alone, and its state as plain named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workbench.config.schema import OptimizerConfig
from workbench.model.parametrisation import decay_factor, eps_factor, is_hidden_matrix, rate_factor
from workbench.model.transformer import Transformer
from workbench.model.weights import matrix_rows
from workbench.train.eager_optimizers import EagerAdamW
from workbench.train.muon import MuonWithAdamW
from workbench.train.shares import is_share

_ADAMW_SLOTS = ("exp_avg", "exp_avg_sq", "step")
_MUON_SLOTS = ("momentum_buffer",)


class _Settings(NamedTuple):
    """What the parameters of one group have in common."""

    muon: bool
    rate_factor: float
    weight_decay: float
    eps: float


def build_optimizer(
    model: Transformer, config: OptimizerConfig, peak: float | None = None
) -> EagerAdamW | MuonWithAdamW:
    """Fused AdamW over `model`, or Muon and AdamW; tensors of two dimensions and more decay, gains and biases do not.

    Parameters of equal settings form a group; which there are is the parametrisation's concern
    (`workbench.model.parametrisation`). The learning rate is set before every step (`set_learning_rate`).

    Parameters
    ----------
    model
        What is trained.
    config
        The optimizer.
    peak
        Learning rate of the schedule between warm-up and decay; needed by `decay_coupling=independent` alone.

    Raises
    ------
    ValueError
        Muon is asked for and the model is shared out between processes.
    """
    groups: dict[_Settings, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(_settings(name, parameter, model, config, peak), {})[name] = parameter
    adamw = EagerAdamW(
        [_group(settings, of) | {"eps": settings.eps} for settings, of in groups.items() if not settings.muon],
        lr=0.0,
        betas=(config.beta1, config.beta2),
        fused=True,
    )
    if config.kind == "adamw":
        return adamw
    _refuse_shares(model)
    matrices = [
        _group(settings, of) | {"rows": [matrix_rows(name, of[name].shape, model.config) for name in of]}
        for settings, of in groups.items()
        if settings.muon
    ]
    return MuonWithAdamW(matrices, adamw, config)


def _settings(
    name: str, parameter: Tensor, model: Transformer, config: OptimizerConfig, peak: float | None
) -> _Settings:
    factor = rate_factor(name, model.config, config)
    decay = config.weight_decay if parameter.dim() >= 2 else 0.0
    if config.decay_coupling == "independent":
        assert peak is not None
        decay /= peak * factor  # which the rates of the steps make good for
    else:
        decay *= decay_factor(name, model.config, config)
    muon = config.kind == "muon" and is_hidden_matrix(name)
    return _Settings(muon, factor, decay, config.eps * eps_factor(name, model.config))


def _group(settings: _Settings, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "params": list(parameters.values()),
        "rate_factor": settings.rate_factor,
        "weight_decay": settings.weight_decay,
    }


def _refuse_shares(model: nn.Module) -> None:
    if any(is_share(parameter) for parameter in model.parameters()):
        raise ValueError(
            "optimizer.kind='muon' needs whole matrices, and the model is shared out between processes: "
            "set numerics.parallel=replicate"
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group: the schedule's, times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def step_if_(optimizer: torch.optim.Optimizer, finite: torch.Tensor) -> None:
    """Update where `finite`, a boolean scalar on the parameters' device, is true; else change no bit.

    Neither parameters nor moments nor step counts move otherwise. AdamW's fused kernel reads the flag itself, by the way
    in which PyTorch's `GradScaler` has it skip updates, and `MuonWithAdamW` chooses between old and new values on the
    device, so the host need not know.
    """
    optimizer.found_inf = (~finite).float()  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()


def _slots(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Sequence[str]:
    """Names of what the optimizer remembers of a parameter."""
    muon = isinstance(optimizer, MuonWithAdamW) and parameter in optimizer.matrices
    return _MUON_SLOTS if muon else _ADAMW_SLOTS


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """State of the optimizer as `<parameter name>/<slot>` tensors; empty before the first step."""
    return {
        f"{name}/{slot}": optimizer.state[parameter][slot].detach()
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for slot in _slots(optimizer, parameter)
    }


def empty_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device | None = None
) -> dict[str, torch.Tensor]:
    """Tensors as `optimizer_tensors` gives them, sharded as the parameters are, to be filled from a checkpoint."""
    return {
        f"{name}/{slot}": torch.zeros(())
        if slot == "step"
        else torch.empty_like(parameter, device=device, requires_grad=False)
        for name, parameter in model.named_parameters()
        for slot in _slots(optimizer, parameter)
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
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    slots = {name: _slots(optimizer, parameter) for name, parameter in trained.items()}
    expected = {f"{name}/{slot}" for name, found in slots.items() for slot in found}
    if expected != set(tensors):
        raise ValueError(f"optimizer state does not fit the model: {sorted(expected ^ set(tensors))[:3]} ...")
    for name, parameter in trained.items():
        state = {slot: tensors[f"{name}/{slot}"] for slot in slots[name]}
        # Moments live where the parameter does; the fused kernel wants its step there too.
        optimizer.state[parameter] = {slot: tensor.to(parameter.device) for slot, tensor in state.items()}
