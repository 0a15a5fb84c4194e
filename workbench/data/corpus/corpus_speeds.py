"""How fast corpora were made, and what they took of the disk: kept beside the stores, whose bytes do not depend on time."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.config.schema import DataConfig, TokenizerConfig, to_dict
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.full_disk import is_full
from workbench.data.corpus.phases import PHASES
from workbench.data.corpus.task_folder import STAYS
from workbench.study.files import exclusive, write_atomically
from workbench.study.identity import digest

_FILE = "corpus_speeds.json"
OF_ONE_SIZE = ("heldout", "tokenizer")
"""Phases that take about the same time for a small corpus and a large one."""
_NO_WORK = (*STAYS, "records", "claims", "scratch")


@dataclass(frozen=True)
class Speed:
    """What a corpus took, by which another of the same settings is estimated."""

    bytes: int
    """Input, as it lies on disk; of the hub the text."""
    seconds: float
    """Of one core, without what takes the same time for every corpus."""
    work_bytes: int
    """Disk that is freed at the end."""
    store_bytes: int
    """Tokens, and the places of documents."""
    documents: int | None = None
    """Documents in the store, pieces of cut ones each; None: not counted, as in speeds that were kept before they were."""
    tokens: int | None = None
    """Tokens in the store, or in token files made elsewhere; None as above."""

    @property
    def bytes_per_second(self) -> float:
        """Input a second of one core."""
        return self.bytes / self.seconds


def measure(corpus: Corpus) -> Speed | None:
    """Sum up the records of a corpus whose tasks are all done; None where there was nothing to measure.

    Raises
    ------
    FileNotFoundError
        Another process has finished it, and deleted the work.
    """
    tasks = [task for phase in PHASES if phase.name not in OF_ONE_SIZE for task in phase.tasks(corpus)]
    seconds = sum(corpus.folder.read_record(task).seconds for task in tasks)
    size = sum(s.bytes or corpus.folder.read_record(f"read/{s.name}").facts["bytes"] for s in corpus.shards)
    if not size or not seconds:
        return None
    root = corpus.folder.root
    work = sum(_disk(place) for place in root.iterdir() if place.is_dir() and place.name not in _NO_WORK)
    written = [corpus.folder.read_record(f"tokens/{shard.name}").facts for shard in corpus.shards]
    documents, tokens = (sum(facts[what] for facts in written) for what in ("documents", "tokens"))
    return Speed(size, round(seconds, 3), work, _disk(root / "tokens"), documents, tokens)


def _disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remember(outputs: Path, corpus: Corpus) -> None:
    """Keep how fast this machine made a corpus, in the place of what it needed before for one of the same settings."""
    with contextlib.suppress(FileNotFoundError):
        speed = measure(corpus)
        if speed is not None:
            _keep(outputs, corpus, speed)


def _keep(outputs: Path, corpus: Corpus, speed: Speed) -> None:
    try:
        with exclusive(outputs / f".{_FILE}.lock"):
            known = _read(outputs)
            by_host = known.setdefault(_key(corpus.data, corpus.tokenizer), {})
            by_host.pop(socket.gethostname(), None)  # the last one comes last
            by_host[socket.gethostname()] = asdict(speed)
            write_atomically(outputs / _FILE, json.dumps(known, indent=1))
    except OSError as error:
        if not is_full(error):  # a speed is no reason to leave a corpus unfinished
            raise


def recall(outputs: Path, data: DataConfig, tokenizer: TokenizerConfig) -> tuple[Speed, str] | None:
    """Give the speed of a corpus of these settings and the host that reached it: this one, or the last of the others."""
    by_host = _read(outputs).get(_key(data, tokenizer), {})
    if not by_host:
        return None
    here = socket.gethostname()
    host = here if here in by_host else list(by_host)[-1]
    return Speed(**by_host[host]), host


def _read(outputs: Path) -> dict[str, Any]:
    try:
        return json.loads((outputs / _FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _key(data: DataConfig, tokenizer: TokenizerConfig) -> str:
    """Name what a speed depends on beside the machine: what is done to the text, and how it is stored."""
    assert data.corpus is not None
    corpus = {name: value for name, value in to_dict(data.corpus).items() if name != "shard_bytes"}
    if corpus["language_sample"] is None:  # speeds that were kept before it could be set stay known
        del corpus["language_sample"]
    kinds = sorted({source.kind for source in data.sources.values()})
    return digest([corpus, kinds, data.overlap_lines, tokenizer.kind, tokenizer.vocab_size])
