"""Initial weights: one table, drawn on the CPU whatever the model's device."""

from __future__ import annotations

import hashlib
import math

import torch

from workbench.config.schema import ModelConfig
from workbench.model.parametrisation import is_hidden_matrix
from workbench.model.transformer import Transformer


def initial_std(name: str, config: ModelConfig) -> float | None:
    """Tell how widely a parameter's initial values spread around zero; None for gains, which start at one.

    Biases start at zero.

    | parameter                          | `standard`             | `mup`                   | `complete_p`           |
    |------------------------------------|------------------------|-------------------------|------------------------|
    | norm gains                         | none, all ones         | none, all ones          | none, all ones         |
    | biases                             | 0                      | 0                       | 0                      |
    | `attention.output`, `mlp.down`     | 1 / (sqrt(D) L)        | 1 / (sqrt(D) L)         | 1 / (sqrt(D) L0)       |
    | other matrices of blocks           | sqrt(2 / (5 D))        | sqrt(2 / (5 D))         | sqrt(2 / (5 D))        |
    | embedding, positions, output head  | sqrt(2 / (5 D))        | sqrt(2 / (5 D0))        | sqrt(2 / (5 D0))       |

    Parameters
    ----------
    name
        Name of the parameter in `Transformer.state_dict()`.
    config
        The model's shapes and parametrisation: D is its width, L its layers, D0 and L0 are the base's
        (`workbench.model.parametrisation`).

    References
    ----------
    TinyLlama's `lit_gpt/model.py`, `GPT._init_weights`, after GPT-NeoX (Black et al.,
    arXiv:2204.06745, section 2.1).
    """
    if name.endswith(".bias"):
        return 0.0
    if "norm" in name:
        return None
    if name.endswith(("attention.output.weight", "mlp.down.weight")):
        layers = config.bases.layers if config.parametrisation == "complete_p" else config.num_layers
        return 1 / (math.sqrt(config.width) * layers)
    grows = config.parametrisation != "standard" and not is_hidden_matrix(name)
    return math.sqrt(2 / (5 * (config.bases.width if grows else config.width)))


@torch.no_grad()
def init_weights(model: Transformer, seed: int) -> None:
    """Fill `model` with its initial weights, in place.

    Each tensor has its own generator, seeded by `seed` and the tensor's name: the values are the same
    on every device, the global random state stays as it is, and turning a switch leaves the tensors
    it does not touch as they were. A model built on the meta device must have been moved with
    `to_empty` before.

    Parameters
    ----------
    model
        Any state; every parameter and buffer is overwritten.
    seed
        The run's `seed_init`.

    Raises
    ------
    ValueError
        The model is on the meta device.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"{name} is on the meta device: call model.to_empty(device=...) first")
        parameter.copy_(initial_values(name, parameter.shape, model.config, seed))
    model.reset_buffers()


def initial_values(name: str, shape: torch.Size, config: ModelConfig, seed: int) -> torch.Tensor:
    """Draw one parameter's initial values, in fp32 on the CPU."""
    std = initial_std(name, config)
    if not std:
        return torch.ones(shape) if std is None else torch.zeros(shape)
    return torch.randn(shape, generator=named_generator(seed, name)).mul_(std)


def named_generator(seed: int, name: str) -> torch.Generator:
    """Random numbers of one tensor: the same whatever else is drawn."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
