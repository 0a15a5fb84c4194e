"""Checkpoints in Hugging Face's layout: what we write, `transformers` reads, with equal logits."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

import workbench.model.hf
from workbench.config.schema import ModelConfig
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer
from workbench.model.weights import from_hf, load_model, read_config, to_hf, write_hf

BASE = ModelConfig(
    name="test",
    num_layers=2,
    width=48,
    num_heads=6,
    num_kv_heads=6,
    mlp_width=80,
    vocab_size=97,
    context_tokens=32,
)
SWITCHES = (
    {"mlp": "gelu"},
    {"norm": "layernorm"},
    {"position": "learned"},
    {"position": "none", "tie_embeddings": True},
    {"qk_norm": True, "num_kv_heads": 2},
    {"parametrisation": "complete_p", "base_width": 24, "base_head_width": 4, "base_layers": 1},
    {"parametrisation": "complete_p", "base_width": 24, "base_head_width": 4, "base_layers": 1, "tie_embeddings": True},
)


def make_model(seed: int = 0, **changes) -> Transformer:
    model = Transformer(dataclasses.replace(BASE, **changes))
    init_weights(model, seed)
    for name, parameter in model.named_parameters():  # gains of one would hide a swapped gain
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def random_tokens(count: int = 3, tokens: int = 32) -> torch.Tensor:
    return torch.randint(0, BASE.vocab_size, (count, tokens), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("num_kv_heads", [6, 2, 1])
def test_llama_checkpoint_gives_equal_logits(tmp_path, num_kv_heads, tie_embeddings):
    model = make_model(num_kv_heads=num_kv_heads, tie_embeddings=tie_embeddings, rope_theta=500.0, norm_eps=1e-3)
    write_hf(tmp_path, model, None, 1, 2)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs) is LlamaForCausalLM
    assert theirs.dtype == torch.float32
    with torch.no_grad():
        logits, expected = model(random_tokens()), theirs(random_tokens()).logits
    assert logits.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_normalised_queries_and_keys_are_qwen3s():
    """A gain for the features of a head, shared by the heads, before the rotation; its checkpoints stay our own."""
    model = make_model(qk_norm=True, num_kv_heads=2)
    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=97,
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=80,
            max_position_embeddings=32,
            rms_norm_eps=BASE.norm_eps,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": BASE.rope_theta},
        )
    ).eval()
    plain = {
        name: values for name, values in model.state_dict().items() if "q_norm" not in name and "k_norm" not in name
    }
    state = to_hf(plain, dataclasses.replace(model.config, qk_norm=False))
    for name in model.state_dict().keys() - plain.keys():
        _, layer, _, norm, kind = name.split(".")
        state[f"model.layers.{layer}.self_attn.{norm}.{kind}"] = model.state_dict()[name]
    theirs.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(model(random_tokens()), theirs(random_tokens()).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_other_checkpoints_load_after_import(tmp_path, changes):
    model = make_model(**changes)
    write_hf(tmp_path, model, None, 1, 2)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs) is workbench.model.hf.WorkbenchForCausalLM
    with torch.no_grad():
        assert torch.equal(model(random_tokens()), theirs(random_tokens()).logits)
    theirs.save_pretrained(tmp_path / "again")
    assert torch.equal(
        AutoModelForCausalLM.from_pretrained(tmp_path / "again").transformer.norm.weight, model.norm.weight
    )


def test_other_checkpoints_are_refused_without_the_import(tmp_path):
    write_hf(tmp_path, make_model(mlp="gelu"), None, 1, 2)
    code = f"from transformers import AutoConfig; AutoConfig.from_pretrained({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "model type `workbench`" in done.stderr
    assert "import workbench.model.hf" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 1, "tie_embeddings": True}, *SWITCHES], ids=str)
def test_load_model_restores_every_bit(tmp_path, changes):
    model = make_model(**changes)
    write_hf(tmp_path, model, None, None, None)
    restored = load_model(tmp_path)
    assert restored.config == model.config
    assert not restored.training
    ours, theirs = model.state_dict(), restored.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert torch.equal(model(random_tokens()), restored(random_tokens()))


def test_from_hf_inverts_to_hf():
    for changes in ({"num_kv_heads": 2}, {"mlp": "gelu"}):
        model = make_model(**changes)
        state = model.state_dict()
        back = from_hf(to_hf(state, model.config), model.config, state)
        assert set(back) == set(state)
        assert all(torch.equal(back[key], state[key]) for key in state)


def test_files_beside_the_weights(tmp_path):
    tokenizer, checkpoint = tmp_path / "tokenizer", tmp_path / "checkpoint"
    tokenizer.mkdir()
    checkpoint.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    write_hf(checkpoint, make_model(), tokenizer, 5, 6)
    assert (checkpoint / "tokenizer.json").read_text() == "{}"
    assert json.loads((checkpoint / "config.json").read_text())["bos_token_id"] == 5
    assert json.loads((checkpoint / "generation_config.json").read_text()) == {"bos_token_id": 5, "eos_token_id": 6}
    assert read_config(checkpoint) == BASE


def test_generation_continues_a_prompt(tmp_path):
    model = make_model(qk_norm=True)
    write_hf(tmp_path, model, None, 1, 2)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = random_tokens(1, 4)
    longer = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=3, do_sample=False)
    expected = prompt
    for _ in range(longer.shape[1] - 4):
        expected = torch.cat((expected, model(expected)[:, -1:].argmax(-1)), dim=1)
    assert longer.shape[1] > 4
    assert torch.equal(longer, expected)


def test_left_padding_is_refused(tmp_path):
    write_hf(tmp_path, make_model(mlp="gelu"), None, 1, 2)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pad on the right"):
        theirs(random_tokens(1, 3), attention_mask=torch.tensor([[0, 1, 1]]))


def test_damaged_and_foreign_checkpoints_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load_model(tmp_path)
    write_hf(tmp_path, make_model(), None, 1, 2)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no key 'workbench'"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        read_config(tmp_path)
