"""Names of data, computed from what goes in, in well under a second and without preparing anything."""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

from workbench.config.schema import DataConfig, SourceConfig, TokenizerConfig, to_dict
from workbench.config.schema.contamination_config import OF_CUT
from workbench.data import python_texts
from workbench.data.cache import recall, remember
from workbench.data.corpus.token_files import given_heldout, identifying_files
from workbench.data.hub import is_local, resolve_revision
from workbench.data.inputs import find_inputs, show
from workbench.data.remote_inputs import list_remote
from workbench.data.special_tokens import choose, find_file
from workbench.study.files import sha256

RULES = 4
"""Version of the rules that make documents and tokens of the inputs; raise it with every change of them."""

CORPUS_RULES = 3
"""The same for corpora, whose documents are held out, counted and cut by rules of their own."""

_OF_TRAINING = (
    "shard_bytes",
    "exact_duplicates",
    "near_duplicates",
    "heldout_near_duplicates",
    "contamination",
    "overlap_words",
    "language_sample",
)
"""Settings of a corpus that move no held-out document."""

_LABELS = ("weight", "unique_tokens", "max_epochs", "size_bytes")
_FIRST_HELDOUT_DOCUMENT_BYTES = 1500
"""Where held-out documents were cut before that could be set; a new default of the setting would not change it."""
_BIG_FILE_BYTES = 1_000_000
"""Files of at least this size are worth a small file in the cache: they take longer to hash than that to read."""
_RECENT_NS = 2_000_000_000
"""A file that was changed so shortly before it was hashed may change again without another time of modification:
network file systems count it in seconds, FAT in two of them."""


def data_fingerprint(data: DataConfig, tokenizer: TokenizerConfig) -> str:
    """16 hexadecimal digits that name the prepared store of these configs, with the inputs as they are now.

    Names, weights and repetition are not in it: mixtures of the same sources share a store.

    Raises
    ------
    ValueError
        An input is missing.
    """
    described = _describe_tokenizer(tokenizer)  # before sources, for which the hub may be asked
    return _digest(
        {
            "rules": RULES,
            "sources": {name: describe_source(source) for name, source in data.sources.items()},
            **_percent(data),
            "min_document_bytes": data.min_document_bytes,
            "overlap_lines": data.overlap_lines,
            **_younger(data),
            **_corpus(data),
            "tokenizer": described,
        }
    )


def heldout_fingerprint(data: DataConfig, tokenizer: TokenizerConfig) -> str:
    """16 hexadecimal digits that name the held-out documents: no caps, nothing of training alone.

    The tokenizer is in it only where documents are held out of token files, whose ends and text it decides.

    Raises
    ------
    ValueError
        An input is missing.
    """
    sources = {name: describe_source(source) for name, source in data.sources.items()}
    for described in sources.values():
        described.pop("max_bytes")
        described.pop("language", None)
    return _digest(
        {
            "rules": RULES,
            "sources": sources,
            **_percent(data),
            "min_document_bytes": data.min_document_bytes,
            "overlap_lines": data.overlap_lines,
            **_younger(data),
            **_corpus(data, without=_OF_TRAINING),
            **({"tokenizer": _describe_tokenizer(tokenizer)} if _decodes_heldout(data) else {}),
        }
    )


def _decodes_heldout(data: DataConfig) -> bool:
    """Whether documents are held out of token files."""
    return any(source.kind == "tokens" and source.heldout_path is None for source in data.sources.values())


def provisional_fingerprint(data: DataConfig, tokenizer: TokenizerConfig) -> str:
    """16 hexadecimal digits for a plan whose inputs are not all known yet; they name no store."""
    return _digest({"provisional": [to_dict(data), to_dict(tokenizer)]})


def _percent(data: DataConfig) -> dict[str, Any]:
    """Name the share of files that is held out; a corpus holds out an amount of its documents instead."""
    return {"heldout_percent": data.heldout_percent} if data.corpus is None else {}


