"""Small corpora with planted duplicates and held-out text."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig

WORDS = [
    "token",
    "model",
    "loss",
    "width",
    "depth",
    "layer",
    "budget",
    "sweep",
    "batch",
    "trunk",
    "branch",
    "ratio",
    "curve",
    "point",
    "scale",
    "naïve",
    "東京",
]


def make_texts(count: int, seed: int) -> list[str]:
    """Texts of some lines of random words, none of which repeats."""
    draw = random.Random(seed)

    def line() -> str:
        return " ".join(draw.choices(WORDS, k=9)) + f" {draw.random()}"

    return ["\n".join(line() for _ in range(draw.randint(4, 14))) for _ in range(count)]


@pytest.fixture
def corpus_data(tmp_path: Path) -> DataConfig:
    """Two sources of three files with duplicates inside and across them, in shards of 20 kB."""
    one, two = make_texts(150, 1), make_texts(60, 2)
    one[70:70] = one[:10]
    two[20:20] = [text.replace("\n", " \n") for text in one[:5]]
    two += ["too short", "  "]
    (tmp_path / "a").mkdir()
    for number, texts in enumerate((one[:100], one[100:])):
        lines = [json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)]
        (tmp_path / "a" / f"{number}.jsonl").write_text("".join(lines))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in two))
    sources = {
        "a": SourceConfig("jsonl", path=str(tmp_path / "a"), heldout_bytes=4000),
        "b": SourceConfig("jsonl", path=str(tmp_path / "b.jsonl"), heldout_bytes=4000),
    }
    return DataConfig("corpus", sources, corpus=CorpusConfig(shard_bytes=20_000))


@pytest.fixture(name="hash_store")
def fixture_hash_store() -> Callable[[Path], dict[str, str]]:
    """Hash every file of a store; of the manifest all but the seconds."""

    def hash_store(directory: Path) -> dict[str, str]:
        found = {
            path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in directory.rglob("*")
            if path.is_file() and path.name != "manifest.json"
        }
        manifest = json.loads((directory / "manifest.json").read_text())
        del manifest["seconds"]
        return {**found, "manifest": json.dumps(manifest, sort_keys=True)}

    return hash_store


@pytest.fixture(name="with_source")
def fixture_with_source() -> Callable[..., DataConfig]:
    """Change fields of a source."""

    def with_source(data: DataConfig, name: str, **changes) -> DataConfig:
        return dataclasses.replace(
            data, sources={**data.sources, name: dataclasses.replace(data.sources[name], **changes)}
        )

    return with_source
