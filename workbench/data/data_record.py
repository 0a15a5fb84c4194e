"""What reports and model cards say of a prepared store: its facts as plain values, small enough to travel with a study.

What a store does not have is None here, which its readers call "not measured" or "not checked", and never 0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workbench.data.counts import LABELS
from workbench.data.folders import MANIFEST

SUFFIX = ".data.json"
"""End of the name of a record's file, `<fingerprint>.data.json`."""
_OF_SOURCE = ("kind", "path", "revision", "where", "quality", "max_bytes")
_PLACES = ("shards", "excluded")
_EXAMPLE_CHARACTERS, _EXAMPLES = 400, 3


def make_record(directory: Path) -> dict[str, Any]:
    """Gather the facts of a store.

    Returns
    -------
    dict
        `fingerprint`, `format`, `vocab_size`, `sources` (counts of each, with what its config names), `labels` of the causes
        for which documents were dropped, `token_sources` (those of token files, whose texts no step compares),
        `exact_duplicates` (whether they were looked for, in the other sources), `overlap_lines`, of corpora `overlap_words`
        and `overlap_metered_bytes`, `overlap_unmeasured_sources` (those in which held-out text was not looked for),
        `overlap_before` and `overlap_left`; `lengths`, `near_duplicates` and `contamination` as their files in the store have
        them; `packing` (by context, counts of the sequences that documents were packed into); some `removed` documents and the
        beginnings of some `heldout` ones.

    Raises
    ------
    ValueError
        There is no store of tokens of documents, or a file of it is damaged.
    """
    manifest = _read(directory, MANIFEST)
    if manifest is None or "config" not in manifest or "data" not in manifest["config"]:
        raise ValueError(f"{directory} holds no prepared documents")
    data = manifest["config"]["data"]
    corpus = data.get("corpus")
    tokens = sorted(name for name, source in data["sources"].items() if source.get("kind") == "tokens")
    causes = {cause for facts in manifest["sources"].values() for cause in facts["dropped"]}
    return {
        "fingerprint": manifest["fingerprint"],
        "name": data.get("name"),
        "format": manifest["format"],
        "vocab_size": manifest["tokenizer"]["vocab_size"],
        "sources": {
            name: {
                **{key: value for key, value in facts.items() if key not in _PLACES},
                "config": {key: data["sources"][name].get(key) for key in _OF_SOURCE},
            }
            for name, facts in manifest["sources"].items()
        },
        "labels": {
            cause: LABELS.get(cause, cause.replace("_", " ")) for cause in [*LABELS, *sorted(causes)] if cause in causes
        },
        "token_sources": tokens,
        "exact_duplicates": corpus is None
        or (bool(corpus.get("exact_duplicates")) and len(tokens) < len(data["sources"])),
        "overlap_lines": data.get("overlap_lines"),
        "overlap_words": (corpus or {}).get("overlap_words"),
        "overlap_metered_bytes": manifest.get("overlap_metered_bytes"),
        "overlap_unmeasured_sources": manifest.get("overlap_unmeasured_sources") or [],
        "overlap_before": manifest.get("overlap_before"),
        "overlap_left": manifest.get("overlap_left"),
        "lengths": _read(directory, "lengths.json"),
        "near_duplicates": _read(directory, "near_duplicates.json"),
        "contamination": _read(directory, "contamination.json"),
        "packing": _packing(directory),
        "removed": _read_lines(directory, "removed/samples.jsonl"),
        "heldout": {name: _examples(directory, name) for name in manifest["sources"]},
    }


def _packing(directory: Path) -> list[dict[str, Any]]:
    """Give counts of each context into whose sequences the documents were packed, the shortest first."""
    folders = directory.parent.glob(f"packed/{directory.name}-*")
    found: dict[int, dict[str, Any]] = {}
    for folder in sorted(folders):  # one a source, or one for all
        manifest = _read(folder, MANIFEST)
        if manifest is not None:
            found.setdefault(manifest["context_tokens"], {}).update(manifest["sources"])
    return [{"context_tokens": context, "sources": dict(sorted(found[context].items()))} for context in sorted(found)]


def _examples(directory: Path, source: str) -> list[str]:
    lines = _read_lines(directory, f"heldout/{source}.jsonl", _EXAMPLES) or []
    return [line["text"][:_EXAMPLE_CHARACTERS] for line in lines]


def _read(directory: Path, name: str) -> dict[str, Any] | None:
    """Read a file of the store; None where it has none of that name."""
    path = directory / name
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _read_lines(directory: Path, name: str, most: int | None = None) -> list[dict[str, Any]] | None:
    path = directory / name
    if not path.is_file():
        return None
    found: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if most is not None and len(found) >= most:
                break
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path} is damaged: {error}") from None
    return found
