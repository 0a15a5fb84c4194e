"""Low-rank adapters: beside a frozen matrix W a trained product, so that it computes `W x + scale B A x`.

Adapters are named as in `transformers`' Llama, also where `Transformer` fuses the matrices: rows of queries, keys and
values, of gate and up have an adapter each.

References
----------
Hu et al., "LoRA", arXiv:2106.09685, section 4.1; Kalajdzievski, arXiv:2312.03732, for the scale of `rslora`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from workbench.config.schema import LoraConfig, ModelConfig
from workbench.model.four_bit import FourBitMatrix
from workbench.model.init import named_generator
from workbench.model.matmul import linear
from workbench.model.transformer import Linear, Transformer
from workbench.model.weights import fused_rows

_PARTS = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.output": ("self_attn.o_proj",),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.up": ("mlp.up_proj",),
    "mlp.down": ("mlp.down_proj",),
}
"""Llama's names of the rows of a block's matrices."""


class Adapter(nn.Module):
    """The product of one matrix; see `LoraConfig`."""

    def __init__(self, inputs: int, outputs: int, config: LoraConfig, like: Tensor) -> None:
        super().__init__()
        self.config = config
        self.A = nn.Parameter(like.new_empty(config.rank, inputs))
        self.B = nn.Parameter(like.new_zeros(outputs, config.rank))

    def forward(self, x: Tensor) -> Tensor:
        """Compute what is added to the frozen matrix's product."""
        return linear(linear(x, self.A), self.B) * self.config.scale

    def product(self) -> Tensor:
        """Compute what would be added to the frozen matrix itself, (outputs, inputs), in fp32."""
        return self.B.detach().float() @ self.A.detach().float() * self.config.scale


class AdaptedLinear(Linear):
    """A matrix of a model, with adapters on some of its rows; the matrix keeps its name in the model's state.

    Parameters
    ----------
    base
        The matrix, whose parameters are taken over.
    rows
        Number of rows of each part, by its name; all of them, in order.
    config
        Adapters; only parts that `config.targets` names get one.
    """

    def __init__(self, base: Linear, rows: dict[str, int], config: LoraConfig) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.four_bit: FourBitMatrix | None = None
        self.rows = rows
        self.adapters = nn.ModuleDict(
            {
                part: Adapter(self.in_features, n, config, base.weight)
                for part, n in rows.items()
                if part in config.targets
            }
        )

    def forward(self, input: Tensor) -> Tensor:
        """Multiply, and add the adapters' products."""
        parts = self._frozen_product(input).split(list(self.rows.values()), dim=-1)
        added = [
            y + self.adapters[part](input) if part in self.adapters else y
            for part, y in zip(self.rows, parts, strict=True)
        ]
        return torch.cat(added, dim=-1) if len(added) > 1 else added[0]

    def _frozen_product(self, input: Tensor) -> Tensor:
        if self.four_bit is None:
            return super().forward(input)
        products = self.four_bit.multiply(input)
        return products if self.bias is None else products + self.bias.to(products.dtype)  # pyright: ignore

    def quantise(self, device: torch.device) -> None:
        """Keep the matrix in 4 bits on a device, in place of its weights.

        Raises
        ------
        ValueError
            This machine cannot; see `check_four_bit`.
        """
        self.four_bit = FourBitMatrix(self.weight.to(device))
        self.register_parameter("weight", None)

    def merged_weight(self) -> Tensor:
        """Sum of the matrix, as it is computed with, and its adapters' products, in the matrix's dtype."""
        if self.four_bit is not None:
            return self._with_products(self.four_bit.values())
        return self._with_products(self.weight.detach().float().clone()).to(self.weight.dtype)

    def _with_products(self, merged: Tensor) -> Tensor:
        for name, part in zip(self.rows, merged.split(list(self.rows.values())), strict=True):
            if name in self.adapters:
                part += self.adapters[name].product()  # pyright: ignore[reportCallIssue]
        return merged


def add_adapters(model: Transformer, config: LoraConfig, seed: int) -> None:
    """Freeze a model and give it adapters, in place; what it computes does not change yet.

    A is uniform between plus and minus 1/sqrt(inputs), as `peft` draws it, each with a generator of its own, seeded by
    `seed` and its name, as `init_weights` does; B is zero.

    Parameters
    ----------
    model
        With its weights, not on the meta device.
    config
        Rank, scale and targets.
    seed
        Seed of A.

    Raises
    ------
    ValueError
        The model has adapters already, is on the meta device, or lacks a matrix that the config names.
    """
    if model.embedding.weight.is_meta:
        raise ValueError("the model is on the meta device: fill it before adapters are added")
    _check(model, config)
    model.requires_grad_(False)
    for name, base, rows in list(_matrices(model)):
        if set(rows) & set(config.targets):
            model.set_submodule(name, AdaptedLinear(base, rows, config))
    for name, adapter in named_adapters(model):
        adapter.A.data.copy_(_initial_values(f"{name}.lora_A.weight", adapter.A.shape, seed))


