"""Exact duplicates: all but the first in the order of (shard, row), however many buckets there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from workbench.data.corpus import exact_duplicates
from workbench.data.corpus.exact_duplicates import drop_exact_duplicates


@pytest.mark.parametrize("bucket", [10, 100, 10**6])
def test_all_but_the_first_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: int):
    monkeypatch.setattr(exact_duplicates, "_BUCKET_ENTRIES", bucket)
    draw = np.random.default_rng(0)
    pool = draw.integers(0, 2**64, (300, 2), np.uint64)
    pool[1::3, 0] = pool[::3, 0]  # halves alone are equal
    shards = [pool[draw.integers(0, len(pool), n)] for n in (200, 0, 1, 300)]
    paths = [tmp_path / f"{i}.npy" for i in range(len(shards))]
    for path, shard in zip(paths, shards, strict=True):
        np.save(path, shard)
    seen: set[tuple[int, ...]] = set()
    expected = []
    for shard in shards:
        rows = []
        for row, pair in enumerate(map(tuple, shard.tolist())):
            rows += [row] if pair in seen else []
            seen.add(pair)
        expected.append(rows)
    found = [rows.tolist() for rows in drop_exact_duplicates(paths, tmp_path / "work")]
    assert found == expected
    assert sum(map(len, found)) > 200
    assert not (tmp_path / "work").exists()
