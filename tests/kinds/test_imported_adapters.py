"""A LoRA adapter from outside with its model: merged as peft merges it, named by its content, or refused."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.kinds.imported_studies import TOKENS, imported
from workbench.evaluate.outside_checkpoint import read_imported
from workbench.forecast.study_facts import make_facts, prepare_data
from workbench.launch.snapshot import freeze_study
from workbench.model.weights import load_any, load_model
from workbench.train.checkpoint import checkpoints_by_tokens, verify
from workbench.train.whole_stage import train_stage


@pytest.fixture
def adapter(checkpoint, tmp_path, peft):
    """Adapters that peft makes for a checkpoint, filled with values that do something."""

    def make(base, name="adapter", **changes):
        settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"], **changes}
        torch.manual_seed(1)
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(**settings)).eval()
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, 0, 0.2)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name, model

    return make


# peft 0.21 asks transformers 5.23 under a name that will go.
asks_by_an_old_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@asks_by_an_old_name
@pytest.mark.parametrize(("family", "changes"), [("llama2", {}), ("qwen2", {"use_rslora": True}), ("mistral", {})])
def test_an_adapter_is_merged_as_peft_merges_it(begin, run_local, checkpoint, adapter, family, changes):
    base = checkpoint(family)
    directory, model = adapter(base, **changes)
    facts = begin(base, "tokens=2048", f"init.adapter={directory}")
    run_local(facts, evaluate=False)
    node = imported(facts)
    assert node.stage.model.name == f"made_{family}-adapter"
    [path] = checkpoints_by_tokens(facts.layout.stage(node.id)).values()
    manifest = verify(path)
    assert (manifest["source"], manifest["adapter"]) == (str(base), str(directory))
    tokens = torch.arange(7, 27)[None]
    with torch.no_grad():
        plain = load_any(base)(tokens)
        expected = model.merge_and_unload()(tokens).logits
        found = load_model(path)(tokens)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (expected - plain).abs().max() > 1e-2


@asks_by_an_old_name
def test_an_adapter_is_part_of_the_checkpoint_by_its_content(compose, overrides, experiments, checkpoint, adapter):
    base = checkpoint("llama2")
    first, _ = adapter(base)
    other, _ = adapter(base, "other", lora_alpha=7)
    moved = Path(shutil.copytree(first, first.with_name("moved")))

    def planned(*more):
        settings = [*overrides, "init=hf", f"init.path={base}", *TOKENS, "tokens=0", *more]
        return imported(make_facts(compose(settings, experiments)))

    bare, one, same, two = (
        planned(*more) for more in ([], *([f"init.adapter={place}", "init.name=x"] for place in (first, moved, other)))
    )
    assert bare.stage.fingerprint == read_imported(base).fingerprint
    assert one.id == same.id
    assert len({bare.id, one.id, two.id}) == 3
    facts = make_facts(
        compose([*overrides, "init=hf", f"init.path={base}", *TOKENS, f"init.adapter={first}"], experiments)
    )
    prepare_data(facts, print)
    freeze_study(facts)
    (first / "adapter_config.json").write_text((other / "adapter_config.json").read_text())
    with pytest.raises(ValueError, match=r"has changed since this was planned"):
        train_stage(facts.layout, imported(facts).id)


@asks_by_an_old_name
def test_an_adapter_that_we_cannot_merge_is_refused_by_the_plan(compose, overrides, experiments, checkpoint, adapter):
    base = checkpoint("llama2")
    settings = [*overrides, "init=hf", *TOKENS, "tokens=0"]

    def refused(message, path, directory):
        with pytest.raises(ValueError, match=message) as caught:
            make_facts(compose([*settings, f"init.path={path}", f"init.adapter={directory}"], experiments))
        assert "\n" not in str(caught.value)

    directory, _ = adapter(base, "dora", use_dora=True)
    refused("use_dora=True: such adapters are not supported", base, directory)
    directory, _ = adapter(base)
    refused(r"has the shape \(4, 48\), not \(4, 64\)", checkpoint("qwen2", hidden_size=64), directory)
    refused(r"is none of this model's adapters", checkpoint("tinyllama", num_hidden_layers=2), directory)
    refused(r"not a directory of adapters", base, base)
    with pytest.raises(ValueError, match=r"init.adapter='x' is of a checkpoint: set init=hf, too"):
        make_facts(compose([*overrides, "init.adapter=x"], experiments))
