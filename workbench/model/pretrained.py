"""Checkpoints from outside: Hugging Face directories of the families that `Transformer` can represent.

Only safetensors are read: a pickle can run any code. Weights are computed with in fp32, whatever they were stored in.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from workbench.config.schema import ModelConfig, RopeScaling
from workbench.model.families import FAMILIES, GPT_NEOX, LLAMA, Family, family_of
from workbench.model.transformer import Transformer

INDEX = "model.safetensors.index.json"
WEIGHTS_FILE = "model.safetensors"
_CONVERT = (
    'python -c "import sys, transformers as t; a, b, *r = sys.argv[1:]; k = dict(revision=r[0]) if r else {}; '
    "t.AutoModelForCausalLM.from_pretrained(a, dtype='auto', **k).save_pretrained(b); "
    't.AutoTokenizer.from_pretrained(a, **k).save_pretrained(b)" '
)
_COMPUTED = (
    "rotary_emb.inv_freq",
    "attention.bias",
    "attention.masked_bias",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
)
"""Endings of tensors that older files hold and that are computed from the config."""
_DROPOUTS = ("attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop")
_ROPE_KEYS = {
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}),
    "yarn": frozenset(
        {
            "factor",
            "original_max_position_embeddings",
            "beta_fast",
            "beta_slow",
            "truncate",
            "attention_factor",
            "mscale",
            "mscale_all_dim",
        }
    ),
}


class UnsupportedModelError(ValueError):
    """A field of a checkpoint's config asks for what `Transformer` cannot represent; the message names it."""


def pretrained_config(directory: Path) -> ModelConfig:
    """Our config of a model that others trained.

    Parameters
    ----------
    directory
        A Hugging Face directory. Fields that its `config.json` leaves out have `transformers`' own defaults.

    Returns
    -------
    ModelConfig
        `context_tokens` is the most that the model attends to as `Transformer` does: of a model with a sliding window,
        the window. The name is the directory's.

    Raises
    ------
    UnsupportedModelError
        A field cannot be represented; the message names it and its value.
    ValueError
        There is no `config.json`, or it cannot be read.
    """
    fields = _read_fields(directory)
    kind = fields.values["model_type"]
    config = _neox(fields) if kind == GPT_NEOX.model_type else _llama_like(fields, FAMILIES[kind])
    return replace(config, name=_name(directory))


def native_context(directory: Path) -> int:
    """Positions that a model of others was made for, also where a sliding window lets it see fewer at once.

    Raises
    ------
    ValueError
        As `pretrained_config`.
    """
    return _read_fields(directory)["max_position_embeddings"]


def _read_fields(directory: Path) -> _Fields:
    from transformers import AutoConfig  # takes seconds, and only checkpoints from outside need it

    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} has no config.json: not a Hugging Face checkpoint")
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if kind not in FAMILIES:
        raise UnsupportedModelError(f"{path}: model_type={kind!r} is none of {', '.join(FAMILIES)}")
    try:
        values = AutoConfig.from_pretrained(directory, local_files_only=True).to_dict()
    except Exception as error:  # whatever its own checks raise
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return _Fields(path, values)


