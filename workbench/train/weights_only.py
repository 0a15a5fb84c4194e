"""Checkpoints that keep their weights alone, after their optimizer's state has served.

Two thirds of a checkpoint are AdamW's moments, and only training reads them. The manifest says `weights_only` where they
are gone: such a checkpoint is evaluated, exported and generated from like any other, and never resumed from. The manifest
is replaced first and the files go after, or come before: whenever a process is killed, every file that the manifest
names is there and whole, and what it does not name is cleared away by the next one that trains the stage.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.study.files import fsync, write_atomically

MANIFEST = "manifest.json"
OPTIMIZER_FILE = "optimizer.safetensors"
OPTIMIZER_DIR = "optimizer"
"""Instead of the file where several processes shared the model: a file each."""
FLAG = "weights_only"


def is_resumable(manifest: Mapping[str, Any]) -> bool:
    """Whether training can resume from a checkpoint; manifests from before the flag are of whole ones."""
    return not manifest.get(FLAG, False)


def drop_optimizer(checkpoint: Path, manifest: Mapping[str, Any]) -> None:
    """Make a whole checkpoint one of weights alone.

    Parameters
    ----------
    checkpoint
        Its directory.
    manifest
        What its manifest says now.
    """
    files = {name: facts for name, facts in manifest["files"].items() if not is_optimizers(name)}
    _replace_manifest(checkpoint, {**manifest, FLAG: True, "files": files})
    clear_unlisted(checkpoint, {FLAG: True})


def add_optimizer(checkpoint: Path, manifest: Mapping[str, Any], source: Path, found: Mapping[str, Any]) -> None:
    """Give a checkpoint of weights alone the optimizer's state that training brought forth again.

    Parameters
    ----------
    checkpoint, manifest
        The one of weights alone, and what its manifest says.
    source, found
        A directory on the same file system with the same weights, whose optimizer files are moved; and its manifest.
    """
    clear_unlisted(checkpoint, manifest)
    for name in (OPTIMIZER_FILE, OPTIMIZER_DIR):
        if (source / name).exists():
            (source / name).rename(checkpoint / name)
    fsync(checkpoint)
    files = {**manifest["files"], **{name: facts for name, facts in found["files"].items() if is_optimizers(name)}}
    whole = {key: value for key, value in manifest.items() if key != FLAG}
    _replace_manifest(checkpoint, {**whole, "files": dict(sorted(files.items()))})


def clear_unlisted(checkpoint: Path, manifest: Mapping[str, Any]) -> None:
    """Delete optimizer files that a checkpoint's manifest does not name, left by a process that was killed."""
    for path in checkpoint.glob(f".{MANIFEST}.*.partial"):
        path.unlink(missing_ok=True)
    if is_resumable(manifest):
        return
    (checkpoint / OPTIMIZER_FILE).unlink(missing_ok=True)
    if (checkpoint / OPTIMIZER_DIR).exists():
        shutil.rmtree(checkpoint / OPTIMIZER_DIR)


def is_optimizers(name: str) -> bool:
    """Whether a file of a checkpoint, by its name there, is of the optimizer's state."""
    return name == OPTIMIZER_FILE or name.startswith(f"{OPTIMIZER_DIR}/")


def _replace_manifest(checkpoint: Path, manifest: Mapping[str, Any]) -> None:
    write_atomically(checkpoint / MANIFEST, json.dumps(manifest, indent=1))
    fsync(checkpoint)
