"""Checkpoints from outside get the scores that lm-eval's own `hf` gives them, and are named by their content."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from tests.evaluate.conftest import DATA, HELDOUT, embedded
from tests.evaluate.test_lm import add_bos, score, theirs
from tests.kinds.sentencepiece_like import write_llama_like
from tests.model.test_pretrained import FAMILIES
from workbench.evaluate.generate import Asked, generate
from workbench.evaluate.generator import Generator
from workbench.evaluate.outside_checkpoint import find_checkpoint, place_results, read_imported
from workbench.evaluate.reconcile import EvaluationError, Evaluator, checkpoint_evaluation_id, evaluation_id
from workbench.study.layout import Layout

READ_ALIKE = ("  two  leading", "x</s>y <s>", " one", "<s>a\n\tb", "naïve 东京 🙂", "end ")


def make(layout: Layout, name: str, directory: Path, **changes: Any) -> Path:
    """A small random checkpoint as `transformers` writes it, with a tokenizer and a licence."""
    kind, config = FAMILIES[name]
    config = type(config)(**{**config.to_dict(), "vocab_size": 520, "max_position_embeddings": 96, **changes})
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():  # far from uniform, so that scores differ
        model.get_output_embeddings().weight.mul_(30)
    model.save_pretrained(directory)
    for file in (layout.data(DATA) / "tokenizer").iterdir():
        shutil.copy(file, directory)
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    return directory


@pytest.mark.parametrize("name", ["llama2", "qwen2", "pythia"])
def test_scores_are_those_of_hf(layout: Layout, tmp_path: Path, name: str) -> None:
    directory = make(layout, name, tmp_path / name)
    folder = place_results(layout, read_imported(directory), (DATA, HELDOUT))
    path = Evaluator(layout, embedded()).evaluate(folder, "embedded")
    assert path.is_relative_to(layout.root / "imported")
    ours = json.loads(path.read_text())["results"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)  # not Qwen 2's own class, which cuts text otherwise
    expected, _ = score(theirs(directory, tokenizer=tokenizer), layout, embedded().suites["embedded"], DATA)
    compared = 0
    for task, metrics in expected.items():
        for key, value in metrics.items():
            if "," in key and "stderr" not in key and isinstance(value, float):
                assert ours[task][key] == pytest.approx(value, rel=1e-4), (task, key)
                compared += 1
    assert compared >= 6
    before = path.read_text()
    assert Evaluator(layout, embedded()).evaluate(folder, "embedded").read_text() == before  # what is there stays


@pytest.mark.parametrize("name", ["llama2", "qwen2"])
def test_generation_reads_a_text_as_scoring_does(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`transformers`' own classes for both model types cut some of these texts otherwise."""
    directory, texts = make(layout, name, tmp_path / name), [*READ_ALIKE]
    if name == "llama2":
        write_llama_like(directory, texts * 20)
    folder = place_results(layout, read_imported(directory), (DATA, HELDOUT))
    lm = Evaluator(layout, embedded())._load_lm(folder, embedded().suites["embedded"])
    prompts: list[Any] = []
    monkeypatch.setattr(Generator, "check", lambda _, prompt: prompts.append(prompt.tokens))
    written: list[str] = []
    generate(directory, texts, Asked(max_tokens=1), written.append)
    ids = lm.tokenizer(texts)[
        "input_ids"
    ]  # `tok_encode` leaves BOS out where a text begins with its name, as `hf` does
    assert ids[0] == lm.tok_encode(texts[0])
    assert prompts[: len(texts)] == [one if name == "llama2" else [lm.prefix_token_id, *one] for one in ids]
    assert all(text in "".join(written) for text in texts)


