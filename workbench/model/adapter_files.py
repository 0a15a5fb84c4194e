"""Adapters as files in `peft`'s format, without importing it.

A directory holds `adapter_config.json` and `adapter_model.safetensors`. `peft` reads what is written here onto the model
that `write_hf` exports, where that is of a family with Llama's names (Llama, Mistral, Qwen 2), or a GPT-NeoX with adapters
on none of queries, keys and values, which are one matrix there. Adapters of other models have Llama's names, only
`load_adapters` reads them, and a `README.md` beside them says so.

References
----------
https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from workbench.config.schema import LORA_TARGETS, LoraConfig, ModelConfig
from workbench.model.families import GPT_NEOX, family_of
from workbench.model.lora import adapter_config, adapter_shapes, adapter_tensors, add_adapters
from workbench.model.tensor_file import FileFacts, write_tensors
from workbench.model.transformer import Transformer

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
README = "README.md"
_NOT_FOR_PEFT = (
    "peft cannot apply these adapters: their matrices are parts of larger ones, or of other names, in the model's files. The "
    "checkpoint that they lie in has them merged.\n"
)
_OUR_LAYERS, _NEOX_LAYERS = "base_model.model.model.layers.", "base_model.model.gpt_neox.layers."
_NEOX = {
    "o_proj": ("self_attn.o_proj", "attention.dense"),
    "up_proj": ("mlp.up_proj", "mlp.dense_h_to_4h"),
    "down_proj": ("mlp.down_proj", "mlp.dense_4h_to_h"),
}
"""Matrices of a block that GPT-NeoX has as we do, with Llama's name and its own."""
_UNSUPPORTED = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
)
"""Fields of `peft`'s config that ask for other arithmetic, or for adapters beside these, unless they are empty."""
_READ = {"bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "target_modules", "use_rslora"}
_WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",  # this, `eva_config`, `loftq_config` and `lora_ga_config` only with their own `init_lora_weights`
    "ensure_weight_tying",  # this and `layers_pattern`, `megatron_core`, `qalora_group_size` only with other fields
    "eva_config",
    "exclude_modules",  # the tensors are compared by name
    "inference_mode",
    "layers_pattern",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
"""Fields that change nothing of what such adapters compute."""


def save_adapters(
    directory: Path,
    model: Transformer,
    base: str | None = None,
    revision: str | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> FileFacts:
    """Write a model's adapters into an existing directory; neither atomic nor synced.

    Parameters
    ----------
    directory
        Where the two files go.
    model
        With adapters.
    base
        Path or name of the model that they belong to, for `peft`.
    revision
        Its commit on the hub.
    tensors
        Of the adapters, as `adapter_tensors` gave them; None takes them as they are now.

    Returns
    -------
    dict
        Checksum and size of the weights' file.

    Raises
    ------
    ValueError
        The model has no adapters.
    """
    config = adapter_config(model)
    if config is None:
        raise ValueError("the model has no adapters to save")
    family, targets = family_of(model.config), list(config.targets)
    tensors = adapter_tensors(model) if tensors is None else tensors
    if family is GPT_NEOX and set(targets) <= set(_NEOX):
        tensors = {_renamed(name, _OUR_LAYERS, _NEOX_LAYERS): tensor for name, tensor in tensors.items()}
        targets = [_NEOX[name][1].rpartition(".")[2] for name in targets]
    elif family is None or family is GPT_NEOX:
        (directory / README).write_text(_NOT_FOR_PEFT, encoding="utf-8")
    values = _peft_config(config, targets) | {"base_model_name_or_path": base, "revision": revision}
    (directory / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return write_tensors(directory / WEIGHTS, tensors, {"format": "pt"})


def _renamed(name: str, layers: str, others: str) -> str:
    """Name of a tensor in another family's layers, Llama's to GPT-NeoX's or back."""
    if not name.startswith(layers):
        return name
    layer, _, path = name.removeprefix(layers).partition(".")
    for pair in _NEOX.values():
        ours, theirs = pair if others == _NEOX_LAYERS else pair[::-1]
        if path.startswith(f"{ours}."):
            return f"{others}{layer}.{theirs}{path.removeprefix(ours)}"
    return name


def load_adapters(model: Transformer, directory: Path) -> LoraConfig:
    """Give a model the adapters of a directory, ours or one that `peft` wrote, and freeze the rest of it.

    Dropout, which `peft` may have trained with, is not taken over.

    Raises
    ------
    ValueError
        A file is missing or damaged, the adapters compute otherwise than ours, or they are not of this model's shapes.
    """
    config, tensors = _read_adapters(directory)
    _check_shapes(directory / WEIGHTS, tensors, model, config)
    add_adapters(model, config, seed=0)
    for name, parameter in adapter_tensors(model).items():
        parameter.data.copy_(tensors[name])
    return config


def check_adapters(shape: ModelConfig, directory: Path) -> LoraConfig:
    """Refuse the adapters of a directory where `load_adapters` would, given a model's config alone.

    Raises
    ------
    ValueError
        As `load_adapters`.
    """
    config, tensors = _read_adapters(directory)
    with torch.device("meta"):
        model = Transformer(shape)
    _check_shapes(directory / WEIGHTS, tensors, model, config)
    return config


def _read_adapters(directory: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    config = read_adapter_config(directory)
    path = directory / WEIGHTS
    if not path.is_file():
        raise ValueError(
            f"{directory} has no {WEIGHTS}: pickles are not read, so convert them with peft's save_pretrained"
        )
    try:
        tensors = {_renamed(name, _NEOX_LAYERS, _OUR_LAYERS): tensor for name, tensor in load_file(path).items()}
        return config, tensors
    except Exception as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_adapter_config(directory: Path) -> LoraConfig:
    """Config of the adapters in a directory.

    Raises
    ------
    ValueError
        There is none, or it asks for what our adapters do not compute; the message names the field.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise ValueError(f"{directory} has no {CONFIG}: not a directory of adapters")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, targets = values["peft_type"], values["target_modules"]
        rank, alpha = int(values["r"]), float(values["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    _refuse_other(path, kind, values)
    if isinstance(targets, list):
        neox = {theirs.rpartition(".")[2]: ours for ours, (_, theirs) in _NEOX.items()}
        targets = [neox.get(name, name) for name in targets]
    if not isinstance(targets, list) or not set(targets) <= set(LORA_TARGETS):
        raise ValueError(f"{path}: target_modules={targets!r}: only names among {', '.join(LORA_TARGETS)}")
    return LoraConfig(rank, alpha, [name for name in LORA_TARGETS if name in targets], bool(values.get("use_rslora")))


def _refuse_other(path: Path, kind: str, values: dict[str, Any]) -> None:
    if kind != "LORA":
        raise ValueError(f"{path}: peft_type={kind!r}: only 'LORA'")
    if values.get("bias", "none") != "none":
        raise ValueError(f"{path}: bias={values['bias']!r}: only 'none'")
    if values.get("init_lora_weights", True) not in (True, False, "gaussian"):  # others change the frozen weights
        raise ValueError(f"{path}: init_lora_weights={values['init_lora_weights']!r}: only true, false and 'gaussian'")
    for name in _UNSUPPORTED:
        if values.get(name):
            raise ValueError(f"{path}: {name}={values[name]!r}: such adapters are not supported")
    for name in sorted(values.keys() - _READ - _WITHOUT_EFFECT):
        if values[name]:  # of a version that may compute otherwise
            raise ValueError(
                f"{path}: {name}={values[name]!r} is not known: remove it if they are plain LoRA without it"
            )


def _check_shapes(path: Path, tensors: dict[str, Tensor], model: Transformer, config: LoraConfig) -> None:
    """Refuse tensors that are not those of such adapters of this model, before it is changed."""
    expected = adapter_shapes(model, config)
    for name in sorted(expected.keys() ^ tensors.keys()):
        lacks = f"lacks {name}" if name in expected else f"has {name}, which is none of this model's adapters"
        raise ValueError(f"{path} {lacks}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{path}: {name} has the shape {tuple(tensors[name].shape)}, not {shape}")


def _peft_config(config: LoraConfig, targets: list[str]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "use_rslora": config.rslora,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