class _Fields:
    """Values of a `config.json`, and refusals that name its fields."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path, self.values = path, values
        for name in _DROPOUTS:
            self.require(name, 0, default=0)
        self.require("quantization_config", None, default=None)

    def __getitem__(self, name: str) -> Any:
        if self.values.get(name) is None:
            raise UnsupportedModelError(f"{self.path} has no {name}")
        return self.values[name]

    def require(self, name: str, wanted: Any, default: Any = None) -> None:
        """Refuse a field with another value."""
        found = self.values.get(name, default)
        if (default if found is None else found) != wanted:
            raise self.refusal(name, found, f"only {wanted!r} can be represented")

    def refusal(self, name: str, found: Any, why: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.path}: {name}={found!r}: {why}")


def _llama_like(fields: _Fields, family: Family) -> ModelConfig:
    fields.require("hidden_act", "silu")
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    fields.require("head_dim", width // heads, default=width // heads)
    values = fields.values
    scaling, theta, share = _rope(fields)
    if share != 1:
        raise fields.refusal("rope_parameters.partial_rotary_factor", share, "only 1 can be represented")
    every = family is LLAMA and bool(values.get("attention_bias"))
    return _made(
        fields,
        num_layers=fields["num_hidden_layers"],
        width=width,
        num_heads=heads,
        num_kv_heads=values.get("num_key_value_heads") or heads,
        mlp_width=fields["intermediate_size"],
        vocab_size=fields["vocab_size"],
        context_tokens=_context(fields),
        tie_embeddings=bool(values.get("tie_word_embeddings")),
        rope_theta=theta,
        norm_eps=fields["rms_norm_eps"],
        attention_bias="all" if every else "qkv" if family.model_type == "qwen2" else "none",
        mlp_bias=family is LLAMA and bool(values.get("mlp_bias")),
        rope_scaling=scaling,
    )


def _neox(fields: _Fields) -> ModelConfig:
    fields.require("hidden_act", "gelu")
    fields.require("attention_bias", True, default=True)
    scaling, theta, share = _rope(fields)
    return _made(
        fields,
        num_layers=fields["num_hidden_layers"],
        width=fields["hidden_size"],
        num_heads=fields["num_attention_heads"],
        num_kv_heads=fields["num_attention_heads"],
        mlp_width=fields["intermediate_size"],
        vocab_size=fields["vocab_size"],
        context_tokens=_context(fields),
        mlp="gelu",
        norm="layernorm",
        tie_embeddings=bool(fields.values.get("tie_word_embeddings")),
        rope_theta=theta,
        norm_eps=fields["layer_norm_eps"],
        attention_bias="all",
        mlp_bias=True,
        norm_bias=True,
        parallel_residual=bool(fields["use_parallel_residual"]),
        rotary_share=share,
        rope_scaling=scaling,
    )


def _made(fields: _Fields, **values: Any) -> ModelConfig:
    try:
        return ModelConfig(name="pretrained", **values)
    except ValueError as error:
        raise UnsupportedModelError(f"{fields.path}: {error}") from error


def _context(fields: _Fields) -> int:
    """Positions up to which every token sees all before it."""
    positions, values = fields["max_position_embeddings"], fields.values
    kinds = values.get("layer_types")
    slides = "sliding_attention" in kinds if kinds else values.get("use_sliding_window", True)
    window = values.get("sliding_window") if slides else None
    return positions if window is None else min(positions, window)


def _rope(fields: _Fields) -> tuple[RopeScaling, float, float]:
    """Scaling, base, and the share of a head's features that is rotated."""
    given: dict[str, Any] = {key: value for key, value in fields["rope_parameters"].items() if value is not None}
    kind = given.pop("rope_type", "default")
    theta, share = float(given.pop("rope_theta")), float(given.pop("partial_rotary_factor", 1.0))
    given.pop("type", None)  # an older name of rope_type, which stands beside it
    if kind not in _ROPE_KEYS:
        raise fields.refusal("rope_parameters.rope_type", kind, f"only {', '.join(_ROPE_KEYS)} can be represented")
    for name in sorted(set(given) - _ROPE_KEYS[kind]):
        raise fields.refusal(f"rope_parameters.{name}", given[name], f"unknown for rope_type={kind!r}")
    if kind == "default":
        return RopeScaling(), theta, share
    names = {"original_max_position_embeddings": "original_context_tokens"}
    factors = ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor")
    values: dict[str, Any] = {
        names.get(key, key): float(value) if key in factors else value for key, value in given.items()
    }
    if kind == "yarn":
        _settle_attention_factor(values)
    try:
        return RopeScaling(kind=kind, **values), theta, share
    except (TypeError, ValueError) as error:
        raise UnsupportedModelError(f"{fields.path}: rope_parameters: {error}") from error


def _settle_attention_factor(values: dict[str, Any]) -> None:
    """Replace DeepSeek's two scales by the factor that `transformers` makes of them."""
    first, second = values.pop("mscale", None), values.pop("mscale_all_dim", None)
    if "attention_factor" not in values and first and second:
        growth = 0.1 * math.log(values["factor"])
        values["attention_factor"] = (growth * first + 1.0) / (growth * second + 1.0)


def _name(directory: Path) -> str:
    """Directory's name as a model's: of a snapshot in the hub's cache, the repository's."""
    folder = directory.resolve()
    if folder.parent.name == "snapshots":
        folder = Path(folder.parent.parent.name.rpartition("--")[2])
    kept = "".join(c if c.isalnum() or c in "._-" else "_" for c in folder.name)
    return kept or "pretrained"


def conversion_command(source: str, target: str, revision: str | None = None) -> str:
    """Command that loads a checkpoint, pickles too, with `transformers`, and writes it as safetensors."""
    return _CONVERT + " ".join(shlex.quote(part) for part in (source, target, revision) if part is not None)


