import math

import numpy as np
import pandas as pd
import pytest

from analysis.load import load_documents
from analysis.paired import compare_sizes, find_crossings, paired_difference

SIZES = {"small": 10_000, "large": 100_000}


def scored(bits, size, *, model="small", tokens=1000, seed=0, annealed=True):
    return pd.DataFrame(
        {
            "stage": f"{model}-{tokens}-{seed}",
            "model": model,
            "params_non_embedding": SIZES[model],
            "tokens": tokens,
            "annealed": annealed,
            "seed_init": seed,
            "seed_data": seed,
            "eval_id": "e",
            "doc_id": range(len(size)),
            "loglikelihood": -np.asarray(bits) * math.log(2) * size,
            "bytes": size,
        }
    )


@pytest.fixture
def sizes():
    return np.random.default_rng(0).integers(100, 3000, 200).astype(float)


def test_difference_is_that_of_the_ratios(sizes):
    rng = np.random.default_rng(1)
    a, b = 2 + rng.normal(0, 0.5, 200), 2.1 + rng.normal(0, 0.5, 200)
    found = paired_difference(scored(a, sizes), scored(b, sizes).sample(frac=1, random_state=0))
    assert found.value == pytest.approx((a * sizes).sum() / sizes.sum() - (b * sizes).sum() / sizes.sum())
    assert found.documents == 200


def test_standard_error_is_the_spread_over_draws(sizes):
    """Over 2,000 draws of documents, the difference spreads as its standard error says."""
    rng = np.random.default_rng(2)
    hardness, gap = rng.normal(2, 0.6, 200), rng.normal(0.05, 0.1, 200)
    values, errors = [], []
    for _ in range(2000):
        pick = rng.integers(0, 200, 150)
        a, size = hardness[pick], sizes[pick]
        found = paired_difference(scored(a + gap[pick], size), scored(a, size))
        values.append(found.value)
        errors.append(found.stderr)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.06)


def test_pairing_finds_what_two_bars_hide(sizes):
    rng = np.random.default_rng(3)
    hardness = 2 + rng.normal(0, 0.6, 200)
    found = paired_difference(scored(hardness + 0.02 + rng.normal(0, 0.02, 200), sizes), scored(hardness, sizes))
    assert found.z > 5
    assert found.value < 0.6 / math.sqrt(200)


def test_different_documents_are_refused(sizes):
    a = scored(np.full(200, 2.0), sizes)
    with pytest.raises(ValueError, match=r"different documents \(200 and 199\)"):
        paired_difference(a, a.iloc[1:])
    with pytest.raises(ValueError, match="different lengths"):
        paired_difference(a, a.assign(bytes=a["bytes"] + 1))
    with pytest.raises(ValueError, match="evaluations differ"):
        paired_difference(a, a.assign(eval_id="f"))


def crossing_documents(sizes, gaps, seeds=(0,)):
    """The larger model minus the smaller is `gaps[tokens]` bits per byte, on shared hard documents."""
    rng = np.random.default_rng(4)
    hardness = 2 + rng.normal(0, 0.5, len(sizes))
    parts = []
    for tokens, gap in gaps.items():
        for seed in seeds:
            for model, shift in (("small", 0.0), ("large", gap)):
                bits = hardness + shift + rng.normal(0, 0.05, len(sizes))
                parts.append(scored(bits, sizes, model=model, tokens=tokens, seed=seed))
                parts.append(scored(bits + 1 - 5 * shift, sizes, model=model, tokens=tokens, annealed=False))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_crossing_is_found(sizes, seeds):
    documents = crossing_documents(sizes, {1000: 0.05, 2000: 0.0, 4000: -0.05}, seeds)
    (crossing,) = find_crossings(documents)
    assert (crossing.smaller, crossing.larger) == ("small", "large")
    assert (crossing.smaller_better, crossing.larger_better) == ((1000,), (4000,))
    table = compare_sizes(documents)
    assert list(table["tokens"]) == [1000, 2000, 4000]
    assert list(table["seeds"]) == [len(seeds)] * 3
    assert table["better"].tolist()[::2] == ["small", "large"]


def test_noise_is_no_crossing(sizes):
    assert find_crossings(crossing_documents(sizes, {1000: 0.001, 2000: -0.05})) == []


def test_accuracy_counts_upward():
    rows = []
    for model, right in (("small", 30), ("large", 60)):
        base = scored(np.ones(100), np.ones(100), model=model).drop(columns="bytes")
        rows.append(base.assign(correct=(np.arange(100) < right).astype(int)))
    table = compare_sizes(pd.concat(rows))
    assert table["better"].tolist() == ["large"]
    assert table["difference"].tolist() == [pytest.approx(-0.3)]
    assert table["stderr"].tolist() == [pytest.approx(np.std(np.r_[np.ones(30), np.zeros(70)], ddof=1) / 10)]


def test_published_documents_can_be_compared(published):
    made, uri = published
    table = compare_sizes(load_documents(made.study, "heldout/prose/bits_per_byte", uri))
    assert len(table) == 6 * 4
    assert (table["better"] == table["larger"]).all()


def test_documents_that_all_differ_by_the_same_decide_nothing():
    """Two documents of two answered right by one model alone were infinitely many standard errors."""

    def answered(model, correct):
        size = np.ones(len(correct))
        rows = scored(np.zeros(len(correct)), size, model=model).drop(columns=["bytes", "loglikelihood"])
        return rows.assign(correct=correct)

    found = paired_difference(answered("small", [1, 1]), answered("large", [0, 0]))
    assert (found.value, found.stderr) == (1, 0)
    assert math.isnan(found.z)
    (row,) = compare_sizes(pd.concat([answered("small", [1, 1]), answered("large", [0, 0])])).to_dict("records")
    assert math.isnan(row["z"])
    assert row["better"] is None
    assert paired_difference(answered("small", [1, 0]), answered("large", [1, 0])).z == 0
