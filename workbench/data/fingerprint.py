"""Names of data, computed from what goes in, in well under a second and without preparing anything."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.config.schema import DataConfig, SourceConfig, TokenizerConfig, to_dict
from workbench.data import python_texts
from workbench.data.sources import list_paths
from workbench.data.special_tokens import choose, first_in_vocabulary

RULES = 3
"""Version of the rules that make documents and tokens of the inputs; raise it with every change of them."""

_LABELS = ("weight", "unique_tokens", "max_epochs")
_BIG_FILE_BYTES = 64_000_000


def data_fingerprint(data: DataConfig, tokenizer: TokenizerConfig) -> str:
    """16 hexadecimal digits that name the prepared store of these configs, with the inputs as they are now.

    Names, weights and repetition are not in it: mixtures of the same sources share a store.

    Raises
    ------
    ValueError
        An input is missing.
    """
    return _digest(
        {
            "rules": RULES,
            "sources": {name: describe_source(source) for name, source in data.sources.items()},
            "heldout_percent": data.heldout_percent,
            "min_document_bytes": data.min_document_bytes,
            "overlap_lines": data.overlap_lines,
            "tokenizer": _describe_tokenizer(tokenizer),
        }
    )


def heldout_fingerprint(data: DataConfig) -> str:
    """16 hexadecimal digits that name the held-out documents: no caps, no tokenizer, nothing of training alone."""
    sources = {name: describe_source(source) for name, source in data.sources.items()}
    for described in sources.values():
        described.pop("max_bytes")
    return _digest(
        {
            "rules": RULES,
            "sources": sources,
            "heldout_percent": data.heldout_percent,
            "min_document_bytes": data.min_document_bytes,
            "overlap_lines": data.overlap_lines,
        }
    )


def describe_source(source: SourceConfig) -> dict[str, Any]:
    """Plain values that identify a source's texts: versions, file hashes, or a repository's revision."""
    described = {name: value for name, value in to_dict(source).items() if name not in _LABELS}
    if source.kind == "python_headers":
        described["corpus"] = python_texts.describe_packages()
    elif source.kind.startswith("python_"):
        described["corpus"] = python_texts.describe_corpus()
    elif source.kind != "huggingface":
        described.pop("path")
        described["files"] = [hash_file(path) for path in list_paths(source)]
    return described


def _describe_tokenizer(tokenizer: TokenizerConfig) -> dict[str, Any]:
    if tokenizer.kind == "bpe":
        return {"kind": "bpe", "vocab_size": tokenizer.vocab_size, "train_bytes": tokenizer.train_bytes}
    path = Path(tokenizer.path or "").expanduser()
    if not path.exists():
        raise ValueError(f"tokenizer.path={tokenizer.path!r} is not there")
    files = sorted(path.glob("tokenizer.*")) if path.is_dir() else [path]
    described = {"kind": "file", "vocab_size": tokenizer.vocab_size, "files": [hash_file(f) for f in files]}
    special = choose(tokenizer)
    if special.ordinary or (special.bos, special.eos) != first_in_vocabulary(tokenizer):
        described |= {"bos": special.bos, "eos": special.eos}
    return described


def hash_file(path: Path) -> str:
    """SHA-256 of a file, remembered by size and modification time (big files: in the user's cache)."""
    stat = path.stat()
    return _hash_file(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash_file(path: str, size: int, modified: int) -> str:
    remembered = _cache_file(path, size, modified) if size >= _BIG_FILE_BYTES else None
    if remembered is not None and remembered.is_file():
        return remembered.read_text(encoding="ascii")
    with Path(path).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if remembered is not None:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        temporary = remembered.with_name(f"{remembered.name}.{os.getpid()}")
        temporary.write_text(digest, encoding="ascii")
        temporary.replace(remembered)
    return digest


def _cache_file(path: str, size: int, modified: int) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(f"{path}\0{size}\0{modified}".encode()).hexdigest()
    return root / "lm-scaling-workbench" / "hashes" / name


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
