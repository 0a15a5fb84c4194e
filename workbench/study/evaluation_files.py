"""Results of evaluations as files, and what counts as a valid one.

A result is stored beside its checkpoint as `evals/<suite>-<eval_id>.json`, in lm-eval's format, and
`evals/<suite>-<eval_id>.documents.json`, the per-document values that paired comparisons need. The
result is written last and holds the checksum of the other, so that it is valid only when both are.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from workbench.study.files import write_atomically


def result_path(checkpoint: Path, suite_name: str, eval_id: str) -> Path:
    """Path of a suite's result beside its checkpoint."""
    return checkpoint / "evals" / f"{suite_name}-{eval_id}.json"


def documents_path(result: Path) -> Path:
    """Per-document values of a result."""
    return result.with_name(f"{result.stem}.documents.json")


def write_result(path: Path, result: dict[str, Any], documents: dict[str, Any]) -> None:
    """Write a result and its per-document values, each completely or not at all.

    Parameters
    ----------
    path
        Path of the result; its folder is created.
    result
        lm-eval's result; it gains `documents_sha256` and `sha256`.
    documents
        The result of `document_values`, by task.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    documents_text = json.dumps(documents, ensure_ascii=False) + "\n"
    result = result | {"documents_sha256": _sha256(documents_text)}
    result["sha256"] = _checksum(result)
    write_atomically(documents_path(path), documents_text)
    write_atomically(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def read_result(path: Path, eval_id: str) -> dict[str, Any] | None:
    """Read a result; None if it or its per-document values are missing, truncated or altered."""
    try:
        result = check_result(path)
    except (OSError, ValueError):
        return None
    return result if result["eval_id"] == eval_id else None


def check_result(path: Path) -> dict[str, Any]:
    """Read a result that is intact and whose per-document values are.

    Raises
    ------
    OSError
        One of the two files is missing.
    ValueError
        One of them differs from what was written; the file is named.
    """
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    result: dict[str, Any] = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if not result.get("results") or "eval_id" not in result:
        raise ValueError(f"{path} is damaged: it has no results or no eval_id")
    if result.get("sha256") != _checksum(result):
        raise ValueError(f"{path} is damaged: it does not match its checksum")
    if result.get("documents_sha256") != hashlib.sha256(documents_path(path).read_bytes()).hexdigest():
        raise ValueError(f"{documents_path(path)} is damaged: it does not match its checksum")
    return result


def _checksum(result: dict[str, Any]) -> str:
    facts = {name: value for name, value in result.items() if name != "sha256"}
    return _sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
