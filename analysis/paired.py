"""Differences between checkpoints scored on the same documents, paired document by document.

A document that is hard for one checkpoint is hard for the other, so their difference is known far better than
either score: comparing two error bars would waste that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.columns import require_numbers, truths
from analysis.style import count_label

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Score of the first checkpoint minus the second's, in the metric's unit."""

    value: float
    """The difference: bits per byte, or accuracy."""
    stderr: float
    """Its standard error over documents."""
    documents: int
    """Documents both were scored on."""

    @property
    def z(self) -> float:
        """Difference in standard errors; NaN where all documents differ by the same, which leaves the error unknown."""
        if self.value == 0:
            return 0.0
        return self.value / self.stderr if self.stderr > 0 else math.nan


@dataclass(frozen=True)
class Crossing:
    """Two sizes, each better than the other at some budget, beyond the noise."""

    smaller: str
    """Model with fewer parameters."""
    larger: str
    """Model with more."""
    smaller_better: tuple[int, ...]
    """Budgets, in tokens, at which the smaller is better."""
    larger_better: tuple[int, ...]
    """Budgets, in tokens, at which the larger is better."""

    def __str__(self) -> str:
        first, second = (", ".join(map(count_label, budgets)) for budgets in (self.smaller_better, self.larger_better))
        return f"{self.smaller} is better at {first} tokens, {self.larger} at {second} (beyond two standard errors)"


def paired_difference(first: pd.DataFrame, second: pd.DataFrame) -> Difference:
    """Difference of two checkpoints' scores, first minus second.

    Bits per byte are a ratio of sums, so their difference is R = sum d_i / sum b_i with d_i the difference of
    document i's bits and b_i its bytes, and its variance n/(n-1) sum (d_i - R b_i)^2 / (sum b_i)^2.
    Accuracy is the case b_i = 1.

    Parameters
    ----------
    first, second
        Rows of `analysis.load.load_documents` of one checkpoint each: doc_id, with bytes and loglikelihood
        (nats) for bits per byte, or else correct for accuracy.

    Raises
    ------
    ValueError
        The two were not scored on the same documents, or on fewer than two.

    References
    ----------
    Cochran 1977, "Sampling Techniques", eq. 6.4 (ratio estimator).
    """
    amounts, weights = _document_differences(first, second)
    return _ratio(amounts, weights)