def weight_files(directory: Path, elsewhere: Collection[str] = ()) -> list[Path]:
    """Files that hold a checkpoint's weights.

    Parameters
    ----------
    directory
        A Hugging Face directory.
    elsewhere
        Names of files that count as there.

    Raises
    ------
    ValueError
        There are none, one is missing, or they are pickles: the message has the command that converts them.
    """
    index = directory / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index} is damaged: {error!r}") from error
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise ValueError(f"{index} names {outside[0]!r}, which is no file of its folder")
        missing = [name for name in names if not (directory / name).is_file() and name not in elsewhere]
        if missing:
            raise ValueError(f"{directory} lacks {missing[0]}, which {INDEX} names: copy it again")
        return [directory / name for name in names]
    if (directory / WEIGHTS_FILE).is_file() or WEIGHTS_FILE in elsewhere:
        return [directory / WEIGHTS_FILE]
    pickles = sorted(path.name for end in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in directory.glob(end))
    if pickles:
        target = directory.with_name(f"{directory.name}-safetensors")
        raise ValueError(
            f"{directory / pickles[0]} is a pickle, which can run any code, and is not read. If you trust it, convert it: "
            + conversion_command(str(directory), str(target))
        )
    raise ValueError(
        f"{directory} has neither {WEIGHTS_FILE} nor {INDEX}: not a checkpoint, or one of the hub that has pickles alone, which "
        "are not fetched"
    )


class PretrainedWeights:
    """Weights of a checkpoint from outside, read one at a time, in fp32 and by our names.

    Parameters
    ----------
    directory
        A Hugging Face directory.
    config
        What `pretrained_config` gave.

    Raises
    ------
    ValueError
        A file is missing or damaged, or holds a tensor that the model does not have.
    """

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        self.config, self.directory = config, directory
        family = family_of(config)
        assert family is not None
        self.family = family
        self._files: dict[str, Any] = {}
        for path in weight_files(directory):
            try:
                file = safe_open(path, framework="pt")  # pyright: ignore
            except Exception as error:
                raise ValueError(f"{path} is damaged: {error}") from error
            self._files |= dict.fromkeys(file.keys(), file)

    def check(self, names: Iterable[str]) -> None:
        """Refuse tensors that stand for nothing in the model, such as biases that the config does not mention."""
        known = {key for name in names for key in self.family.keys(name)}
        found = set(self._files)
        head = f"{self.family.top['output']}.weight"
        if self.config.tie_embeddings and head in self._files:
            found.discard(head)  # a copy, as `read` sees to
            self._check_copy(head)
        for key in sorted(found - known):
            if not key.endswith(_COMPUTED):
                raise ValueError(
                    f"{self.directory} has the tensor {key}, which the model does not: its config.json is not its own"
                )

    def _check_copy(self, head: str) -> None:
        embedding = self._get(self.family.top["embedding"] + ".weight")
        if not torch.equal(self._get(head), embedding):
            raise ValueError(
                f"{self.directory}: tie_word_embeddings is true, but {head} differs from the embeddings: set it to false"
            )

    def read(self, name: str, shape: torch.Size) -> Tensor:
        """One of `Transformer`'s weights, whole, on the CPU, in fp32."""
        parts = [self._get(key) for key in self.family.keys(name)]
        whole = self.family.rows_in(name, torch.cat(parts) if len(parts) > 1 else parts[0], self.config)
        if whole.shape != shape:
            raise ValueError(f"{self.directory}: {name} has the shape {tuple(whole.shape)}, not {tuple(shape)}")
        return whole

    def _get(self, key: str) -> Tensor:
        if key not in self._files:
            raise ValueError(f"{self.directory} has no tensor {key}")
        tensor = self._files[key].get_tensor(key)
        if not tensor.is_floating_point():
            raise ValueError(f"{self.directory}: {key} is of {tensor.dtype}: quantised weights are not read")
        return tensor.float()


@torch.no_grad()
def load_pretrained(directory: Path, attention: str = "sdpa") -> Transformer:
    """Read a checkpoint from outside, on the CPU and in evaluation mode.

    Parameters
    ----------
    directory
        A Hugging Face directory.
    attention
        Backend, `sdpa` or `flash_attn`.

    Raises
    ------
    UnsupportedModelError
        See `pretrained_config`.
    ValueError
        A file is missing or damaged, or the weights do not fit the config.
    """
    config = pretrained_config(directory)
    model = Transformer(config, attention)
    weights = PretrainedWeights(directory, config)
    weights.check(model.state_dict())
    for name, parameter in model.named_parameters():
        parameter.copy_(weights.read(name, parameter.shape))
    return model.eval()
