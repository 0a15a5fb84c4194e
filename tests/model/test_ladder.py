"""The ladder in `conf/model`: sizes, shapes, and counts against models on the meta device."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from workbench.config.schema import ModelConfig, from_dict
from workbench.model.families import LLAMA, family_of
from workbench.model.transformer import Transformer
from workbench.study.flops import count_parameters

FOLDER = Path(__file__).parents[2] / "conf" / "model"
LADDER = {
    "m0_03": 0.03e6,
    "m0_1": 0.1e6,
    "m0_3": 0.3e6,
    "m1": 1e6,
    "m3": 3e6,
    "m10": 10e6,
    "m30": 30e6,
    "m100": 100e6,
    "m300": 300e6,
}
BETWEEN = {"m0_015": 0.015e6, "m0_06": 0.06e6, "m0_2": 0.2e6, "m0_6": 0.6e6}
"""Rungs of `isoflop` between the ladder's."""
WIDTHS = (32, 64, 128)
"""Of `transfer`: one shape at several widths."""
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_config(name: str) -> ModelConfig:
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert values.pop("defaults") == ["base_model", "_self_"]
    if values["vocab_size"] == "${tokenizer.vocab_size}":
        values["vocab_size"] = 4096
    return from_dict(ModelConfig, values)


def test_every_rung_has_a_file():
    assert set(NAMES) == {*LADDER, *BETWEEN, *(f"w{width}" for width in WIDTHS), "m0_1_gqa", "tinyllama_1b"}


def test_widths_differ_in_the_width_alone():
    first, *others = (load_config(f"w{width}") for width in WIDTHS)
    for width, config in zip(WIDTHS[1:], others, strict=True):
        ratio = width // WIDTHS[0]
        shape = {name: ratio * getattr(first, name) for name in ("width", "num_heads", "num_kv_heads", "mlp_width")}
        assert config == replace(first, name=f"w{width}", **shape)


@pytest.mark.parametrize("name", NAMES)
def test_count_equals_the_model(name):
    config = load_config(name)
    assert config.name == name
    with torch.device("meta"):
        model = Transformer(config)
    sizes = {key: parameter.numel() for key, parameter in model.named_parameters()}
    count = count_parameters(config)
    assert count.total == sum(sizes.values())
    assert count.non_embedding == sum(size for key, size in sizes.items() if key.startswith(("blocks.", "norm.")))


@pytest.mark.parametrize("name", LADDER)
def test_rungs_have_their_names_size_and_the_ladders_shape(name):
    config = load_config(name)
    assert abs(count_parameters(config).non_embedding / LADDER[name] - 1) < 0.15
    assert family_of(config) is LLAMA
    aspect = config.width / config.num_layers
    assert aspect == 16 if LADDER[name] < 0.1e6 else aspect == 32 if LADDER[name] < 10e6 else 46 <= aspect <= 55
    if LADDER[name] >= 10e6:
        assert config.head_width == 64
        assert config.num_kv_heads < config.num_heads
    else:
        assert config.num_kv_heads == config.num_heads


@pytest.mark.parametrize("name", BETWEEN)
def test_rungs_between_have_their_names_size(name):
    config = load_config(name)
    assert abs(count_parameters(config).non_embedding / BETWEEN[name] - 1) < 0.1
    assert family_of(config) is LLAMA
    assert config.num_kv_heads == config.num_heads


def test_the_ablations_baseline_is_m0_1_with_grouped_queries():
    plain, grouped = load_config("m0_1"), load_config("m0_1_gqa")
    assert grouped == replace(plain, name="m0_1_gqa", num_heads=4, num_kv_heads=2)
    assert count_parameters(grouped).non_embedding == 92_480


def test_tinyllama():
    config = load_config("tinyllama_1b")
    assert count_parameters(config).total == 1_100_048_384
    assert count_parameters(config).non_embedding == 968_976_384
    assert config.context_tokens == 2048


@pytest.mark.parametrize("name", NAMES)
def test_file_opens_with_its_command(name):
    first = (FOLDER / f"{name}.yaml").read_text().splitlines()[0]
    assert re.match(rf"# .*workbench .*\bmodel={name}\b", first)
