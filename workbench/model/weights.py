"""A model as files in Hugging Face's layout, without importing `transformers` (seconds of start-up).

What Llama can represent is written as `LlamaForCausalLM`, with its keys and unfused matrices. The rest
is written as model type `workbench`, which `transformers` reads after `import workbench.model.hf`.
Both carry our `ModelConfig` in `config.json` under `workbench`, so that `load_model` restores exactly.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from workbench.config.schema import ModelConfig, from_dict, to_dict
from workbench.model.tensor_file import FileFacts, write_tensors
from workbench.model.transformer import Transformer

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
README = "README.md"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")
HOW_TO_LOAD = (
    "Llama cannot represent this model. With lm-scaling-workbench installed, `import workbench.model.hf` first; "
    "then `AutoModelForCausalLM.from_pretrained` reads this directory."
)

_PREFIX = "transformer."
_TOP = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attention_norm": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.output": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": ("mlp.down_proj",),
}


def _rows(config: ModelConfig, name: str) -> list[int]:
    """How many rows of a fused matrix belong to each of its parts."""
    if name == "attention.qkv":
        key_values = config.num_kv_heads * config.head_width
        return [config.width, key_values, key_values]
    return [config.mlp_width, config.mlp_width]


def hf_keys(name: str, config: ModelConfig) -> tuple[str, ...]:
    """Hugging Face's names of one of `Transformer`'s weights: several where the matrix is a fused one."""
    if not config.is_llama:
        return (_PREFIX + name,)
    if name in _TOP:
        return (_TOP[name],)
    _, layer, ours = name.removesuffix(".weight").split(".", 2)
    return tuple(f"model.layers.{layer}.{theirs}.weight" for theirs in _BLOCK[ours])


def hf_shapes(name: str, shape: tuple[int, ...], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices that one weight becomes, by Hugging Face's names and in the order of its rows."""
    keys = hf_keys(name, config)
    if len(keys) == 1:
        return {keys[0]: shape}
    rows = _rows(config, name.removesuffix(".weight").split(".", 2)[2])
    return {key: (count, *shape[1:]) for key, count in zip(keys, rows, strict=True)}


def to_hf(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Rename `Transformer`'s weights to Hugging Face's, and split fused matrices; no value changes.

    Parameters
    ----------
    state
        `Transformer.state_dict()`.
    config
        The model's config; where Llama cannot represent it, keys only gain the prefix `transformer.`.
    """
    renamed: dict[str, Tensor] = {}
    for name, whole in state.items():
        shapes = hf_shapes(name, tuple(whole.shape), config)
        renamed |= zip(shapes, whole.split([shape[0] for shape in shapes.values()]), strict=True)
    return renamed


def from_hf(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Inverse of `to_hf`.

    Raises
    ------
    KeyError
        A weight is missing.
    """
    if not config.is_llama:
        return {key.removeprefix(_PREFIX): value for key, value in state.items()}
    renamed = {ours: state[theirs] for ours, theirs in _TOP.items() if theirs in state}
    for i in range(config.num_layers):
        for ours, theirs in _BLOCK.items():
            parts = [state[f"model.layers.{i}.{name}.weight"] for name in theirs]
            renamed[f"blocks.{i}.{ours}.weight"] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return renamed


def hf_config(config: ModelConfig, bos_id: int | None, eos_id: int | None) -> dict[str, Any]:
    """Contents of `config.json`: Llama's fields, or model type `workbench`; ours beside them."""
    common: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_tokens,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "dtype": "float32",
        "workbench": to_dict(config),
    }
    if not config.is_llama:
        kind = {"model_type": "workbench", "architectures": ["WorkbenchForCausalLM"], "how_to_load": HOW_TO_LOAD}
        return kind | common
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **common,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "mlp_bias": False,
    }


def write_hf(
    directory: Path, model: Transformer, tokenizer_dir: Path | None, bos_id: int | None, eos_id: int | None
) -> FileFacts:
    """Write weights, configs and tokenizer files into an existing directory.

    Parameters
    ----------
    directory
        Where `model.safetensors`, `config.json`, `generation_config.json` and the tokenizer's files
        go. Neither atomic nor synced: that is the caller's concern.
    model
        The model; its weights are written in their own dtype, fp32 in training.
    tokenizer_dir
        A Hugging Face tokenizer directory to copy from; None writes no tokenizer.
    bos_id, eos_id
        Ids of the tokens that begin and end a text, if there are any.

    Returns
    -------
    dict
        Checksum and size of `model.safetensors`, as it was written.
    """
    facts = write_tensors(directory / WEIGHTS, to_hf(model.state_dict(), model.config), {"format": "pt"})
    write_hf_config(directory, model.config, tokenizer_dir, bos_id, eos_id)
    return facts


def write_hf_config(
    directory: Path, config: ModelConfig, tokenizer_dir: Path | None, bos_id: int | None, eos_id: int | None
) -> None:
    """Write all of `write_hf`'s files but the weights."""
    _write_json(directory / CONFIG, hf_config(config, bos_id, eos_id))
    _write_json(directory / GENERATION_CONFIG, {"bos_token_id": bos_id, "eos_token_id": eos_id})
    if not config.is_llama:
        # transformers' own message for an unknown model type cannot be changed: what to do stands here.
        (directory / README).write_text(HOW_TO_LOAD + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        if tokenizer_dir is not None and (tokenizer_dir / name).exists():
            shutil.copyfile(tokenizer_dir / name, directory / name)


def read_config(directory: Path) -> ModelConfig:
    """Read our `ModelConfig` from a checkpoint's `config.json`.

    Raises
    ------
    ValueError
        The file is no JSON, or was not written by `write_hf`.
    """
    path = directory / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if "workbench" not in values:
        raise ValueError(f"{path} has no key 'workbench': not a checkpoint of this project")
    return from_dict(ModelConfig, values["workbench"], where=f"{path}: workbench")


def load_model(directory: Path, attention: str = "sdpa") -> Transformer:
    """Restore what `write_hf` wrote, bit for bit, on the CPU and in evaluation mode.

    Parameters
    ----------
    directory
        A checkpoint.
    attention
        Backend, `sdpa` or `flash_attn`.

    Raises
    ------
    ValueError
        A file is missing or damaged, or the weights do not fit the config.
    """
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise ValueError(f"{directory} has no {name}: not a checkpoint")
    config = read_config(directory)
    model = Transformer(config, attention)
    try:
        model.load_state_dict(from_hf(load_file(directory / WEIGHTS), config))
    except Exception as error:
        raise ValueError(f"{directory / WEIGHTS} cannot be read as model {config.name!r}: {error}") from error
    return model.eval()


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
