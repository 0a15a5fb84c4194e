"""A model as files in Hugging Face's layout, without importing `transformers` (seconds of start-up).

What a family of `workbench.model.families` can represent is written as a model of that family, with its keys and its
matrices; Llama's, if it can. The rest is written as model type `workbench`, which `transformers` reads after
`import workbench.model.hf`. All carry our `ModelConfig` in `config.json` under `workbench`, so that `load_model` restores
exactly.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from workbench.config.schema import ModelConfig, from_dict, to_dict
from workbench.model.families import family_config, family_of
from workbench.model.generation_file import write_generation_config
from workbench.model.pretrained import load_pretrained, pretrained_config
from workbench.model.tensor_file import FileFacts, write_tensors
from workbench.model.transformer import Transformer

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
README = "README.md"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")
HOW_TO_LOAD = (
    "No model type of transformers can represent this model. With lm-scaling-workbench installed, `import workbench.model.hf` first; "
    "then `AutoModelForCausalLM.from_pretrained` reads this directory."
)

_PREFIX = "transformer."


def fused_rows(config: ModelConfig, name: str) -> list[int]:
    """How many rows of a fused matrix belong to each of its parts."""
    if name == "attention.qkv":
        key_values = config.num_kv_heads * config.head_width
        return [config.width, key_values, key_values]
    return [config.mlp_width, config.mlp_width]


def hf_keys(name: str, config: ModelConfig) -> tuple[str, ...]:
    """Hugging Face's names of one of `Transformer`'s weights: several where the matrix is a fused one."""
    family = family_of(config)
    return (_PREFIX + name,) if family is None else family.keys(name)


def hf_shapes(name: str, shape: tuple[int, ...], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices that one weight becomes, by Hugging Face's names and in the order of its rows."""
    keys = hf_keys(name, config)
    if len(keys) == 1:
        return {keys[0]: shape}
    rows = fused_rows(config, name.rpartition(".")[0].split(".", 2)[2])
    return {key: (count, *shape[1:]) for key, count in zip(keys, rows, strict=True)}


def matrix_rows(name: str, shape: tuple[int, ...], config: ModelConfig) -> list[int]:
    """Rows of each matrix of its own that one of a block's matrices holds: queries, keys, values; gate, up."""
    module = name.rpartition(".")[0].split(".", 2)[2]
    return fused_rows(config, module) if module in ("attention.qkv", "mlp.gate_up") else [shape[0]]


def to_hf(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Rename `Transformer`'s weights to Hugging Face's, and split fused matrices; no value changes.

    Parameters
    ----------
    state
        `Transformer.state_dict()`.
    config
        The model's config; where no family can represent it, keys only gain the prefix `transformer.`.
    """
    renamed: dict[str, Tensor] = {}
    for name, whole in state.items():
        shapes = hf_shapes(name, tuple(whole.shape), config)
        parts = hf_rows(name, whole, config).split([shape[0] for shape in shapes.values()])
        renamed |= zip(shapes, parts, strict=True)
    return renamed


def hf_rows(name: str, whole: Tensor, config: ModelConfig) -> Tensor:
    """Rows of one of `Transformer`'s weights in the order in which its family's files have them."""
    family = family_of(config)
    return whole if family is None else family.rows_out(name, whole, config)


def our_rows(name: str, whole: Tensor, config: ModelConfig) -> Tensor:
    """Inverse of `hf_rows`."""
    family = family_of(config)
    return whole if family is None else family.rows_in(name, whole, config)


def from_hf(state: Mapping[str, Tensor], config: ModelConfig, names: Iterable[str]) -> dict[str, Tensor]:
    """Inverse of `to_hf`.

    Parameters
    ----------
    state
        Weights by Hugging Face's names; others than the model's are left out.
    config
        The model's config.
    names
        Names in `Transformer.state_dict()`.

    Raises
    ------
    KeyError
        A weight is missing.
    """
    renamed: dict[str, Tensor] = {}
    for name in names:
        parts = [state[key] for key in hf_keys(name, config)]
        renamed[name] = our_rows(name, torch.cat(parts) if len(parts) > 1 else parts[0], config)
    return renamed


def hf_config(config: ModelConfig, bos_id: int | None, eos_id: int | None) -> dict[str, Any]:
    """Contents of `config.json`: fields of the model's family, or model type `workbench`; ours beside them."""
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
    family = family_of(config)
    if family is None:
        kind = {"model_type": "workbench", "architectures": ["WorkbenchForCausalLM"], "how_to_load": HOW_TO_LOAD}
        return kind | common
    return family_config(family, config) | common


def write_hf(
    directory: Path,
    model: Transformer,
    tokenizer_dir: Path | None,
    bos_id: int | None,
    eos_id: int | None,
    stop_ids: Sequence[int] = (),
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
    stop_ids
        Further ids that end what the model writes.

    Returns
    -------
    dict
        Checksum and size of `model.safetensors`, as it was written.
    """
    facts = write_tensors(directory / WEIGHTS, to_hf(model.state_dict(), model.config), {"format": "pt"})
    write_hf_config(directory, model.config, tokenizer_dir, bos_id, eos_id, stop_ids)
    return facts


def write_hf_config(
    directory: Path,
    config: ModelConfig,
    tokenizer_dir: Path | None,
    bos_id: int | None,
    eos_id: int | None,
    stop_ids: Sequence[int] = (),
) -> None:
    """Write all of `write_hf`'s files but the weights."""
    _write_json(directory / CONFIG, hf_config(config, bos_id, eos_id))
    write_generation_config(directory, bos_id, eos_id, stop_ids)
    if family_of(config) is None:
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


def any_config(directory: Path) -> ModelConfig:
    """Read the config of a checkpoint, ours or one from outside.

    Raises
    ------
    ValueError
        As `read_config` and `workbench.model.pretrained.pretrained_config`.
    """
    return pretrained_config(directory) if _is_from_outside(directory) else read_config(directory)


def is_ours(directory: Path) -> bool:
    """Whether a checkpoint's config has our key."""
    return (directory / CONFIG).is_file() and not _is_from_outside(directory)


def _is_from_outside(directory: Path) -> bool:
    """Whether a checkpoint's config says nothing of ours."""
    try:
        values = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # the readers say what is wrong
    return isinstance(values, dict) and "workbench" not in values


def load_any(directory: Path, attention: str = "sdpa") -> Transformer:
    """Read a checkpoint, ours or one from outside, on the CPU and in evaluation mode.

    Raises
    ------
    ValueError
        As `load_model` and `workbench.model.pretrained.load_pretrained`.
    """
    return (load_pretrained if _is_from_outside(directory) else load_model)(directory, attention)


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
        stored, names = load_file(directory / WEIGHTS), list(model.state_dict())
        unknown = sorted(set(stored) - {key for name in names for key in hf_keys(name, config)})
        if unknown:
            raise KeyError(f"unknown tensor {unknown[0]}")
        model.load_state_dict(from_hf(stored, config, names))
    except Exception as error:
        raise ValueError(f"{directory / WEIGHTS} cannot be read as model {config.name!r}: {error}") from error
    return model.eval()


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
