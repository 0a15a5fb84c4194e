"""Stores of many files: each one's size is looked at whenever the store is opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from workbench.data.chat_store import open_chat
from workbench.data.store import open_prepared

SHARDS = 6


@pytest.fixture(name="store")
def fixture_store(tmp_path: Path) -> Path:
    """A store of some shards, without held-out text."""
    directory = tmp_path / "0123456789abcdef"
    (directory / "tokens" / "text").mkdir(parents=True)
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "tokenizer.json").write_text("{}")
    shards = []
    for number in range(SHARDS):
        file = f"tokens/text/{number:06d}.bin"
        np.arange(10 + number, dtype="<u2").tofile(directory / file)
        shards.append({"file": file, "tokens": 10 + number})
    files = {p.relative_to(directory).as_posix(): p.stat().st_size for p in directory.rglob("*") if p.is_file()}
    manifest = {
        "fingerprint": directory.name,
        "format": 3,
        "dtype": "uint16",
        "sources": {"text": {"shards": shards}},
        "files": {name: {"bytes": size} for name, size in files.items()},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def test_damage_is_named_the_first_time(store: Path):
    (store / "tokens" / "text" / "000003.bin").write_bytes(b"12")
    with pytest.raises(ValueError, match=r"000003.bin has 2 bytes, not 26: delete"):
        open_prepared(store)
    (store / "tokens" / "text" / "000003.bin").unlink()
    with pytest.raises(ValueError, match=r"000003.bin has None bytes, not 26: delete"):
        open_prepared(store)


def test_damage_is_named_later_too(store: Path):
    open_prepared(store)
    (store / "tokens" / "text" / "000004.bin").write_bytes(b"12")
    with pytest.raises(ValueError, match=r"000004.bin has 2 bytes, not 28: delete"):
        open_prepared(store)


@pytest.mark.parametrize("number", [1, 4, None, "3"])
def test_a_store_of_another_format_is_refused_by_its_number(store: Path, number):
    """A later one may lie otherwise: its files are not looked for as if it were of today's formats."""
    manifest = json.loads((store / "manifest.json").read_text()) | {"format": number}
    del manifest["files"]
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"^[^\n]* is of format {number!r}, and formats 2, 3 are read: [^\n]*$"):
        open_prepared(store)


def test_conversations_are_no_documents(store: Path):
    manifest = json.loads((store / "manifest.json").read_text()) | {"format": 1, "kind": "chat"}
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="holds conversations, not prepared documents"):
        open_prepared(store)
    (store / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(ValueError, match="is of format 2, and formats 1 are read"):
        open_chat(store)
    (store / "manifest.json").write_text(json.dumps(manifest | {"kind": "images"}))
    with pytest.raises(ValueError, match="is of kind 'images', and documents and kind 'chat' are read"):
        open_prepared(store)


def test_another_manifest_is_looked_at_anew(store: Path):
    open_prepared(store)
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["files"]["tokens/text/000005.bin"]["bytes"] += 2
    (store / "manifest.json").write_text(json.dumps(manifest, indent=1))
    with pytest.raises(ValueError, match=r"000005.bin has 30 bytes, not 32: delete"):
        open_prepared(store)
