"""Which files a corpus was made of, by their hashes: the last step of the way from a mark of a figure to where it came from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from workbench.data.corpus.corpus_plan import PLAN, Corpus, open_corpus
from workbench.data.corpus.pipeline import building_folder
from workbench.data.fingerprint import data_fingerprint, hash_file
from workbench.study.corpus_node import CorpusSpec
from workbench.study.files import write_atomically
from workbench.study.layout import Layout

FILE = "inputs.json"
_LISTED = 100
"""Files of a source that a report lists."""
_OF_SOURCE = ("kind", "path", "revision")


def record_files(spec: CorpusSpec, layout: Layout) -> None:
    """Write the files of a corpus that is begun or made, with bytes and SHA-256, beside its store, unless that is done.

    Their hashes were computed for the fingerprint, and big files' are kept in the user's cache. Of files that are not what
    the corpus was made of any more nothing is written.

    Raises
    ------
    ValueError
        A file cannot be read.
    """
    place = layout.corpus(spec.fingerprint).path / FILE
    corpus = _open(layout.data(spec.fingerprint))
    if place.exists() or corpus is None or data_fingerprint(spec.data, spec.tokenizer) != spec.fingerprint:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    sources = {name: _describe(corpus, name) for name in corpus.data.sources}
    write_atomically(place, json.dumps({"fingerprint": spec.fingerprint, "sources": sources}, indent=1))


def read_files(layout: Layout, fingerprint: str) -> dict[str, Any] | None:
    """Give, by source, what it was read from; None where nobody wrote it down.

    Returns
    -------
    dict
        By source `kind`, `path`, `revision`, and `files`: `path`, `bytes` and `sha256` of each. Sources of the hub and of
        Python's packages have none: their revision, or the packages, are part of the fingerprint.
    """
    try:
        return json.loads((layout.corpus(fingerprint).path / FILE).read_text(encoding="utf-8"))["sources"]
    except FileNotFoundError:
        return None


def summarize_files(layout: Layout, fingerprint: str) -> dict[str, Any] | None:
    """Give `read_files` in the size of a report: of each source the first files, and the number and bytes of all.

    `sha256` of a source is that of the list of its files' hashes, a line each, in this order.
    """
    found = read_files(layout, fingerprint)
    if found is None:
        return None
    summaries: dict[str, Any] = {}
    for name, facts in found.items():
        hashes = [file["sha256"] for file in facts["files"]]
        whole = None if None in hashes or not hashes else "".join(f"{one}\n" for one in hashes)
        summaries[name] = {
            **facts,
            "files": facts["files"][:_LISTED],
            "count": len(hashes),
            "bytes": sum(file["bytes"] for file in facts["files"]),
            "sha256": None if whole is None else hashlib.sha256(whole.encode()).hexdigest(),
        }
    return summaries


def _open(directory: Path) -> Corpus | None:
    """Open the plan of a corpus, which stays in its store; None of one that was not begun."""
    for root in (directory, building_folder(directory)):
        if (root / PLAN).is_file():
            return open_corpus(root)
    return None


def _hash_of(path: str) -> str | None:
    return hash_file(Path(path)) if Path(path).is_file() else None


def _listed_hash(content: str) -> str | None:
    """SHA-256 as the hub listed it; other versions, as an object store's, are none."""
    kind, _, value = content.partition(":")
    return value if kind == "sha256" else None


def _describe(corpus: Corpus, source: str) -> dict[str, Any]:
    parts = {part.path: part for shard in corpus.shards_of(source) for part in shard.parts if part.path}
    remote = corpus.data.sources[source].is_remote
    files = [
        {"path": path, "bytes": part.file_bytes, "sha256": _listed_hash(part.content) if remote else _hash_of(path)}
        for path, part in parts.items()
    ]
    return {**{name: getattr(corpus.data.sources[source], name) for name in _OF_SOURCE}, "files": files}
