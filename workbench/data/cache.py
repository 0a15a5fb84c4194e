"""Small facts remembered from one call to the next, in the user's own cache folder, if it can be written and read."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from workbench.study.files import write_atomically


def recall(kind: str, *key: object) -> str | None:
    """Text that was remembered under a key; None where there is none."""
    try:
        return _place(kind, key).read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return None


def remember(text: str, kind: str, *key: object) -> None:
    """Keep a text under a key; where the folder cannot be written, nothing is remembered."""
    path = _place(kind, key)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)


def _place(kind: str, key: tuple[object, ...]) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256("\0".join(map(str, key)).encode("utf-8", "surrogateescape")).hexdigest()
    return root / "lm-scaling-workbench" / kind / name
