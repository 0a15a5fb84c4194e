"""Small corpora with planted duplicates and held-out text."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig, TokenizerConfig
from workbench.config.schema.contamination_config import Contamination
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.config.schema.quality_thresholds import GopherThresholds, QualitySettings
from workbench.data.tokenizer import load_file

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
    return make_corpus_data(tmp_path)


def make_corpus_data(folder: Path) -> DataConfig:
    """Write what `corpus_data` is of into a folder."""
    one, two = make_texts(150, 1), make_texts(60, 2)
    one[70:70] = one[:10]
    two[20:20] = [text.replace("\n", " \n") for text in one[:5]]
    two += ["too short", "  "]
    (folder / "a").mkdir()
    for number, texts in enumerate((one[:100], one[100:])):
        lines = [json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)]
        (folder / "a" / f"{number}.jsonl").write_text("".join(lines))
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in two))
    sources = {
        "a": SourceConfig("jsonl", path=str(folder / "a"), heldout_bytes=4000),
        "b": SourceConfig("jsonl", path=str(folder / "b.jsonl"), heldout_bytes=4000),
    }
    return DataConfig("corpus", sources, corpus=CorpusConfig(shard_bytes=20_000))


BENCHMARK = "which of these eleven plain questions about rivers was answered wrongly by nearly every pupil in town"
RARE = "a further question whose words stand nowhere in any of the documents that this corpus was made of"


@pytest.fixture
def full_data(corpus_data: DataConfig, tmp_path: Path) -> DataConfig:
    """The same with every step on: of source a five near duplicates, filtered fields, bad quality, and a benchmark's text."""
    return make_full_data(corpus_data, tmp_path)


def make_full_data(corpus_data: DataConfig, folder: Path) -> DataConfig:
    """Write what `full_data` is of, beside what the former is of."""
    draw = random.Random(3)
    extra = make_texts(30, 4)
    near = [text.replace(" ", " changed ", 1) for text in extra[:5]]
    asked = [f"{text}\n{BENCHMARK.upper()}?\n{other}" for text, other in zip(extra[5:8], extra[8:11], strict=True)]
    poor = ["tiny words " + "a" * draw.randint(200, 300) for _ in range(4)]
    marked = [(text, "GitHub") for text in extra[11:17]]
    rows = [*((text, "Books") for text in [*extra[:5], *extra[17:], *near, *asked, *poor]), *marked]
    lines = [json.dumps({"text": text, "meta": {"set": name}}) + "\n" for text, name in rows]
    (folder / "c.jsonl").write_text("".join(lines))
    benchmarks = folder / "benchmarks"
    benchmarks.mkdir()
    texts = [BENCHMARK, RARE, "too short"]
    (benchmarks / "quiz.jsonl").write_text("".join(json.dumps({"task": "quiz", "text": t}) + "\n" for t in texts))
    quality = QualitySettings(gopher=GopherThresholds(min_words=10, min_stop_words=None, min_alphabetic_words=None))
    source = SourceConfig(
        "jsonl", path=str(folder / "c.jsonl"), heldout_bytes=0, where='meta.set != "GitHub"', quality=quality
    )
    corpus = CorpusConfig(
        shard_bytes=12_000, near_duplicates=NearDuplicates(), contamination=Contamination(str(benchmarks))
    )
    return dataclasses.replace(corpus_data, sources={**corpus_data.sources, "c": source}, corpus=corpus)


@pytest.fixture(name="hash_store", scope="session")
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


@pytest.fixture(scope="session")
def llama_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerConfig:
    """Settings of a sentencepiece model with Llama 2's settings and 300 ids."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("llama")
    (folder / "text.txt").write_text("\n".join(make_texts(60, 5)))
    sentencepiece.SentencePieceTrainer.Train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return TokenizerConfig("file", 300, str(folder / "tokenizer.model"))


@pytest.fixture(scope="session")
def encoded(llama_tokenizer: TokenizerConfig) -> tuple[list[list[int]], list[str]]:
    """Documents as ids that begin with `<s>`, and their texts."""
    texts = make_texts(120, 7)
    tokenizer = load_file(Path(str(llama_tokenizer.path)))
    return [[1, *each.ids] for each in tokenizer.encode_batch(texts, add_special_tokens=False)], texts


@pytest.fixture(name="write_tokens")
def fixture_write_tokens(encoded, tmp_path: Path) -> Callable[[str], tuple[Path, dict[str, str]]]:
    """Write the documents in a format of others; the path and the settings that it needs are returned."""

    def write_tokens(form: str) -> tuple[Path, dict[str, str]]:
        documents = encoded[0]
        tokens = np.concatenate(documents).astype(np.uint16)
        path = tmp_path / f"{form}.{'npy' if form == 'npy' else 'bin'}"
        if form == "npy":
            np.save(path, tokens)
            return path, {}
        header: Any = b""
        if form == "header":
            words = np.zeros(256, np.int32)
            words[:3] = 20240520, 1, len(tokens)
            header = words.tobytes()
        path.write_bytes(header + tokens.tobytes())
        if form == "megatron":
            lengths = np.array([len(each) for each in documents], "<i4")
            begins = (np.cumsum(lengths) - lengths).astype("<i8") * 2
            head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, len(lengths), len(lengths) + 1)
            bounds = np.arange(len(lengths) + 1, dtype="<i8")
            path.with_suffix(".idx").write_bytes(head + lengths.tobytes() + begins.tobytes() + bounds.tobytes())
        return path, {"token_dtype": "uint16"} if form == "flat" else {}

    return write_tokens
