"""What an audit reads of a store without looking into its tokens: the manifest, the files, and counts that add up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data.audit_check import Check, Sample, judge, unchecked
from workbench.data.folders import MANIFEST
from workbench.study.files import sha256

FORMATS = (2, 3)
"""2: made in one pass, a file a source. 3: a corpus, many files a source."""


@dataclass(frozen=True)
class TokenFile:
    """A file of token ids, and what the manifest says of it."""

    path: Path
    """Where it is."""
    name: str
    """The same, from the store's folder on."""
    source: str
    """Source that it is of."""
    facts: Mapping[str, Any]
    """`tokens`, `documents` and, of some, `bytes`."""
    offsets: Path | None
    """File of where its documents begin; None where the format has none."""


def open_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest, whatever is wrong with the rest.

    Raises
    ------
    ValueError
        There is none, it is damaged, or it is of no token store.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise ValueError(f"{directory} has no {MANIFEST}: give the folder of prepared data, data/<fingerprint>")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") not in FORMATS or manifest.get("kind") == "chat":
        found = manifest.get("kind", manifest.get("format")) if isinstance(manifest, dict) else manifest
        raise ValueError(f"{path} is of {found!r}, but token stores of the formats 2 and 3 are audited")
    return manifest


def read_json(path: Path) -> Any:
    """Read a manifest.

    Raises
    ------
    ValueError
        It is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def token_files(directory: Path, manifest: Mapping[str, Any]) -> list[TokenFile]:
    """List the files of token ids, those that are missing too; not those of `elsewhere`."""
    files: list[TokenFile] = []
    for source, facts in manifest["sources"].items():
        if source in elsewhere(manifest):
            continue
        if manifest["format"] == 2:
            name = f"tokens_{source}.bin"
            files.append(TokenFile(directory / name, name, source, facts, None))
            continue
        for shard in facts["shards"]:
            path = directory / shard["file"]
            files.append(TokenFile(path, shard["file"], source, shard, path.with_suffix(".offsets.npy")))
    return files


def elsewhere(manifest: Mapping[str, Any]) -> list[str]:
    """List the sources whose tokens stand in files that the store only refers to."""
    return [source for source, facts in manifest["sources"].items() if "excluded" in facts]


def check_elsewhere(manifest: Mapping[str, Any]) -> Check:
    """Say what the store does not hold."""
    names = elsewhere(manifest)
    count = sum(len(manifest["sources"][name]["shards"]) for name in names)
    return unchecked(
        "token files elsewhere", f"{count:,} files of {', '.join(names)} are referred to and not in the store"
    )


def choose_files(files: list[TokenFile], sample: Sample) -> list[TokenFile]:
    """Choose the token files to look into, of every source some."""
    if sample.whole:
        return files
    chosen: set[str] = set()
    for source in dict.fromkeys(file.source for file in files):
        of_source = [file for file in files if file.source == source]
        sample.draw(source).shuffle(of_source)
        taken = 0
        for file in of_source:
            if taken >= sample.token_bytes:
                break
            chosen.add(file.name)
            taken += file.path.stat().st_size if file.path.is_file() else 0
    return [file for file in files if file.name in chosen]


def check_name(directory: Path, manifest: Mapping[str, Any]) -> Check:
    """Compare the fingerprint with the folder's name."""
    fingerprint = str(manifest.get("fingerprint"))
    wrong = (
        [] if fingerprint == directory.name else [f"the manifest is of {fingerprint}, the folder is {directory.name}"]
    )
    found = f"{fingerprint}, against the folder's name (the inputs, which it is a hash of, are not in the store)"
    return judge("fingerprint", found, wrong)


def check_sizes(directory: Path, manifest: Mapping[str, Any]) -> Check:
    """Look for every file, and for files that nobody listed."""
    listed, wrong = manifest["files"], list[str]()
    for name, facts in listed.items():
        file = directory / name
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            wrong.append(f"{name} is missing")
        elif size != facts["bytes"]:
            wrong.append(f"{name} has {size:,} bytes, the manifest says {facts['bytes']:,}")
    there = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    wrong += [f"{name} is not in the manifest" for name in sorted(there - set(listed) - {MANIFEST})]
    total = sum(facts["bytes"] for facts in listed.values())
    return judge("sizes", f"{len(listed):,} of {len(listed):,} files, {total:,} bytes", wrong)