def quantise_frozen(model: Transformer, device: torch.device) -> None:
    """Keep the matrices that have adapters in 4 bits on a device, in place, one after another.

    The model's other tensors stay where they are.

    Raises
    ------
    ValueError
        This machine cannot; see `workbench.model.four_bit.check_four_bit`.
    """
    for module in model.modules():
        if isinstance(module, AdaptedLinear):
            module.quantise(device)


def named_adapters(model: Transformer) -> Iterator[tuple[str, Adapter]]:
    """Adapters in the model's order, by the names of their matrices in `transformers`' Llama."""
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            _, layer, matrix = name.split(".", 2)
            for path in _PARTS[matrix]:
                part = path.rpartition(".")[2]
                if part in module.adapters:
                    adapter = module.adapters[part]
                    assert isinstance(adapter, Adapter)
                    yield f"model.layers.{layer}.{path}", adapter


def adapter_config(model: Transformer) -> LoraConfig | None:
    """Config that a model's adapters were made with; None if it has none."""
    return next((adapter.config for _, adapter in named_adapters(model)), None)


def adapter_tensors(model: Transformer) -> dict[str, Tensor]:
    """Give A and B of every adapter by `peft`'s names: A is (rank, inputs), B is (outputs, rank)."""
    return {
        f"base_model.model.{name}.lora_{matrix}.weight": getattr(adapter, matrix)
        for name, adapter in named_adapters(model)
        for matrix in "AB"
    }


def adapter_shapes(model: Transformer, config: LoraConfig) -> dict[str, tuple[int, int]]:
    """Shapes of what `adapter_tensors` would give of a model that has no adapters yet.

    Raises
    ------
    ValueError
        The model has adapters already, or lacks a matrix that the config names.
    """
    _check(model, config)
    shapes: dict[str, tuple[int, int]] = {}
    for name, base, rows in _matrices(model):
        _, layer, matrix = name.split(".", 2)
        for path in _PARTS[matrix]:
            part = path.rpartition(".")[2]
            if part in config.targets:
                ours = f"base_model.model.model.layers.{layer}.{path}"
                shapes[f"{ours}.lora_A.weight"] = (config.rank, base.in_features)
                shapes[f"{ours}.lora_B.weight"] = (rows[part], config.rank)
    return shapes


def merged_state(model: Transformer) -> dict[str, Tensor]:
    """Weights of the model that computes the same without adapters, by `Transformer`'s names; `model` is left as it is."""
    state = {name: tensor for name, tensor in model.state_dict().items() if ".adapters." not in name}
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            state[f"{name}.weight"] = module.merged_weight()
    return state


def merge(model: Transformer) -> None:
    """Add the adapters to the matrices and remove them, in place; all parameters can be trained again."""
    for name, module in list(model.named_modules()):
        if isinstance(module, AdaptedLinear):
            plain = Linear(module.in_features, module.out_features)
            plain.weight = nn.Parameter(module.merged_weight())
            plain.bias = module.bias
            model.set_submodule(name, plain)
    model.requires_grad_(True)


def _check(model: Transformer, config: LoraConfig) -> None:
    if adapter_config(model) is not None:
        raise ValueError("the model has adapters already: merge them first")
    lacking = set(config.targets) - {part for _, _, rows in _matrices(model) for part in rows}
    if lacking:
        raise ValueError(f"lora.targets={config.targets!r}: the model has no {sorted(lacking)[0]}, so leave it out")


def _matrices(model: Transformer) -> Iterator[tuple[str, Linear, dict[str, int]]]:
    """Matrices of the blocks that can have adapters: name, module, and rows of each of their parts."""
    for name, module in model.named_modules():
        matrix = name.split(".", 2)[2] if name.startswith("blocks.") and name.count(".") > 1 else ""
        if matrix in _PARTS and isinstance(module, Linear):
            yield name, module, _rows(matrix, module, model.config)


def _rows(matrix: str, module: Linear, config: ModelConfig) -> dict[str, int]:
    parts = [path.rpartition(".")[2] for path in _PARTS[matrix]]
    counts = fused_rows(config, matrix) if len(parts) > 1 else [module.out_features]
    return dict(zip(parts, counts, strict=True))


def _initial_values(name: str, shape: torch.Size, seed: int) -> Tensor:
    """Kaiming's uniform distribution with a = sqrt(5), that of PyTorch's own matrices, in fp32 on the CPU."""
    bound = 1 / math.sqrt(shape[1])
    return torch.rand(shape, generator=named_generator(seed, name)).mul_(2 * bound).sub_(bound)
