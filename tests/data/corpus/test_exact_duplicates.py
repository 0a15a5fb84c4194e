"""Exact duplicates: those of a set in memory, whatever the buckets."""

import numpy as np
import pytest

from workbench.data.corpus.document_files import hashes_of, make_key
from workbench.data.corpus.exact_duplicates import bucket_count, drop_in_bucket, kept_numbers, rows_to_drop


@pytest.fixture
def shards() -> list[list[str]]:
    draw = np.random.default_rng(0)
    return [[f"text {k}" for k in draw.integers(400, size=size)] for size in (300, 0, 1, 500)]


def _drop(shards, buckets, folder):
    files = []
    for shard, texts in enumerate(shards):
        files.append(folder / f"{shard}.npy")
        np.save(files[-1], hashes_of([make_key(text) for text in texts]))
    found = [
        drop_in_bucket(bucket, buckets, files, folder / f"{buckets}-{bucket}.npy")
        for bucket in reversed(range(buckets))
    ]
    return [rows_to_drop(shard, found).tolist() for shard in range(len(shards))]


@pytest.mark.parametrize("buckets", [1, 4])
def test_every_copy_names_the_one_that_stays(shards, buckets, tmp_path):
    _drop(shards, buckets, tmp_path)
    begins = np.cumsum([0, *map(len, shards)])
    texts = [text for each in shards for text in each]
    expected = sorted(texts.index(text) for i, text in enumerate(texts) if texts.index(text) < i)
    found = [tmp_path / f"{buckets}-{bucket}.npy" for bucket in range(buckets)]
    assert kept_numbers(begins, found).tolist() == expected
    for file in found:
        for shard, row, kept, kept_row in np.load(file).tolist():
            assert shards[shard][row] == shards[kept][kept_row]


@pytest.mark.parametrize("buckets", [1, 2, 64])
def test_the_first_of_equal_texts_stays(shards, buckets, tmp_path):
    seen, expected = set(), []
    for texts in shards:
        expected.append([])
        for row, text in enumerate(texts):
            if text in seen:
                expected[-1].append(row)
            seen.add(text)
    assert sum(map(len, expected)) > 300
    assert _drop(shards, buckets, tmp_path) == expected


def test_hashes_that_share_one_half_are_different(tmp_path):
    file = tmp_path / "hashes.npy"
    np.save(file, np.array([[1, 2], [1, 3], [2, 2], [1, 2]], np.uint64))
    assert rows_to_drop(0, [drop_in_bucket(0, 1, [file], tmp_path / "drop.npy")]).tolist() == [3]


def test_space_is_no_difference_and_no_other_is_forgiven():
    one, same, other = hashes_of([make_key(text) for text in ("a  b\n", " a b", "a B")])
    assert (one == same).all()
    assert (one != other).any()


def test_buckets_are_the_fewest_that_fit():
    budget = 1 << 30
    assert bucket_count(0, budget) == 1
    for total in (1, 10**6, 10**7, 10**9):
        buckets = bucket_count(total, budget)
        assert total * 96 <= buckets * budget
        assert buckets == 1 or total * 96 > buckets // 2 * budget


def test_a_budget_or_bucket_that_cannot_be_is_said(tmp_path):
    with pytest.raises(ValueError, match="budget_bytes=1: give"):
        bucket_count(10, 1)
    np.save(tmp_path / "h.npy", np.zeros((1, 2), np.uint64))
    with pytest.raises(ValueError, match="bucket=3 of 3: take a power of two"):
        drop_in_bucket(3, 3, [tmp_path / "h.npy"], tmp_path / "o.npy")
