"""Token files in a row read as one array."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workbench.data.corpus.token_shards import TokenShards


def test_slices_go_across_files(tmp_path: Path):
    whole = np.arange(1000, dtype=np.uint16)
    edges = [0, 0, 3, 3, 500, 501, 1000, 1000]
    paths = [tmp_path / f"{i}.bin" for i in range(len(edges) - 1)]
    for path, begin, end in zip(paths, edges, edges[1:], strict=False):
        whole[begin:end].tofile(path)
    tokens = TokenShards(paths, np.dtype("<u2"))
    assert len(tokens) == 1000
    for begin in (0, 1, 3, 499, 501, 999, 1000):
        for end in (0, 2, 3, 500, 501, 502, 1000, 2000):
            assert (tokens[begin:end] == whole[begin:end]).all()
            assert tokens[begin:end].dtype == np.uint16
