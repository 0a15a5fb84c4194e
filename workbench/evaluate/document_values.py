"""Values computed from lm-eval's samples: per document, and the standard errors that lm-eval leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_BITS = "bits_per_byte,none"
"""Key of lm-eval's results."""


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
        (nats) and `bytes`, `correct` (0 or 1), and any other metric under its own name. What a part of a text measures
        has its name before it, as `0064-0127/bytes`, and is None for a document without that part.
    """
    rows: list[dict[str, Any]] = []
    # A task with several filters has a sample for each; the first filter's represent the document.
    for sample in (s for s in samples if s["filter"] == samples[0]["filter"]):
        document = sample["doc"]
        known = document.get("id") if isinstance(document, dict) else None
        row: dict[str, Any] = {"doc_id": sample["doc_id"] if known is None else known}
        for metric in sample["metrics"]:
            row |= _columns(metric, sample[metric])
        rows.append(row)
    names = dict.fromkeys(["doc_id", *(name for row in rows for name in row)])
    return {name: [row.get(name) for row in rows] for name in names}


def add_standard_errors(metrics: dict[str, Any], documents: dict[str, list[Any]]) -> None:
    """Fill in the standard errors that lm-eval leaves as "N/A" but that follow from per-document values.

    `bits_per_byte_stderr,none` by `ratio_stderr`. `perplexity_stderr,none` by the delta method:
    perplexity times the standard error of the mean log-likelihood.
    """
    count = len(documents["doc_id"])
    for part in [key.removesuffix(_BITS) for key in metrics if key == _BITS or key.endswith(f"/{_BITS}")]:
        sums = zip(documents[f"{part}loglikelihood"], documents[f"{part}bytes"], strict=True)
        known = [pair for pair in sums if pair[0] is not None]
        if len(known) > 1:
            numerators, denominators = zip(*known, strict=True)
            metrics[f"{part}bits_per_byte_stderr,none"] = ratio_stderr(numerators, denominators) / math.log(2)
    if metrics.get("perplexity_stderr,none") == "N/A" and count > 1:
        values = documents["loglikelihood"]
        mean = sum(values) / count
        variance = sum((value - mean) ** 2 for value in values) / (count - 1)
        metrics["perplexity_stderr,none"] = metrics["perplexity,none"] * math.sqrt(variance / count)


def ratio_stderr(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Estimate the standard error of the ratio of two sums over documents, `R = sum(y) / sum(x)`.

    `sqrt(n / (n - 1) * sum((y - R x)^2)) / sum(x)`: documents are treated as a simple random sample from
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
    part, _, name = metric.rpartition("/")
    if part and name == "bits_per_byte":
        return {f"{part}/loglikelihood": value[0], f"{part}/bytes": value[1]}
    if metric in {"bits_per_byte", "byte_perplexity", "word_perplexity"}:
        return {"loglikelihood": value[0], "words" if metric == "word_perplexity" else "bytes": value[1]}
    if metric == "acc":
        return {"correct": int(value)}
    return {"loglikelihood" if metric == "perplexity" else metric: value}
