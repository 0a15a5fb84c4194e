"""Whether a report must be drawn again: only if what it shows, the code that draws it, or one of its files has changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pandas as pd

import analysis

STAMP = ".report.inputs.json"
"""Beside a report's figures: digest of the inputs, checksums of the files, and what was said of them."""
_LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy")


def inputs_digest(frame: pd.DataFrame, others: Mapping[str, object]) -> str:
    """Name everything that a report is made from.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` returns it, its `attrs` included: they hold what analysis the study says it is for.
    others
        Whatever else the report shows: plain values.

    Returns
    -------
    str
        SHA-256 of the values, of this package's code, and of the versions of the libraries that fit and draw.
    """
    whole = hashlib.sha256(frame.to_csv(index=False).encode())
    whole.update(json.dumps([frame.attrs, others], sort_keys=True, default=str).encode())
    whole.update(_code_digest().encode())
    return whole.hexdigest()


def read_unchanged(directory: Path, digest: str) -> str | None:
    """Give what was printed with the report in a folder; None if it must be drawn again.

    Parameters
    ----------
    directory
        Folder of the report's figures.
    digest
        Of its inputs now.
    """
    try:
        stamp = json.loads((directory / STAMP).read_text(encoding="utf-8"))
        same = stamp["inputs"] == digest
        files: dict[str, str] = stamp["files"] if same else {}
        whole = same and all(_sha256(directory / name) == known for name, known in files.items())
        return str(stamp["text"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_stamp(directory: Path, digest: str, files: Sequence[Path], text: str) -> None:
    """Record what a report was made from, once its files are written."""
    directory.mkdir(parents=True, exist_ok=True)
    names = {os.path.relpath(file, directory): _sha256(file) for file in files}
    stamp = {"inputs": digest, "files": names, "text": text}
    (directory / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")


@cache
def _code_digest() -> str:
    whole = hashlib.sha256(json.dumps({name: version(name) for name in _LIBRARIES}).encode())
    root = Path(analysis.__file__).parent
    for path in sorted(root.rglob("*.py")):
        whole.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return whole.hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