def compare_sizes(documents: pd.DataFrame) -> pd.DataFrame:
    """Every pair of sizes at every budget at which both were cooled down.

    Parameters
    ----------
    documents
        As `analysis.load.load_documents` gives them; rows that are not annealed are left out. Several seeds
        of one size are averaged document by document, over the seeds that both have.

    Returns
    -------
    DataFrame
        Columns smaller, larger, tokens, difference (smaller minus larger), stderr, z, documents, seeds, and
        better: the model that is better beyond two standard errors, missing where neither is.

    Raises
    ------
    ValueError
        The frame holds several cooled-down checkpoints of one model, budget and seed, a size or budget that is not a
        number, or an `annealed` that is neither true nor false.
    """
    annealed = documents.loc[truths(documents, "annealed")]
    require_numbers(annealed, ("params_non_embedding", "tokens"))
    sizes = set(zip(annealed["params_non_embedding"].tolist(), annealed["model"].tolist(), strict=True))
    models = [str(model) for _, model in sorted(sizes)]
    cells = _cells(annealed)
    rows: list[dict[str, object]] = []
    for position, smaller in enumerate(models):
        for larger in models[position + 1 :]:
            for tokens in sorted({tokens for model, tokens, _ in cells if model == smaller}):
                seeds = [s for m, t, s in cells if (m, t) == (smaller, tokens) and (larger, tokens, s) in cells]
                if not seeds:
                    continue
                pairs = [
                    _document_differences(cells[smaller, tokens, seed], cells[larger, tokens, seed]) for seed in seeds
                ]
                found = _ratio(np.mean([amounts for amounts, _ in pairs], axis=0), pairs[0][1])
                rows.append(
                    {
                        "smaller": smaller,
                        "larger": larger,
                        "tokens": tokens,
                        "difference": found.value,
                        "stderr": found.stderr,
                        "z": found.z,
                        "documents": found.documents,
                        "seeds": len(seeds),
                        "better": _better(found, smaller, larger, "bytes" in documents.columns),
                    }
                )
    columns = ["smaller", "larger", "tokens", "difference", "stderr", "z", "documents", "seeds", "better"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def find_crossings(documents: pd.DataFrame) -> list[Crossing]:
    """Pairs of sizes of which each is better at some budget, beyond two standard errors paired by document.

    Parameters
    ----------
    documents
        As in `compare_sizes`.

    Returns
    -------
    list of Crossing
        Empty where no two sizes cross.

    Raises
    ------
    ValueError
        As in `compare_sizes`.
    """
    crossings: list[Crossing] = []
    rows = compare_sizes(documents).to_dict("records")
    for smaller, larger in dict.fromkeys((row["smaller"], row["larger"]) for row in rows):
        pair = [row for row in rows if (row["smaller"], row["larger"]) == (smaller, larger)]
        first, second = (
            tuple(int(row["tokens"]) for row in pair if row["better"] == model) for model in (smaller, larger)
        )
        if first and second:
            crossings.append(Crossing(smaller, larger, first, second))
    return crossings


def _better(found: Difference, smaller: str, larger: str, lower_is_better: bool) -> str | None:
    if not abs(found.z) > 2:
        return None
    return smaller if (found.value < 0) == lower_is_better else larger


def _cells(annealed: pd.DataFrame) -> dict[tuple[str, int, tuple[int, int]], pd.DataFrame]:
    """Documents of each (model, tokens, seeds)."""
    cells: dict[tuple[str, int, tuple[int, int]], pd.DataFrame] = {}
    for key, rows in annealed.groupby(["model", "tokens", "seed_init", "seed_data"]):
        model, tokens, init, data = cast("tuple[str, int, int, int]", key)
        stages = sorted(set(rows["stage"]))
        if len(stages) > 1:
            raise ValueError(
                f"{model} at {tokens} tokens, seeds {init} and {data}, has {len(stages)} variants: {stages}"
            )
        cells[model, tokens, (init, data)] = rows
    return cells


def _document_differences(first: pd.DataFrame, second: pd.DataFrame) -> tuple[Array, Array]:
    """Amount (bits, or right answers) and weight (bytes, or one) of each document."""
    a, b = first.set_index("doc_id"), second.set_index("doc_id")
    if set(a.index) != set(b.index) or not a.index.is_unique or not b.index.is_unique:
        raise ValueError(f"the two checkpoints were scored on different documents ({len(a)} and {len(b)})")
    if set(first["eval_id"]) != set(second["eval_id"]):
        raise ValueError(f"evaluations differ: {sorted({*first['eval_id'], *second['eval_id']})}")
    if len(a) < 2:
        raise ValueError(f"{len(a)} document: a standard error needs two")
    b = b.loc[a.index]
    if "bytes" in a.columns:
        weights = a["bytes"].to_numpy(dtype=np.float64)
        if not np.array_equal(weights, b["bytes"].to_numpy(dtype=np.float64)):
            raise ValueError("the two checkpoints were scored on documents of different lengths")
        nats = b["loglikelihood"].to_numpy(dtype=np.float64) - a["loglikelihood"].to_numpy(dtype=np.float64)
        return nats / math.log(2), weights
    amounts = a["correct"].to_numpy(dtype=np.float64) - b["correct"].to_numpy(dtype=np.float64)
    return amounts, np.ones_like(amounts)


def _ratio(amounts: Array, weights: Array) -> Difference:
    n, total = len(amounts), float(weights.sum())
    ratio = float(amounts.sum()) / total
    variance = n / (n - 1) * float(((amounts - ratio * weights) ** 2).sum()) / total**2
    return Difference(ratio, math.sqrt(variance), n)
