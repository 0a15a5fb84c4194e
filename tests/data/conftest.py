"""Small made-up texts, and stores prepared from them."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.data.hub_server import HubServer
from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig, TokenizerConfig
from workbench.data.heldout import is_heldout
from workbench.data.hub import resolve_revision
from workbench.data.hub_listing import list_hub_files
from workbench.data.store import Prepared, prepare
from workbench.data.tokenizer import save, train_bpe
from workbench.study.layout import Layout

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
    "cooldown",
    "branch",
    "ratio",
    "curve",
    "point",
    "scale",
]


def make_documents(count: int, seed: int, lines: int = 12) -> list[str]:
    """Documents of `lines` lines of random words; no two lines are alike."""
    draw = random.Random(seed)
    return [
        "\n".join(" ".join(draw.choices(WORDS, k=8)) + f" {seed} {i} {j}" for j in range(lines)) for i in range(count)
    ]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(name="make_documents")
def fixture_make_documents():
    return make_documents


@pytest.fixture(name="write_jsonl")
def fixture_write_jsonl():
    return write_jsonl


@pytest.fixture(name="write_with_key")
def fixture_write_with_key():
    """Write the first text of `draw_text(0), draw_text(1), ...` whose hash the split puts on the side asked for."""

    def write(path: Path, draw_text: Callable[[int], str], heldout: bool) -> str:
        texts = (draw_text(draw).encode() for draw in itertools.count())
        raw = next(t for t in texts if is_heldout(hashlib.sha256(t).hexdigest(), 5.0) == heldout)
        path.write_bytes(raw)
        return hashlib.sha256(raw).hexdigest()

    return write


@pytest.fixture(scope="session")
def small_tokenizer() -> TokenizerConfig:
    return TokenizerConfig(vocab_size=300, train_bytes=40_000)


@pytest.fixture
def two_sources(tmp_path: Path) -> DataConfig:
    write_jsonl(tmp_path / "a.jsonl", make_documents(400, seed=1))
    write_jsonl(tmp_path / "b.jsonl", make_documents(200, seed=2))
    sources = {n: SourceConfig("jsonl", path=str(tmp_path / f"{n}.jsonl"), heldout_bytes=4000) for n in "ab"}
    return DataConfig("two", sources, heldout_percent=5.0)


@pytest.fixture
def prepared(two_sources: DataConfig, small_tokenizer: TokenizerConfig, tmp_path: Path) -> Prepared:
    return prepare(two_sources, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)


@pytest.fixture(scope="session")
def chat_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer directory of 340 ids, as a prepared store has it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save(train_bpe(["<|user|>\nuser assistant [INST] [/INST] ", *make_documents(200, seed=3)], 340), folder)
    return folder


def make_conversations(count: int, seed: int = 0) -> list[list[dict[str, str]]]:
    """Conversations of one to three questions, some with a system prompt, in words, line ends and other scripts."""
    draw = random.Random(seed)
    words = [*WORDS, "naïve", "東京", "🙂", "x\n\ny", "\tindented", "3.14", "it's"]

    def text() -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, 12))).strip()

    made = []
    for i in range(count):
        turns = [{"role": "system", "content": text()}] if draw.random() < 0.3 else []
        for _ in range(draw.randint(1, 3)):
            turns += [{"role": "user", "content": f"{text()} {i}?"}, {"role": "assistant", "content": text()}]
        made.append(turns)
    return made


@pytest.fixture(name="make_conversations")
def fixture_make_conversations():
    return make_conversations


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on this machine, for this process and those that it starts, with caches of its own and no token."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    server = HubServer()
    cache = tmp_path / "hub_cache"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(cache))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", server.url)  # read from the environment when it is imported
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    forget_answers()
    yield server
    forget_answers()
    close_session()
    server.stop()


def forget_answers() -> None:
    """Ask hubs again, as a new process would."""
    resolve_revision.cache_clear()
    list_hub_files.cache_clear()


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory: pytest.TempPathFactory) -> TokenizerConfig:
    """A tokenizer of single bytes: every text has its own tokens, and nothing is trained."""
    ids = {"<s>": 0, **{piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<s>"])
    path = tmp_path_factory.mktemp("alphabet") / "tokenizer.json"
    tokenizer.save(str(path))
    return TokenizerConfig("file", 257, str(path), bos="<s>")


@pytest.fixture(scope="session")
def audited_stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """One small store of each format, by format."""
    draw, root = random.Random(4), tmp_path_factory.mktemp("audited")
    words = ["token", "model", "loss", "width", "depth", "layer", "naïve", "東京", "budget", "sweep"]
    texts = ["\n".join(" ".join(draw.choices(words, k=9)) + f" {i} {j}" for j in range(9)) for i in range(260)]
    for name, part in (("a", texts[:180]), ("b", texts[180:])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    sources = {name: SourceConfig("jsonl", path=str(root / f"{name}.jsonl"), heldout_bytes=3000) for name in "ab"}
    tokenizer, layout = TokenizerConfig(vocab_size=300, train_bytes=30_000), Layout(root / "outputs")
    made: dict[int, Path] = {}
    for number, corpus in ((2, None), (3, CorpusConfig(shard_bytes=20_000))):
        data = DataConfig("audited", sources, heldout_percent=5.0, corpus=corpus)
        made[number] = prepare(data, tokenizer, layout, workers=1).directory
    return made
