"""Standard errors and per-document values."""

import math

import numpy as np
import pytest

from workbench.evaluate.document_values import (
    add_standard_errors,
    document_values,
    ratio_stderr,
)


def sample_documents(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods and bytes of documents whose lengths vary tenfold."""
    random = np.random.default_rng(0)
    sizes = random.integers(500, 5000, count)
    return -sizes * random.normal(1.2, 0.25, count), sizes


def test_ratio_stderr_equals_a_bootstrap() -> None:
    loglikelihoods, sizes = sample_documents(150)
    random = np.random.default_rng(1)
    draws = random.integers(0, 150, (20_000, 150))
    bootstrap = (loglikelihoods[draws].sum(1) / sizes[draws].sum(1)).std()
    # A bootstrap of 150 documents has a standard error of its own of about half a percent.
    assert ratio_stderr(loglikelihoods.tolist(), sizes.tolist()) == pytest.approx(bootstrap, rel=0.02)


def test_ratio_stderr_is_the_means_for_equal_sizes() -> None:
    values = [1.0, 2.0, 4.0, 7.0]
    expected = np.std(values, ddof=1) / 2 / 10
    assert ratio_stderr(values, [10.0] * 4) == pytest.approx(expected)


def test_ratio_stderr_of_one_document_is_refused() -> None:
    with pytest.raises(ValueError, match="1 numerators"):
        ratio_stderr([1.0], [2.0])


def test_standard_errors_are_filled_in() -> None:
    loglikelihoods, sizes = sample_documents(100)
    columns = {"doc_id": list(range(100)), "loglikelihood": loglikelihoods.tolist(), "bytes": sizes.tolist()}
    metrics = {"bits_per_byte,none": 1.7, "bits_per_byte_stderr,none": "N/A"}
    add_standard_errors(metrics, columns)
    expected = ratio_stderr(columns["loglikelihood"], columns["bytes"]) / math.log(2)
    assert metrics["bits_per_byte_stderr,none"] == pytest.approx(expected)


def test_perplexitys_standard_error_equals_a_bootstrap() -> None:
    random = np.random.default_rng(2)
    values = random.normal(-2.0, 1.0, 400)
    metrics = {"perplexity,none": float(np.exp(-values.mean())), "perplexity_stderr,none": "N/A"}
    add_standard_errors(metrics, {"doc_id": list(range(400)), "loglikelihood": values.tolist()})
    bootstrap = np.exp(-values[random.integers(0, 400, (10_000, 400))].mean(1)).std()
    assert metrics["perplexity_stderr,none"] == pytest.approx(bootstrap, rel=0.05)


def test_one_document_has_no_standard_error() -> None:
    metrics = {"bits_per_byte,none": 1.7, "bits_per_byte_stderr,none": "N/A"}
    add_standard_errors(metrics, {"doc_id": [0], "loglikelihood": [-3.0], "bytes": [4]})
    assert metrics["bits_per_byte_stderr,none"] == "N/A"


def test_document_values_are_columns() -> None:
    samples = [
        {"doc_id": 0, "doc": {"id": "a"}, "filter": "none", "metrics": ["bits_per_byte"], "bits_per_byte": (-5.0, 3)},
        {"doc_id": 1, "doc": {}, "filter": "none", "metrics": ["bits_per_byte"], "bits_per_byte": (-6.0, 4)},
    ]
    assert document_values(samples) == {"doc_id": ["a", 1], "loglikelihood": [-5.0, -6.0], "bytes": [3, 4]}
    asked = {"doc_id": 0, "doc": {}, "metrics": ["acc", "perplexity", "acc_norm"]}
    scores = {"acc": 1.0, "perplexity": -2.5, "acc_norm": 0.0}
    again = [asked | scores | {"filter": name} for name in ("first", "second")]
    assert document_values(again) == {"doc_id": [0], "correct": [1], "loglikelihood": [-2.5], "acc_norm": [0.0]}
