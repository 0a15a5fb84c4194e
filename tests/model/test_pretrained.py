"""Checkpoints of others: every family gives `transformers`' own logits, and goes back as it came."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from workbench.model.pretrained import UnsupportedModelError, load_pretrained, pretrained_config, weight_files
from workbench.model.weights import load_model, write_hf
from workbench.study.flops import count_parameters

CONTEXT = 48
SHAPE = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def rope(kind, **more):
    return {"rope_type": kind, "rope_theta": 10000.0, **more}


FAMILIES = {
    "llama1": (LlamaForCausalLM, LlamaConfig(**SHAPE, rms_norm_eps=1e-6)),
    "llama2": (LlamaForCausalLM, LlamaConfig(**SHAPE, num_key_value_heads=2, rms_norm_eps=1e-5)),
    "llama3": (
        LlamaForCausalLM,
        LlamaConfig(
            **SHAPE,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        ),
    ),
    "tinyllama": (LlamaForCausalLM, LlamaConfig(**SHAPE, num_key_value_heads=1)),
    "smollm": (
        LlamaForCausalLM,
        LlamaConfig(
            **SHAPE,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            rope_parameters=rope("default") | {"rope_theta": 1e5},
        ),
    ),
    "llama_biases": (LlamaForCausalLM, LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True)),
    "llama_linear": (LlamaForCausalLM, LlamaConfig(**SHAPE, rope_parameters=rope("linear", factor=4.0))),
    "llama_yarn": (
        LlamaForCausalLM,
        LlamaConfig(**SHAPE, rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=12)),
    ),
    "qwen2": (
        Qwen2ForCausalLM,
        Qwen2Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True, rope_parameters=rope("default")),
    ),
    "qwen2_yarn": (
        Qwen2ForCausalLM,
        Qwen2Config(
            **SHAPE,
            num_key_value_heads=2,
            rope_parameters=rope("yarn", factor=2.0, original_max_position_embeddings=24),
        ),
    ),
    "mistral": (MistralForCausalLM, MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=32)),
    "pythia": (GPTNeoXForCausalLM, GPTNeoXConfig(**SHAPE, rotary_pct=0.5)),
    "neox_sequential": (GPTNeoXForCausalLM, GPTNeoXConfig(**SHAPE, use_parallel_residual=False, rotary_pct=1.0)),
}


def make(name, directory, dtype=torch.float32, **options):
    """Write a small random checkpoint as `transformers` writes it, with gains and biases that show a swap."""
    kind, config = FAMILIES[name]
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key and key.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            elif key.endswith("bias"):
                parameter.normal_(0, 0.3)
            else:
                parameter.normal_(0, 0.1)
    model.to(dtype).save_pretrained(directory, **options)
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def tokens(count):
    return torch.randint(0, SHAPE["vocab_size"], (3, count), generator=torch.Generator().manual_seed(1))


def assert_equal_logits(ours, theirs):
    with torch.no_grad():
        batch = tokens(ours.config.context_tokens)
        logits, expected = ours(batch), theirs(batch).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(tmp_path, name):
    theirs = make(name, tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs")
    assert not ours.training
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    assert count_parameters(ours.config).total == theirs.num_parameters()
    assert_equal_logits(ours, theirs)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_goes_back_as_it_came(tmp_path, name):
    """Exported it is of the same family, or of Llama where that says the same, and `transformers` gives equal logits."""
    theirs = make(name, tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    write_hf(tmp_path / "ours", ours, None, 1, 2)
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert type(back) is type(theirs) or type(back) is LlamaForCausalLM
    assert_equal_logits(ours, back)
    assert_equal_logits(ours, theirs)
    restored = load_model(tmp_path / "ours")
    assert restored.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(restored.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize("name", ["llama2", "smollm", "pythia"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shards_and_16_bits(tmp_path, name, dtype):
    theirs = make(name, tmp_path, dtype, max_shard_size="40KB")
    assert len(weight_files(tmp_path)) > 2
    assert_equal_logits(load_pretrained(tmp_path), theirs)


def test_a_window_is_the_context(tmp_path):
    make("mistral", tmp_path)
    assert pretrained_config(tmp_path).context_tokens == 32


def test_fields_left_out_have_the_defaults_of_transformers(tmp_path):
    """`save_pretrained` leaves out what equals a family's own default."""
    make("llama1", tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["rms_norm_eps"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert pretrained_config(tmp_path).norm_eps == LlamaConfig().rms_norm_eps


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "llama1",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            r"rope_parameters.partial_rotary_factor=0.5: only 1",
        ),
        ("llama1", {"model_type": "gemma"}, r"model_type='gemma' is none of llama, mistral, qwen2, gpt_neox"),
        ("llama1", {"hidden_act": "relu"}, r"hidden_act='relu': only 'silu'"),
        ("llama1", {"head_dim": 16}, r"head_dim=16: only 12"),
        ("llama1", {"attention_dropout": 0.1}, r"attention_dropout=0.1: only 0"),
        ("llama1", {"quantization_config": {"quant_method": "gptq"}}, r"quantization_config=\{.*gptq"),
        (
            "llama1",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            r"rope_parameters.rope_type='dynamic': only default, linear, llama3, yarn",
        ),
        ("pythia", {"hidden_act": "gelu_fast"}, r"hidden_act='gelu_fast': only 'gelu'"),
        ("pythia", {"attention_bias": False}, r"attention_bias=False: only True"),
    ],
)
def test_what_cannot_be_represented_names_its_field(tmp_path, name, changes, message):
    make(name, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(UnsupportedModelError, match=r"config.json: " + message):
        pretrained_config(tmp_path)


def change_weights(directory, change):
    state = load_file(directory / "model.safetensors")
    change(state)
    save_file(state, directory / "model.safetensors", {"format": "pt"})


def test_weights_that_are_not_the_configs_are_refused(tmp_path):
    key = "model.layers.0.self_attn.q_proj"
    for change, message in (
        (lambda state: state.pop(f"{key}.weight"), rf"has no tensor {key}.weight"),
        (lambda state: state.update({f"{key}.bias": torch.zeros(48)}), rf"has the tensor {key}.bias, which the model"),
        (lambda state: state.update({f"{key}.weight": torch.zeros(40, 48)}), r"has the shape"),
        (lambda state: state.update({f"{key}.weight": torch.zeros(48, 48, dtype=torch.int8)}), r"quantised"),
    ):
        make("llama1", tmp_path / "made")
        change_weights(tmp_path / "made", change)
        with pytest.raises(ValueError, match=message):
            load_pretrained(tmp_path / "made")
        shutil.rmtree(tmp_path / "made")


def test_what_older_files_hold_beside_the_weights_is_left_alone(tmp_path):
    theirs = make("pythia", tmp_path)
    change_weights(
        tmp_path, lambda state: state.update({"gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(3)})
    )
    assert_equal_logits(load_pretrained(tmp_path), theirs)


def test_a_copy_of_tied_embeddings_must_be_one(tmp_path):
    theirs = make("smollm", tmp_path)
    embedding = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    change_weights(tmp_path, lambda state: state.update({"lm_head.weight": embedding.clone()}))
    assert_equal_logits(load_pretrained(tmp_path), theirs)
    change_weights(tmp_path, lambda state: state.update({"lm_head.weight": embedding + 1}))
    with pytest.raises(ValueError, match=r"tie_word_embeddings is true, but lm_head.weight differs"):
        load_pretrained(tmp_path)


def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path):
    theirs = make("llama2", tmp_path / "made")
    (tmp_path / "made" / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "made" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin is a pickle, which can run any code.* convert it: python"):
        load_pretrained(tmp_path / "made")


def test_missing_and_damaged_files_are_named(tmp_path):
    make("llama2", tmp_path, max_shard_size="40KB")
    files = weight_files(tmp_path)
    files[1].write_bytes(files[1].read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{files[1].name} is damaged"):
        load_pretrained(tmp_path)
    files[1].unlink()
    with pytest.raises(ValueError, match=rf"lacks {files[1].name}, which model.safetensors.index.json names"):
        load_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(ValueError, match="is no file of its folder"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        load_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no config.json: not a Hugging Face checkpoint"):
        load_pretrained(tmp_path / "nothing")