def check_sums(directory: Path, manifest: Mapping[str, Any], left_out: set[str]) -> Check:
    """Compare files with their SHA-256, all but those of `left_out`."""
    wrong: list[str] = []
    count = size = 0
    for name, facts in manifest["files"].items():
        file = directory / name
        if name in left_out or not file.is_file():
            continue
        count, size = count + 1, size + file.stat().st_size
        if sha256(file) != facts["sha256"]:
            wrong.append(f"{name} is not what its checksum says")
    return judge("checksums", f"{count:,} of {len(manifest['files']):,} files, {size:,} bytes hashed", wrong)


def check_counts(manifest: Mapping[str, Any], files: list[TokenFile]) -> Check:
    """Add up the manifest's own counts, and compare its tokens with the sizes of all token files."""
    wrong: list[str] = []
    width = np.dtype(manifest["dtype"]).itemsize
    for source, facts in manifest["sources"].items():
        kept, dropped = facts.get("kept", facts["documents"]), sum(facts["dropped"].values())
        if facts["read"] != kept + dropped:
            wrong.append(
                f"{source}: {facts['read']:,} documents read, but {kept:,} kept and {dropped:,} dropped by cause"
            )
        mine = [file for file in files if file.source == source]
        for file in mine:
            if file.path.is_file() and file.path.stat().st_size != file.facts["tokens"] * width:
                wrong.append(
                    f"{file.name} holds {file.path.stat().st_size / width:,.6g} tokens, not {file.facts['tokens']:,}"
                )
        if manifest["format"] == 3 and mine:
            for what in ("tokens", "documents", "bytes"):
                total = sum(file.facts[what] for file in mine)
                if total != facts[what]:
                    wrong.append(f"{source}: the files have {total:,} {what}, the source {facts[what]:,}")
    found = f"documents read, kept and dropped by cause of {len(manifest['sources'])} sources; tokens of {len(files):,} files"
    return judge("counts", found, wrong)


def check_offsets(files: list[TokenFile]) -> Check:
    """Look whether offsets ascend from 0 to the file's tokens, a number for each document and one more."""
    wrong: list[str] = []
    if all(file.offsets is None for file in files):
        return unchecked("offsets", "stores of format 2 have none; documents begin where the first token of one stands")
    for file in files:
        assert file.offsets is not None
        try:
            offsets = np.load(file.offsets, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            wrong.append(f"offsets of {file.name} cannot be read: {error}")
            continue
        wrong += [f"{file.name}: {text}" for text in _wrong_offsets(offsets, file.facts)]
    return judge("offsets", f"of {len(files):,} files", wrong)


def _wrong_offsets(offsets: np.ndarray, facts: Mapping[str, Any]) -> list[str]:
    if offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets):
        return [f"offsets are {offsets.dtype} of shape {offsets.shape}, not int64 of (documents + 1,)"]
    found: list[str] = []
    if len(offsets) != facts["documents"] + 1:
        found.append(f"{len(offsets) - 1:,} documents by its offsets, {facts['documents']:,} by the manifest")
    if offsets[0] != 0 or offsets[-1] != facts["tokens"]:
        found.append(f"offsets go from {offsets[0]:,} to {offsets[-1]:,}, the tokens from 0 to {facts['tokens']:,}")
    steps = np.diff(offsets)
    if (steps <= 0).any():
        found.append(f"offsets do not ascend at document {int(np.argmax(steps <= 0)):,}")
    return found


def read_heldout(directory: Path, manifest: Mapping[str, Any]) -> tuple[dict[str, list[str]], Check]:
    """Read the held-out documents by source, and compare their numbers with the manifest's."""
    texts: dict[str, list[str]] = {}
    wrong: list[str] = []
    for source, facts in manifest["sources"].items():
        path = directory / "heldout" / f"{source}.jsonl"
        try:
            with path.open(encoding="utf-8") as lines:
                texts[source] = [json.loads(line)["text"] for line in lines]
        except (OSError, ValueError, KeyError, TypeError) as error:
            wrong.append(f"heldout/{source}.jsonl cannot be read: {error}")
            continue
        size = sum(len(text.encode()) for text in texts[source])
        if (len(texts[source]), size) != (facts["heldout_documents"], facts["heldout_bytes"]):
            wrong.append(
                f"{source}: {len(texts[source]):,} held-out documents of {size:,} bytes, the manifest says "
                f"{facts['heldout_documents']:,} of {facts['heldout_bytes']:,}"
            )
    count = sum(map(len, texts.values()))
    return texts, judge("held-out documents", f"{count:,} of {len(manifest['sources'])} sources", wrong)