def test_a_tokenizer_that_adds_bos_has_ids_of_its_own(layout: Layout, tmp_path: Path) -> None:
    folders = []
    for name in ("plain", "adding"):
        directory = make(layout, "llama2", tmp_path / name)
        if name == "adding":
            add_bos(directory)
        folders.append(place_results(layout, read_imported(directory), (DATA, HELDOUT)))
    suite = embedded().suites["embedded"]
    plain, adding = (checkpoint_evaluation_id(folder, suite, "fp32", layout) for folder in folders)
    # Results from when `transformers` read such tokenizers have the id without a mark.
    assert len({plain, adding, evaluation_id(suite, "fp32", HELDOUT, ["code", "prose"])}) == 3
    words = replace(suite, tasks=["heldout_{source}_last_word"])
    assert len({checkpoint_evaluation_id(folder, words, "fp32", layout) for folder in folders}) == 1


def test_it_is_named_by_config_weights_and_tokenizer(layout: Layout, tmp_path: Path) -> None:
    first = read_imported(make(layout, "llama2", tmp_path / "a"))
    again = read_imported(make(layout, "llama2", tmp_path / "b"))
    assert first.fingerprint == again.fingerprint
    assert first.licence == "apache-2.0"
    assert "licence apache-2.0" in first.describe()
    others = {read_imported(make(layout, "llama2", tmp_path / "c", rope_theta=5e5, rope_parameters=None)).fingerprint}
    tokenizer = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    (tmp_path / "b" / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "model_max_length": 5}))
    others.add(read_imported(tmp_path / "b").fingerprint)
    assert len({*others, first.fingerprint}) == 3


def test_weights_that_have_changed_since_are_refused(layout: Layout, tmp_path: Path) -> None:
    directory = make(layout, "llama2", tmp_path / "a")
    folder = place_results(layout, read_imported(directory), (DATA, HELDOUT))
    weights = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(EvaluationError, match=r"model.safetensors does not match its checksum"):
        Evaluator(layout, embedded()).evaluate(folder, "embedded")


def test_what_cannot_be_scored_is_one_line(layout: Layout, tmp_path: Path) -> None:
    directory = make(layout, "llama2", tmp_path / "small", vocab_size=300)
    with pytest.raises(ValueError, match=r"its tokenizer has the id 511, its model only 300"):
        read_imported(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (directory / name).unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer"):
        read_imported(directory)
    with pytest.raises(ValueError, match=r"neither a directory nor a name on the hub"):
        find_checkpoint(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"--revision main is of a repository of the hub"):
        find_checkpoint(str(tmp_path), "main")


def test_a_name_is_fetched_from_the_hub_without_pickles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def snapshot(name: str, **options: Any) -> str:
        asked.update(name=name, **options)
        if name == "some/closed":
            raise OSError("no access\nto it")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert find_checkpoint("some/model", "step1000") == tmp_path
    assert (asked["name"], asked["revision"]) == ("some/model", "step1000")
    assert not [pattern for pattern in asked["allow_patterns"] if "bin" in pattern or "pt" in pattern.split(".")]
    with pytest.raises(ValueError, match=r"some/closed: no such directory, and the hub gave none: no access to it"):
        find_checkpoint("some/closed")


def test_an_export_of_ours_that_others_have_changed_is_refused(
    layout: Layout, checkpoints: list[Path], tmp_path: Path
) -> None:
    """Our own key in its config would hide what they changed."""
    shutil.copytree(checkpoints[0], tmp_path / "export")
    assert read_imported(tmp_path / "export").model.context_tokens == 96
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    (tmp_path / "export" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 384}))
    with pytest.raises(ValueError, match=r"context_tokens is 384 by its own fields, but 96 under the key 'workbench'"):
        read_imported(tmp_path / "export")


def test_the_command_that_converts_pickles_makes_a_checkpoint_to_score(layout: Layout, tmp_path: Path) -> None:
    directory = make(layout, "llama2", tmp_path / "with space")
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(state, directory / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is a pickle") as refused:
        read_imported(directory)
    command = str(refused.value).partition("convert it: ")[2].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, capture_output=True)
    assert read_imported(tmp_path / "with space-safetensors").model.num_layers == 3
