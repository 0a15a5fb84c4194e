"""Families of models as Hugging Face names them: which one can represent a config, and its names for our weights.

Each family has its own names, fuses other matrices than ours, and leaves other fields open in `config.json`. What no
family can represent is written as model type `workbench` (`workbench.model.hf`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from workbench.config.schema import ModelConfig
from workbench.model.parametrisation import is_plain
from workbench.model.rope import ntk_theta

_LLAMA_TOP = {"embedding": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
_LLAMA_BLOCK = {
    "attention_norm": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.output": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": ("mlp.down_proj",),
}
_NEOX_BLOCK = {
    "attention_norm": ("input_layernorm",),
    "attention.qkv": ("attention.query_key_value",),
    "attention.output": ("attention.dense",),
    "mlp_norm": ("post_attention_layernorm",),
    "mlp.up": ("mlp.dense_h_to_4h",),
    "mlp.down": ("mlp.dense_4h_to_h",),
}


@dataclass(frozen=True)
class Family:
    """How `transformers` names and lays out the weights of one model type."""

    model_type: str
    """As in `config.json`."""
    architecture: str
    """Class of the causal language model."""
    top: Mapping[str, str]
    """Their names of our modules outside the blocks."""
    blocks: str
    """Their name of the list of blocks."""
    block: Mapping[str, tuple[str, ...]]
    """Their names of a block's modules: several where ours is fused and theirs are not."""
    heads_first: bool = False
    """Whether the fused queries, keys and values stand head by head, and not one after the other."""

    def keys(self, name: str) -> tuple[str, ...]:
        """Their names of one of `Transformer`'s parameters."""
        module, _, kind = name.rpartition(".")
        if module in self.top:
            return (f"{self.top[module]}.{kind}",)
        _, layer, ours = module.split(".", 2)
        return tuple(f"{self.blocks}.{layer}.{theirs}.{kind}" for theirs in self.block[ours])

    def rows_out(self, name: str, whole: Tensor, config: ModelConfig) -> Tensor:
        """Rows of one of our parameters in the order of theirs."""
        if not (self.heads_first and ".attention.qkv." in name):
            return whole
        return whole.unflatten(0, (3, config.num_heads, config.head_width)).transpose(0, 1).flatten(0, 2)

    def rows_in(self, name: str, whole: Tensor, config: ModelConfig) -> Tensor:
        """Inverse of `rows_out`."""
        if not (self.heads_first and ".attention.qkv." in name):
            return whole
        return whole.unflatten(0, (config.num_heads, 3, config.head_width)).transpose(0, 1).flatten(0, 2)


LLAMA = Family("llama", "LlamaForCausalLM", _LLAMA_TOP, "model.layers", _LLAMA_BLOCK)
MISTRAL = Family("mistral", "MistralForCausalLM", _LLAMA_TOP, "model.layers", _LLAMA_BLOCK)
QWEN2 = Family("qwen2", "Qwen2ForCausalLM", _LLAMA_TOP, "model.layers", _LLAMA_BLOCK)
GPT_NEOX = Family(
    "gpt_neox",
    "GPTNeoXForCausalLM",
    {"embedding": "gpt_neox.embed_in", "norm": "gpt_neox.final_layer_norm", "output": "embed_out"},
    "gpt_neox.layers",
    _NEOX_BLOCK,
    heads_first=True,
)
FAMILIES = {family.model_type: family for family in (LLAMA, MISTRAL, QWEN2, GPT_NEOX)}


def family_of(config: ModelConfig) -> Family | None:
    """Family that can represent a model, None if there is none; of several the first of Llama, Qwen 2, GPT-NeoX."""
    if config.qk_norm or config.position != "rope" or not is_plain(config):
        return None
    if (config.mlp, config.norm) == ("swiglu", "rmsnorm") and not config.parallel_residual and config.rotary_share == 1:
        if config.attention_bias != "qkv":
            return LLAMA
        return None if config.mlp_bias else QWEN2
    biases = (config.attention_bias, config.mlp_bias, config.norm_bias)
    if (config.mlp, config.norm) == ("gelu", "layernorm") and biases == ("all", True, True):
        return GPT_NEOX if config.num_kv_heads == config.num_heads else None
    return None


def family_config(family: Family, config: ModelConfig) -> dict[str, Any]:
    """Fields of `config.json` that only this family has."""
    values: dict[str, Any] = {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        "intermediate_size": config.mlp_width,
        "rope_parameters": _rope_parameters(config),
    }
    if family is GPT_NEOX:
        return values | {
            "hidden_act": "gelu",
            "layer_norm_eps": config.norm_eps,
            "use_parallel_residual": config.parallel_residual,
            "attention_bias": True,
            "rotary_pct": config.rotary_share,
            "rotary_emb_base": _theta(config),
        }
    values |= {
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": _theta(config),
    }
    if family is LLAMA:
        values |= {"attention_bias": config.attention_bias == "all", "mlp_bias": config.mlp_bias}
    return values


def _theta(config: ModelConfig) -> float:
    scaling = config.rope_scaling
    if scaling.kind == "ntk":  # which is nothing but another base
        return ntk_theta(config.rotary_width, config.rope_theta, scaling.factor)
    return config.rope_theta


def _rope_parameters(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    kind = "default" if scaling.kind in ("none", "ntk") else scaling.kind
    values: dict[str, Any] = {"rope_type": kind, "rope_theta": _theta(config)}
    if config.rotary_share != 1:
        values["partial_rotary_factor"] = config.rotary_share
    if kind != "default":
        values["factor"] = scaling.factor
    if kind in ("llama3", "yarn"):
        values["original_max_position_embeddings"] = scaling.original_context_tokens
    if kind == "llama3":
        values |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if kind == "yarn":
        values |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
        if scaling.attention_factor is not None:
            values["attention_factor"] = scaling.attention_factor
    return values
