"""Corpora as nodes of a study's graph: each once, however many points and stages read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from workbench.config.kind_registry import find_kind
from workbench.config.schema import Config, DataConfig, Stage, TokenizerConfig

KIND = "corpus"
"""Kind of data with `data.corpus`."""


class CorpusSpec(Protocol):
    """What the graph asks of `workbench.kinds.corpus.spec.Spec`."""

    @property
    def kind(self) -> str:
        """Name of its kind."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names it."""
        ...

    @property
    def data(self) -> DataConfig:
        """Sources and settings."""
        ...

    @property
    def tokenizer(self) -> TokenizerConfig:
        """How text becomes tokens."""
        ...

    @property
    def name(self) -> str:
        """Of the data, for people."""
        ...

    @property
    def label(self) -> str:
        """Name and kind, for people."""
        ...


@dataclass(frozen=True)
class CorpusNode:
    """A corpus, and who reads it."""

    id: str
    """Fingerprint of the data."""
    spec: CorpusSpec
    """What it is made of."""
    points: tuple[str, ...]
    """Names of the points on it."""
    stages: tuple[str, ...]
    """Ids of the stages that read its store: they wait for it."""


def corpus_nodes(points: Iterable[tuple[str, Config, str]], stages: Mapping[str, Stage]) -> dict[str, CorpusNode]:
    """Give the corpora of some points, by fingerprint; none where data are made in one pass.

    Parameters
    ----------
    points
        Name, config and fingerprint of the data of each.
    stages
        All stages of the graph, by id.
    """
    found: dict[str, CorpusNode] = {}
    for name, config, fingerprint in points:
        if config.data.corpus is None:
            continue
        # Of points that differ in weights alone the last counts.
        [spec] = find_kind(KIND).plan.expand(config.data.corpus, config, [], fingerprint)
        before = found[fingerprint].points if fingerprint in found else ()
        found[fingerprint] = CorpusNode(fingerprint, spec, (*before, name), ())
    readers = {
        fingerprint: tuple(i for i, stage in stages.items() if stage.data_fingerprint == fingerprint)
        for fingerprint in found
    }
    return {fingerprint: replace(node, stages=readers[fingerprint]) for fingerprint, node in found.items()}


def corpus_record(node: CorpusNode) -> dict[str, Any]:
    """Content of a corpus's part of `study.json`."""
    return {
        "kind": node.spec.kind,
        "name": node.spec.name,
        "points": list(node.points),
        "stages": list(node.stages),
    }
