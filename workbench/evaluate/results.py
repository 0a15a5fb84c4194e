"""Results of evaluations as files: standard errors, per-document values, and what counts as valid.

A result stands beside its checkpoint as `evals/<suite>-<eval_id>.json`, in lm-eval's format, and
`evals/<suite>-<eval_id>.documents.json`, the per-document values that paired comparisons need. The
result is written last and holds the checksum of the other, so that it is valid only when both are.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.study.files import write_atomically


def result_path(checkpoint: Path, suite_name: str, eval_id: str) -> Path:
    """Where a suite's result stands beside its checkpoint."""
    return checkpoint / "evals" / f"{suite_name}-{eval_id}.json"


def documents_path(result: Path) -> Path:
    """Per-document values of a result."""
    return result.with_name(f"{result.stem}.documents.json")


def write_result(path: Path, result: dict[str, Any], documents: dict[str, Any]) -> None:
    """Write a result and its per-document values, each whole or not at all.

    Parameters
    ----------
    path
        Where the result goes; its folder is made.
    result
        lm-eval's result; it gains `documents_sha256` and `sha256`.
    documents
        What `document_values` gave, by task.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    documents_text = json.dumps(documents, ensure_ascii=False) + "\n"
    result = result | {"documents_sha256": _sha256(documents_text)}
    result["sha256"] = _sha256(_canonical(result))
    write_atomically(documents_path(path), documents_text)
    write_atomically(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def read_result(path: Path, eval_id: str) -> dict[str, Any] | None:
    """Read a result; None where it is missing, truncated, altered, or its per-document values are."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        documents_text = documents_path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    if not isinstance(result, dict) or result.get("eval_id") != eval_id or not result.get("results"):
        return None
    claimed = result.pop("sha256", None)
    if claimed != _sha256(_canonical(result)) or result.get("documents_sha256") != _sha256(documents_text):
        return None
    return result | {"sha256": claimed}


def document_values(samples: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Per-document values of one task, as columns.

    Parameters
    ----------
    samples
        lm-eval's samples of the task.

    Returns
    -------
    dict
        `doc_id` (the document's own id where it has one), and what the task measures: `loglikelihood`
        (nats) and `bytes`, `correct` (0 or 1), and any other metric under its own name.
    """
    columns: dict[str, list[Any]] = {"doc_id": []}
    # A task with several filters has a sample for each; the first filter's stand for the document.
    for sample in (s for s in samples if s["filter"] == samples[0]["filter"]):
        document = sample["doc"]
        known = document.get("id") if isinstance(document, dict) else None
        row: dict[str, Any] = {"doc_id": sample["doc_id"] if known is None else known}
        for metric in sample["metrics"]:
            row |= _columns(metric, sample[metric])
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return columns


def add_standard_errors(metrics: dict[str, Any], documents: dict[str, list[Any]]) -> None:
    """Fill in the standard errors that lm-eval leaves as "N/A" and that per-document values give.

    `bits_per_byte_stderr,none` by `ratio_stderr`. `perplexity_stderr,none` by the delta method:
    perplexity times the standard error of the mean log-likelihood.
    """
    count = len(documents["doc_id"])
    if "bits_per_byte,none" in metrics and count > 1:
        stderr = ratio_stderr(documents["loglikelihood"], documents["bytes"]) / math.log(2)
        metrics["bits_per_byte_stderr,none"] = stderr
    if metrics.get("perplexity_stderr,none") == "N/A" and count > 1:
        values = documents["loglikelihood"]
        mean = sum(values) / count
        variance = sum((value - mean) ** 2 for value in values) / (count - 1)
        metrics["perplexity_stderr,none"] = metrics["perplexity,none"] * math.sqrt(variance / count)


def ratio_stderr(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Estimate the standard error of the ratio of two sums over documents, `R = sum(y) / sum(x)`.

    `sqrt(n / (n - 1) * sum((y - R x)^2)) / sum(x)`: documents are taken for a simple random sample from
    many more, so there is no finite-population correction. Bits per byte is such a ratio, of the
    documents' log-likelihoods and their bytes; treating it as a mean of ratios would weigh short
    documents as much as long ones.

    Parameters
    ----------
    numerators
        `y` of each document.
    denominators
        `x` of each document.

    Raises
    ------
    ValueError
        There are fewer than two documents.

    References
    ----------
    Cochran, Sampling Techniques, 3rd ed., 1977: section 2.11 and chapter 6 (ratio estimators).
    """
    n = len(numerators)
    if n < 2 or n != len(denominators):
        raise ValueError(f"a standard error of {n} numerators and {len(denominators)} denominators")
    total = math.fsum(denominators)
    ratio = math.fsum(numerators) / total
    squares = math.fsum((y - ratio * x) ** 2 for y, x in zip(numerators, denominators, strict=True))
    return math.sqrt(n / (n - 1) * squares) / total


def _columns(metric: str, value: Any) -> dict[str, Any]:
    if metric in {"bits_per_byte", "byte_perplexity", "word_perplexity"}:
        return {"loglikelihood": value[0], "words" if metric == "word_perplexity" else "bytes": value[1]}
    if metric == "acc":
        return {"correct": int(value)}
    return {"loglikelihood" if metric == "perplexity" else metric: value}


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
