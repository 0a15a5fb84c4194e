"""Adapters: nothing changes at first, only they are trained, and merged or read by `peft` they compute the same."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.model.test_transformer import BASE, make_model, random_tokens
from workbench.config.schema import LORA_TARGETS, LoraConfig, from_dict, to_dict
from workbench.model.adapter_files import (
    _READ,
    _UNSUPPORTED,
    _WITHOUT_EFFECT,
    load_adapters,
    read_adapter_config,
    save_adapters,
)
from workbench.model.batch import Batch
from workbench.model.lora import (
    adapter_config,
    adapter_shapes,
    adapter_tensors,
    add_adapters,
    merge,
    merged_state,
)
from workbench.model.transformer import Transformer, summed_loss
from workbench.model.weights import load_model, write_hf

GELU_TARGETS = [name for name in LORA_TARGETS if name != "gate_proj"]
KINDS = (
    ({"num_kv_heads": 2}, LoraConfig(rank=4, alpha=8.0)),
    ({}, LoraConfig(rank=3, alpha=5.0, targets=["k_proj", "up_proj"], rslora=True)),
    ({"attention_bias": "qkv", "num_kv_heads": 1}, LoraConfig(rank=2, alpha=2.0, targets=["q_proj", "v_proj"])),
    ({"attention_bias": "all", "mlp_bias": True}, LoraConfig(rank=4, alpha=4.0)),
    ({"tie_embeddings": True}, LoraConfig(rank=4, alpha=4.0, targets=["o_proj", "down_proj"])),
)
OTHERS = (  # those of which no adapter of `peft` has our names
    ({"mlp": "gelu"}, LoraConfig(rank=4, alpha=8.0, targets=GELU_TARGETS)),
    (
        {"norm": "layernorm", "norm_bias": True, "mlp": "gelu", "mlp_bias": True, "attention_bias": "all"},
        LoraConfig(rank=4, alpha=8.0, targets=GELU_TARGETS),
    ),
    ({"qk_norm": True, "num_kv_heads": 2}, LoraConfig(rank=4, alpha=8.0)),
)


def adapted(changes, config, seed=0):
    """A model whose adapters do something."""
    model = make_model(**changes)
    add_adapters(model, config, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapter_tensors(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.2, generator=generator)
    return model.eval()


@torch.no_grad()
def logits(model):
    found = model(random_tokens())
    return found.logits if hasattr(found, "logits") else found


@pytest.mark.parametrize(("changes", "config"), KINDS + OTHERS, ids=str)
def test_at_first_nothing_changes_and_only_adapters_are_trained(changes, config):
    model, plain = make_model(**changes), make_model(**changes)
    add_adapters(model, config, seed=1)
    assert torch.equal(logits(model), logits(plain))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".adapters." in name for name in trained)
    assert len(trained) == len(adapter_tensors(model)) == 2 * BASE.num_layers * len(config.targets)
    assert {k: tuple(v.shape) for k, v in adapter_tensors(model).items()} == adapter_shapes(plain, config)
    assert adapter_config(model) == config
    summed_loss(model, Batch(random_tokens(tokens=25)))[0].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
    # B is zero, so that A has no gradient yet, and B has.
    grads = {name: tensor.grad for name, tensor in adapter_tensors(model).items()}
    assert all((grads[name] != 0).any() == ("lora_B" in name) for name in grads)


@pytest.mark.parametrize(("changes", "config"), KINDS + OTHERS, ids=str)
def test_merged_it_computes_the_same(changes, config, tmp_path):
    model = adapted(changes, config)
    expected = logits(model)
    assert (expected - logits(make_model(**changes))).abs().max() > 0.01
    state, plain = merged_state(model), Transformer(model.config)
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state)
    torch.testing.assert_close(logits(plain), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)
    merge(model)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))
    assert adapter_config(model) is None
    assert all(parameter.requires_grad for parameter in model.parameters())
    write_hf(tmp_path, model, None, 1, 2)
    torch.testing.assert_close(logits(load_model(tmp_path)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("changes", "config"), KINDS + OTHERS, ids=str)
def test_written_and_read_they_are_the_same(changes, config, tmp_path):
    model = adapted(changes, config)
    facts = save_adapters(tmp_path, model, "base")
    assert facts["bytes"] == (tmp_path / "adapter_model.safetensors").stat().st_size
    other = make_model(**changes)
    assert load_adapters(other, tmp_path) == config == adapter_config(other)
    assert torch.equal(logits(other), logits(model))


# peft 0.21 asks transformers 5.23 under a name that will go.
peft_asks_by_an_old_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@peft_asks_by_an_old_name
@pytest.mark.parametrize(("changes", "config"), KINDS, ids=str)
def test_peft_reads_ours_and_we_read_what_it_writes(changes, config, tmp_path, peft):
    model = adapted(changes, config)
    for name in ("base", "ours", "theirs"):
        (tmp_path / name).mkdir()
    write_hf(tmp_path / "base", make_model(**changes), None, 1, 2)
    save_adapters(tmp_path / "ours", model, str(tmp_path / "base"))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    torch.testing.assert_close(logits(theirs), logits(model), rtol=0, atol=1e-4)
    assert theirs.peft_config["default"].r == config.rank
    theirs.save_pretrained(tmp_path / "theirs")
    back = make_model(**changes)
    assert load_adapters(back, tmp_path / "theirs") == dataclasses.replace(
        config, targets=[name for name in LORA_TARGETS if name in config.targets]
    )
    assert torch.equal(logits(back), logits(model))


@peft_asks_by_an_old_name
def test_peft_reads_those_of_gpt_neox_that_are_matrices_of_its_own(tmp_path, peft):
    changes = OTHERS[1][0]
    config = LoraConfig(rank=4, alpha=8.0, targets=["o_proj", "up_proj", "down_proj"])
    model = adapted(changes, config)
    for name in ("base", "ours", "theirs", "fused"):
        (tmp_path / name).mkdir()
    write_hf(tmp_path / "base", make_model(**changes), None, 1, 2)
    save_adapters(tmp_path / "ours", model, str(tmp_path / "base"))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    assert base.config.model_type == "gpt_neox"
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    torch.testing.assert_close(logits(theirs), logits(model), rtol=0, atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    for name in ("ours", "theirs"):
        back = make_model(**changes)
        assert load_adapters(back, tmp_path / name) == config
        assert torch.equal(logits(back), logits(model))
    assert not (tmp_path / "ours" / "README.md").exists()
    save_adapters(tmp_path / "fused", adapted(*OTHERS[1]))
    assert "peft cannot apply" in (tmp_path / "fused" / "README.md").read_text()


def test_every_field_of_pefts_config_is_known(peft):
    """A field of another version may ask for other arithmetic."""
    names = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    known = _READ | _WITHOUT_EFFECT
    assert names - known <= set(_UNSUPPORTED)
    assert not known & set(_UNSUPPORTED)


@peft_asks_by_an_old_name
def test_adapters_that_peft_made(tmp_path, peft):
    """Made and filled by it, not by us."""
    write_hf(tmp_path, make_model(num_kv_heads=2), None, 1, 2)
    torch.manual_seed(0)
    theirs = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path),
        peft.LoraConfig(
            r=4, lora_alpha=6, lora_dropout=0.1, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"]
        ),
    ).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = make_model(num_kv_heads=2)
    assert load_adapters(ours, tmp_path / "theirs") == LoraConfig(4, 6.0, ["q_proj", "v_proj", "down_proj"], True)
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=0, atol=1e-4)
    drawn = [p for n, p in theirs.named_parameters() if "q_proj.lora_A" in n]
    model = make_model(num_kv_heads=2)
    add_adapters(model, LoraConfig(4, targets=["q_proj"]), seed=0)
    own = [t for n, t in adapter_tensors(model).items() if "lora_A" in n]
    assert all(0.9 < a.abs().max() * 32**0.5 <= 1 for a in own + drawn)


def test_first_values_depend_on_seed_and_name_alone():
    config = LoraConfig(rank=4, targets=["q_proj", "down_proj"])

    def drawn(seed, **changes):
        model = make_model(**changes)
        state = torch.get_rng_state()
        add_adapters(model, config, seed)
        assert torch.equal(torch.get_rng_state(), state)
        return {name: tensor.detach() for name, tensor in adapter_tensors(model).items() if "lora_A" in name}

    first, same, other = drawn(1), drawn(1, num_kv_heads=2), drawn(2)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert len({tensor.sum().item() for tensor in first.values()}) == len(first)


def test_in_bf16(tmp_path):
    model = adapted({"num_kv_heads": 2}, LoraConfig(rank=4))
    expected = logits(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert (logits(model) - expected).abs().max() < 0.1 * expected.abs().max()


def test_activation_checkpointing_changes_no_gradient():
    gradients = []
    for frugal in (False, True):
        model = adapted({}, LoraConfig(rank=4))
        model.activation_checkpointing = frugal
        summed_loss(model, Batch(random_tokens(tokens=25)))[0].backward()
        gradients.append([tensor.grad for tensor in adapter_tensors(model).values()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"lora.rank=0 must be"),
        ({"alpha": 0.0}, r"lora.alpha=0.0 must be"),
        ({"targets": []}, r"lora.targets is empty"),
        ({"targets": ["query"]}, r"'query' is not one of q_proj"),
        ({"targets": ["q_proj", "q_proj"]}, r"names a matrix twice"),
    ],
)
def test_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LoraConfig(**settings)


def test_settings():
    assert from_dict(LoraConfig, to_dict(LoraConfig(4))) == LoraConfig(4)
    assert LoraConfig(16, 32.0).scale == 2
    assert LoraConfig(16, 32.0, rslora=True).scale == 8


def test_models_that_cannot_have_them():
    model = make_model(mlp="gelu")
    with pytest.raises(ValueError, match=r"lora.targets=.* the model has no gate_proj"):
        add_adapters(model, LoraConfig(), 0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    add_adapters(model, LoraConfig(targets=["up_proj"]), 0)
    with pytest.raises(ValueError, match="has adapters already"):
        add_adapters(model, LoraConfig(targets=["up_proj"]), 0)
    with torch.device("meta"), pytest.raises(ValueError, match="on the meta device"):
        add_adapters(Transformer(BASE), LoraConfig(), 0)
    with pytest.raises(ValueError, match="has no adapters to save"):
        save_adapters(None, make_model())  # pyright: ignore


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, r"peft_type='IA3': only 'LORA'"),
        ({"bias": "all"}, r"bias='all': only 'none'"),
        ({"alora_invocation_tokens": [1, 2]}, r"alora_invocation_tokens=\[1, 2\]: such"),
        ({"use_dora": True}, r"use_dora=True: such adapters are not supported"),
        ({"rank_pattern": {"q_proj": 8}}, r"rank_pattern=\{'q_proj': 8\}: such"),
        ({"alpha_pattern": {"q_proj": 8}}, r"alpha_pattern=\{'q_proj': 8\}: such"),
        ({"lora_bias": True}, r"lora_bias=True: such"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]: such"),
        ({"layers_to_transform": [0]}, r"layers_to_transform=\[0\]: such"),
        ({"fan_in_fan_out": True}, r"fan_in_fan_out=True: such"),
        ({"target_parameters": ["experts.w"]}, r"target_parameters=\['experts.w'\]: such"),
        ({"trainable_token_indices": [1]}, r"trainable_token_indices=\[1\]: such"),
        ({"velora_config": {"num_groups": 4}}, r"velora_config=\{'num_groups': 4\}: such"),
        ({"use_younger_lora": True}, r"use_younger_lora=True is not known: remove it"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights='pissa': only"),
        ({"init_lora_weights": "loftq"}, r"init_lora_weights='loftq': only"),
        ({"init_lora_weights": "olora"}, r"init_lora_weights='olora': only"),
        ({"target_modules": ["query_key_value"]}, r"target_modules=\['query_key_value'\]: only names among q_proj"),
        ({"target_modules": ".*"}, r"target_modules='\.\*': only names"),
        ({"r": "x"}, r"adapter_config.json is damaged"),
        ({"r": 2}, r"q_proj.lora_A.weight has the shape \(4, 32\), not \(2, 32\)"),
        ({"target_modules": ["q_proj"]}, r"adapter_model.safetensors has .*k_proj.*, which is none of this model's"),
        ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, r"adapter_model.safetensors lacks .*v_proj"),
    ],
    ids=str,
)
def test_files_that_cannot_be_read_say_why(changes, message, tmp_path):
    save_adapters(tmp_path, adapted({}, LoraConfig(rank=4, targets=["q_proj", "k_proj"])))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    model = make_model()
    with pytest.raises(ValueError, match=message):
        load_adapters(model, tmp_path)
    assert adapter_config(model) is None
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(ValueError, match=r"has no adapter_config.json"):
        read_adapter_config(tmp_path)
    save_adapters(tmp_path, adapted({}, LoraConfig(rank=4)))
    weights = tmp_path / "adapter_model.safetensors"
    assert all("lora" in name for name in load_file(weights))
    save_file({"a": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match=r"has a, which is none of this model's adapters"):
        load_adapters(make_model(), tmp_path)
    weights.write_bytes(b"x" * 10)
    with pytest.raises(ValueError, match=r"adapter_model.safetensors is damaged"):
        load_adapters(make_model(), tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"has no adapter_model.safetensors: pickles are not read"):
        load_adapters(make_model(), tmp_path)


@pytest.mark.slow
def test_compiled_it_is_the_same():
    model, batch = adapted({"num_kv_heads": 2}, LoraConfig(rank=4)), Batch(random_tokens(tokens=25))
    tensors = list(adapter_tensors(model).values())
    total, _ = summed_loss(model, batch)
    compiled, _ = summed_loss(torch.compile(model, fullgraph=True), batch)
    torch.testing.assert_close(compiled, total)
    for a, b in zip(torch.autograd.grad(compiled, tensors), torch.autograd.grad(total, tensors), strict=True):
        # Against float64, the norms of the errors of either are 3e-6 and 6e-6 of the gradient's (measured).
        assert (a - b).norm() <= 1e-5 * b.norm()
