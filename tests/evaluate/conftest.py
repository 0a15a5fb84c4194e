"""A small world for the evaluation: real text, a tokenizer, prepared data, and a checkpoint."""

import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from workbench.config.schema import EvaluationConfig, ModelConfig, SuiteConfig
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer
from workbench.model.weights import write_hf
from workbench.study.files import sha256
from workbench.study.layout import Layout

DATA = "da7a000000000001"
HELDOUT = "0e1d000000000001"
EMBEDDED_TASKS = ["heldout_{source}", "heldout_{source}_last_word", "heldout_{source}_continuation"]


def heldout_texts() -> dict[str, list[str]]:
    """Texts of the standard library, one document a module."""
    import argparse
    import ast
    import calendar
    import configparser
    import difflib
    import shutil as shell
    import textwrap

    modules = [argparse, ast, calendar, configparser, difflib, shell, textwrap]
    sources = [inspect.getsource(module) for module in modules]
    prose = [
        "\n\n".join(ast.get_docstring(n) or "" for n in ast.walk(ast.parse(s)) if is_documented(n)) for s in sources
    ]
    return {"code": [s[3000:9000] for s in sources], "prose": [p[:5000].strip() + " é" for p in prose]}


def is_documented(node: object) -> bool:
    import ast

    return isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))


def write_tokenizer(directory: Path, texts: list[str], vocab_size: int = 512) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<s>", "</s>", "<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | names
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "special_tokens_map.json").write_text(json.dumps(names))


def write_data(layout: Layout, texts: dict[str, list[str]], fingerprint: str = DATA) -> Path:
    directory = layout.data(fingerprint)
    (directory / "heldout").mkdir(parents=True)
    for source, documents in texts.items():
        lines = [json.dumps({"id": f"{source}-{i}", "text": text}) for i, text in enumerate(documents)]
        (directory / "heldout" / f"{source}.jsonl").write_text("\n".join(lines) + "\n")
    write_tokenizer(directory / "tokenizer", [text for documents in texts.values() for text in documents])
    (directory / "manifest.json").write_text(json.dumps({"fingerprint": fingerprint, "heldout_fingerprint": HELDOUT}))
    return directory


def write_checkpoint(layout: Layout, step: int, config: ModelConfig, *, data: str = DATA, scale: float = 3.0) -> Path:
    checkpoint = layout.stage("57a6e00000000001").checkpoint(step)
    checkpoint.mkdir(parents=True)
    model = Transformer(config)
    init_weights(model, seed=step)
    with torch.no_grad():  # far from uniform, so that scores differ
        model.head_weight.mul_(scale)
    write_hf(checkpoint, model, layout.data(data) / "tokenizer", bos_id=0, eos_id=1)
    manifest = {
        "format": 1,
        "stage": "57a6e00000000001",
        "step": step,
        "tokens": step * 1000,
        "data_fingerprint": data,
        "heldout_fingerprint": HELDOUT,
        "commit": "0" * 40,
    }
    files = {path.name: {"sha256": sha256(path), "bytes": path.stat().st_size} for path in checkpoint.iterdir()}
    (checkpoint / "manifest.json").write_text(json.dumps({**manifest, "files": files}))
    return checkpoint


def tiny_model(**changes: object) -> ModelConfig:
    values = {
        "name": "tiny",
        "num_layers": 2,
        "width": 32,
        "num_heads": 4,
        "num_kv_heads": 2,
        "mlp_width": 64,
        "vocab_size": 512,
        "context_tokens": 96,
    }
    return ModelConfig(**(values | changes))  # type: ignore[arg-type]


def embedded(**changes: object) -> EvaluationConfig:
    suite = {"name": "embedded", "tasks": EMBEDDED_TASKS, "include_path": "embedded", "limit": 12, "batch_tokens": 1024}
    return EvaluationConfig(suites={"embedded": SuiteConfig(**(suite | changes))})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    layout = Layout(root)
    write_data(layout, heldout_texts())
    for step in (1, 2):
        write_checkpoint(layout, step, tiny_model())
    return root


@pytest.fixture
def layout(_world: Path, tmp_path: Path) -> Layout:
    """Outputs with prepared data and two checkpoints, a fresh copy for each test."""
    shutil.copytree(_world, tmp_path / "outputs")
    return Layout(tmp_path / "outputs")


@pytest.fixture
def checkpoints(layout: Layout) -> list[Path]:
    return layout.stage("57a6e00000000001").list_checkpoints()
