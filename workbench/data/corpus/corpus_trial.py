"""A short trial of a corpus's steps on the beginning of its input, in a folder that is deleted again."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from workbench.config.schema import DataConfig, SourceConfig, TokenizerConfig
from workbench.data.corpus.corpus_plan import Corpus, plan_corpus
from workbench.data.corpus.corpus_speeds import OF_ONE_SIZE, Speed, measure
from workbench.data.corpus.interruptions import Interruptions
from workbench.data.corpus.phases import PHASES
from workbench.data.corpus.shard_reading import read_shard
from workbench.data.corpus.shards import Part, Shard
from workbench.data.corpus.task_loop import do_tasks

_TEXT_BYTES = 700_000
"""Text of a trial: some tenths of a second a step."""
_WARM_UP_BYTES = 60_000
"""Text of a first round, in which libraries are loaded, and which does not count."""
_HELDOUT_BYTES = 3_000
"""Held-out text: few documents, for they are taken out whole, and the text is short."""
_OWN_FILES = 60
_BYTES_PER_TOKEN = 4
"""Text of a token, as it is taken to be where the tokenizer is not here to count: most have 3 to 5 of English text or code."""
_TRIAL_TOKENIZER = TokenizerConfig(vocab_size=1000, train_bytes=50_000)
_OWN_TEXTS = Path(__file__).resolve().parents[2]
"""The project's package, whose source files are text that is always here."""


def try_corpus(data: DataConfig, tokenizer: TokenizerConfig, shards: list[Shard]) -> tuple[Speed, str] | None:
    """Measure a corpus's steps in this process alone; None where the text is too little, or the settings do not fit it.

    Parameters
    ----------
    data, tokenizer
        As it would be made; a tokenizer whose file is not here is replaced by one trained on the text.
    shards
        Its plan. Of what is not on this machine nothing is read: the source files of this project take its place.

    Returns
    -------
    tuple
        Speed, and what text it was measured on, for people.
    """
    sources = data.sources
    shards = [shard for shard in shards if sources[shard.source].kind != "tokens"]  # which have no text to try
    if not shards:
        return None
    here = [s for s in shards if not sources[s.source].is_remote and sources[s.source].kind != "huggingface"]
    firsts = {shard.source: shard for shard in reversed(here)}
    what = "the beginning of the input" if firsts else "this project's source files, for the input is not here"
    is_replaced = tokenizer.kind == "bpe" or not Path(tokenizer.path or "").expanduser().exists()
    used = _TRIAL_TOKENIZER if is_replaced else tokenizer
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        try:
            texts = {name: _first_texts(shard, data.sources[name], len(firsts)) for name, shard in firsts.items()}
            texts = texts or {"text": _own_texts()}
            for size in (_WARM_UP_BYTES, _TEXT_BYTES):
                place = Path(folder) / str(size)
                place.mkdir()
                inputs = {
                    name: _write(place / f"{name}.jsonl", some, size // len(texts)) for name, some in texts.items()
                }
                assert data.corpus is not None
                small = replace(data, sources=inputs, corpus=replace(data.corpus, shard_bytes=_TEXT_BYTES))
                corpus = plan_corpus(place / "trial", "trial", small, used)
                seconds = _do(corpus)
            speed = measure(corpus)
        except (ValueError, OSError):  # a full folder for temporary files among them
            return None
    if speed is None:
        return None
    speed = replace(speed, seconds=seconds)
    if is_replaced:
        tokens = speed.bytes // _BYTES_PER_TOKEN
        size = np.min_scalar_type(tokenizer.vocab_size - 1).itemsize
        speed = replace(speed, store_bytes=tokens * size, tokens=tokens)
    return speed, what


def _do(corpus: Corpus) -> float:
    """Do all tasks; seconds of the processor in those whose time grows with the text, whoever else uses the machine."""
    seconds = 0.0
    for phase in PHASES:
        began = time.process_time()
        do_tasks(corpus, [phase], Interruptions())
        seconds += 0.0 if phase.name in OF_ONE_SIZE else time.process_time() - began
    return seconds


def _first_texts(shard: Shard, source: SourceConfig, sources: int) -> list[str]:
    """Give the first texts of a shard, up to its source's share of a trial."""
    most = _TEXT_BYTES // sources
    shard = replace(shard, parts=tuple(_cut(part, source.kind, most) for part in shard.parts))
    texts: list[str] = []
    size = 0
    for batch in read_shard(shard, source):
        for read in batch:
            if size >= most:
                return texts
            if read.cause is None:
                texts.append(read.text)
                size += len(read.text)
    return texts


def _own_texts() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(_OWN_TEXTS.rglob("*.py"))]


def _write(path: Path, texts: list[str], most: int) -> SourceConfig:
    """Write texts as a source of its own."""
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            size += len(text)
            if size >= most:
                break
    return SourceConfig("jsonl", path=str(path), heldout_bytes=_HELDOUT_BYTES)


def _cut(part: Part, kind: str, most: int) -> Part:
    """Cut off what would be read in vain; packed files and row groups are read in small pieces anyway."""
    if kind.startswith("python_"):
        return replace(part, end=min(part.end, part.begin + _OWN_FILES))
    plain = kind == "jsonl" and part.bytes == part.end - part.begin
    return replace(part, end=min(part.end, part.begin + 2 * most)) if plain and part.begin == 0 else part


@contextmanager
def _one_thread() -> Iterator[None]:
    """Encode with one thread, as workers do."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