def _corpus(data: DataConfig, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Name what a corpus is made by; nothing where data are built in one pass."""
    if data.corpus is None:
        return {}
    settings = {n: value for n, value in to_dict(data.corpus).items() if n not in without and value is not None}
    for name in ("near_duplicates", "heldout_near_duplicates"):
        if name in settings and not settings[name]["verify"]:
            settings[name].pop("least_similarity")  # read only with `verify`
    if "contamination" in settings:
        from workbench.data.corpus.benchmark_files import benchmark_hashes  # it hashes files as this module does

        texts = Path(settings["contamination"]["texts"]).expanduser()
        settings["contamination"] = {**settings["contamination"], "texts": benchmark_hashes(texts)}
        if settings["contamination"]["action"] != "cut":
            settings["contamination"] |= OF_CUT
    return {"corpus": {"rules": CORPUS_RULES, **settings}}


def _younger(data: DataConfig) -> dict[str, Any]:
    """Name settings that fingerprints did not have from the start, where they are not what they were then."""
    cut = data.heldout_document_bytes
    return {} if cut == _FIRST_HELDOUT_DOCUMENT_BYTES else {"heldout_document_bytes": cut}


def describe_source(source: SourceConfig) -> dict[str, Any]:
    """Plain values that identify a source's texts: versions, file hashes, or a data set's commit.

    Raises
    ------
    ValueError
        There are no files, or the hub names no commit (see `workbench.data.hub.resolve_revision`) or does not list its files.
    """
    described = {name: value for name, value in to_dict(source).items() if name not in _LABELS}
    for younger in (
        "where",
        "quality",
        "language",
        "packages",
        "token_dtype",
        "heldout_path",
        "files",
    ):  # older fingerprints have no such parts
        if described[younger] is None:
            described.pop(younger)
    if source.kind == "python_headers":
        described["corpus"] = python_texts.describe_packages(*(source.packages or ()))
    elif source.kind.startswith("python_"):
        described["corpus"] = python_texts.describe_corpus(*(source.packages or ()))
    elif source.is_remote:
        # Not the revision: a commit that leaves the files as they are leaves the data as they are.
        for name in ("path", "revision", "subset", "split"):
            described.pop(name)
        described["files"] = [list(file) for file in list_remote(source)]
    elif source.kind == "tokens":
        described.pop("path")
        described["files"] = [hash_file(path) for path in identifying_files(source)]
        if source.heldout_path is not None:
            described["heldout_path"] = hash_file(given_heldout(source))
    elif source.kind != "huggingface":
        described.pop("path")
        described["files"] = [hash_file(path) for path in find_inputs(source).paths]
    elif is_local(source):
        folder = Path(described.pop("path"))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        described["files"] = [[path.relative_to(folder).as_posix(), hash_file(path)] for path in files]
    else:
        described["revision"] = resolve_revision(source.path, source.revision)
    return described


def _describe_tokenizer(tokenizer: TokenizerConfig) -> dict[str, Any]:
    if tokenizer.kind == "bpe":
        return {"kind": "bpe", "vocab_size": tokenizer.vocab_size, "train_bytes": tokenizer.train_bytes}
    special = choose(tokenizer)
    return {
        "kind": "file",
        "vocab_size": tokenizer.vocab_size,
        "file": hash_file(find_file(Path(tokenizer.path or "").expanduser())),
        "bos": special.bos,
        "eos": special.eos,
    }


def hash_file(path: Path) -> str:
    """SHA-256 of a file, remembered by what changes with its content (big files: in the user's cache).

    Of a file that was changed a moment ago nothing is remembered.

    Raises
    ------
    ValueError
        It cannot be read.
    """
    try:
        place, facts = str(path.resolve()), _facts(path)
        known = _known(place, facts)
        if known is not None:
            return known
        began = time.time_ns()
        digest = sha256(path)
        if _facts(path) == facts and began - max(facts[1:3]) > _RECENT_NS:
            _hashes[place] = facts, digest
            if facts[0] >= _BIG_FILE_BYTES:
                remember(digest, "hashes", place, *facts)
    except OSError as error:
        raise ValueError(f"{show(path)} cannot be read: {error.strerror}") from error
    return digest


Facts = tuple[int, int, int, int]
_hashes: dict[str, tuple[Facts, str]] = {}
"""By path: what the file was when it was hashed, and its hash."""


def _facts(path: Path) -> Facts:
    """Size, times of modification and of the inode's change, and inode."""
    stat = path.stat()
    # Copies and unpacked archives keep their times of modification, but not the time of the inode's change.
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _known(place: str, facts: Facts) -> str | None:
    if place in _hashes and _hashes[place][0] == facts:
        return _hashes[place][1]
    found = recall("hashes", place, *facts) if facts[0] >= _BIG_FILE_BYTES else None
    if found is None or not re.fullmatch("[0-9a-f]{64}", found):
        return None
    _hashes[place] = facts, found
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
