"""The index finds what it holds, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from workbench.data.corpus.ngram_index import NgramIndex


@pytest.mark.parametrize("size", [0, 1, 3, 1000, 100_000])
def test_what_is_in_the_index_is_found_and_nothing_else(size: int, tmp_path: Path):
    draw = np.random.default_rng(size)
    hashes = draw.integers(0, 2**64, size, np.uint64)
    made = NgramIndex.of(hashes, np.arange(size))
    made.save(tmp_path / "index")
    asked = np.concatenate([draw.integers(0, 2**64, 70_000, np.uint64), hashes])
    draw.shuffle(asked)
    expected = np.flatnonzero(np.isin(asked, hashes))
    for index in (made, NgramIndex.load(tmp_path / "index")):
        places, rows = index.find(asked)
        np.testing.assert_array_equal(places, expected)
        np.testing.assert_array_equal(index.hashes[rows], asked[places])
        assert len(index) == size


def test_the_smallest_and_the_largest_hash_are_found():
    index = NgramIndex.of(np.array([0, 2**64 - 1], np.uint64), np.array([0, 1]))
    places, rows = index.find(np.array([2**64 - 1, 5, 2**64 - 2, 0, 2**63], np.uint64))
    assert places.tolist() == [0, 3]
    assert rows.tolist() == [1, 0]


def test_owners_of_a_hash_are_ascending_and_each_once():
    hashes = np.array([7, 3, 7, 7, 9, 3], np.uint64)
    index = NgramIndex.of(hashes, np.array([5, 1, 2, 5, 4, 0]))
    assert index.hashes.tolist() == [3, 7, 9]
    places, owners = index.owners_of(np.array([1, 2, 0, 1]))
    assert list(zip(places.tolist(), owners.tolist(), strict=True)) == [
        (0, 2), (0, 5), (1, 4), (2, 0), (2, 1), (3, 2), (3, 5),
    ]  # fmt: skip


def test_the_order_of_pairs_makes_no_difference():
    draw = np.random.default_rng(0)
    hashes, owners = draw.integers(0, 50, 400).astype(np.uint64), draw.integers(0, 9, 400)
    order = draw.permutation(400)
    one, two = NgramIndex.of(hashes, owners), NgramIndex.of(hashes[order], owners[order])
    for name in ("hashes", "bits", "first", "owners"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_few_hashes_pass_the_bits_that_are_not_in_the_index():
    draw = np.random.default_rng(1)
    index = NgramIndex.of(draw.integers(0, 2**64, 50_000, np.uint64), np.zeros(50_000, np.int64))
    assert len(index.bits) <= 4 * 50_000
    assert len(index._candidates(draw.integers(0, 2**64, 100_000, np.uint64))) < 100_000 / 16 * 1.1
