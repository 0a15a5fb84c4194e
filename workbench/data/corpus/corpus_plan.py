"""What every process that works on a corpus knows: `plan.json`, written before the first task."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig, TokenizerConfig, from_dict, to_dict
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.data.corpus.benchmark_files import read_benchmark_texts
from workbench.data.corpus.full_disk import SMALL_BYTES, naming_full_disk
from workbench.data.corpus.languages import refuse_missing_detector
from workbench.data.corpus.shards import Part, Shard, plan_shards
from workbench.data.corpus.task_folder import TaskFolder
from workbench.data.folders import MANIFEST
from workbench.data.hub import is_local, resolve_revision
from workbench.data.hub_download import check_access
from workbench.data.remote_inputs import list_remote
from workbench.study.files import write_atomically

PLAN = "plan.json"
BANDS = "bands.npy"
HELDOUT_BANDS = "heldout_bands.npy"


@dataclass(frozen=True)
class Corpus:
    """A corpus that is being built."""

    folder: TaskFolder
    """Where."""
    fingerprint: str
    """Names what goes in."""
    data: DataConfig
    """Its sources."""
    tokenizer: TokenizerConfig
    """How text becomes tokens."""
    shards: tuple[Shard, ...]
    """Its shards, in order."""

    @cached_property
    def by_name(self) -> dict[str, Shard]:
        """Shards by name."""
        return {shard.name: shard for shard in self.shards}

    def shards_of(self, source: str) -> list[Shard]:
        """Shards of a source, in order."""
        return [shard for shard in self.shards if shard.source == source]

    def source(self, shard: Shard) -> SourceConfig:
        """Config of a shard's source."""
        return self.data.sources[shard.source]

    @property
    def settings(self) -> CorpusConfig:
        """How it is built."""
        assert self.data.corpus is not None
        return self.data.corpus

    def place(self, *parts: str) -> Path:
        """Path in the folder."""
        return self.folder.root.joinpath(*parts)

    @property
    def bands_files(self) -> dict[str, NearDuplicates]:
        """Settings of the files of MinHash bands that each shard has, by their names."""
        settings = {BANDS: self.settings.near_duplicates, HELDOUT_BANDS: self.settings.heldout_near_duplicates}
        return {file: near for file, near in settings.items() if near is not None}

    def has_ended(self) -> bool:
        """Whether nothing is left to do: the manifest is written, or the folder was finished by another process."""
        return self.place(MANIFEST).exists() or not self.place(PLAN).exists()


def plan_corpus(root: Path, fingerprint: str, data: DataConfig, tokenizer: TokenizerConfig) -> Corpus:
    """Open a corpus that was begun, or begin it.

    Raises
    ------
    ValueError
        An input is missing, benchmark texts are none, or the folder holds another corpus.
    workbench.data.corpus.full_disk.NoSpaceError
        The disk is full.
    """
    if not (root / PLAN).exists():
        refuse_missing_detector(data)
        shards = [asdict(shard) for shard in plan_shards(data)]
        for source in data.sources.values():  # said now, and not by the first task of many jobs
            if source.files is not None:
                check_access(source.path, resolve_revision(source.path, source.revision), list_remote(source)[0])
        if data.corpus is not None and data.corpus.contamination is not None:  # said now, and not after all is read
            read_benchmark_texts(Path(data.corpus.contamination.texts).expanduser())
        plan = {
            "fingerprint": fingerprint,
            "config": {"data": to_dict(_absolute(data)), "tokenizer": to_dict(_absolute_tokenizer(tokenizer))},
            "shards": shards,
        }
        text = json.dumps(plan)
        with naming_full_disk(root, fingerprint, PLAN, max(len(text), SMALL_BYTES)):
            for name in ("claims", "scratch"):
                (root / name).mkdir(parents=True, exist_ok=True)
            write_atomically(root / PLAN, text)
    corpus = open_corpus(root)
    if corpus.fingerprint != fingerprint:
        raise ValueError(f"{root} holds the beginning of data {corpus.fingerprint}: delete it")
    return corpus


def _absolute(data: DataConfig) -> DataConfig:
    """Give the config with absolute paths: the next command may start elsewhere."""
    sources = {
        name: source
        if source.is_remote
        or source.kind.startswith("python_")
        or (source.kind == "huggingface" and not is_local(source))
        else replace(
            source,
            path=_absolute_path(source.path),
            heldout_path=None if source.heldout_path is None else _absolute_path(source.heldout_path),
        )
        for name, source in data.sources.items()
    }
    corpus = data.corpus
    if corpus is not None and corpus.contamination is not None:
        texts = _absolute_path(corpus.contamination.texts)
        corpus = replace(corpus, contamination=replace(corpus.contamination, texts=texts))
    return replace(data, sources=sources, corpus=corpus)


def _absolute_tokenizer(tokenizer: TokenizerConfig) -> TokenizerConfig:
    return tokenizer if tokenizer.path is None else replace(tokenizer, path=_absolute_path(tokenizer.path))


def _absolute_path(path: str) -> str:
    written = Path(path)
    return str((written if written.exists() else written.expanduser()).absolute())


def open_corpus(root: Path) -> Corpus:
    """Open a corpus that was begun."""
    plan = json.loads((root / PLAN).read_text(encoding="utf-8"))
    return Corpus(
        TaskFolder(root),
        plan["fingerprint"],
        from_dict(DataConfig, plan["config"]["data"], "data"),
        from_dict(TokenizerConfig, plan["config"]["tokenizer"], "tokenizer"),
        tuple(
            Shard(shard["number"], shard["source"], tuple(Part(**part) for part in shard["parts"]))
            for shard in plan["shards"]
        ),
    )
