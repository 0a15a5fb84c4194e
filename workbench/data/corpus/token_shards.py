"""Token files in a row, read as one array: opened when they are asked for, never put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_OPEN = 64


class TokenShards:
    """The tokens of a source: `len`, and slices across the borders of files."""

    def __init__(self, paths: Sequence[Path], dtype: np.dtype[Any]) -> None:
        """Know the files' sizes.

        Parameters
        ----------
        paths
            Files of token ids, in order.
        dtype
            Of every token.
        """
        self.dtype = np.dtype(dtype)
        self._paths = list(paths)
        sizes = [path.stat().st_size // self.dtype.itemsize for path in self._paths]
        self._begins = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._open: dict[int, NDArray[Any]] = {}

    def __len__(self) -> int:
        """Tokens of all files."""
        return int(self._begins[-1])

    @property
    def shape(self) -> tuple[int]:
        """(tokens,)."""
        return (len(self),)

    def __getitem__(self, which: slice) -> NDArray[Any]:
        """Tokens of a slice without a step."""
        begin, end, step = which.indices(len(self))
        if step != 1:
            raise IndexError(f"a slice of token files has no step, not {step}")
        parts: list[NDArray[Any]] = []
        shard = int(np.searchsorted(self._begins, begin, "right")) - 1
        while begin < end:
            first, behind = int(self._begins[shard]), int(self._begins[shard + 1])
            if behind > begin:
                parts.append(self._array(shard)[begin - first : min(end, behind) - first])
                begin = min(end, behind)
            shard += 1
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, self.dtype), *parts])

    def _array(self, shard: int) -> NDArray[Any]:
        if shard not in self._open:
            while len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[shard] = np.memmap(self._paths[shard], self.dtype, "r")
        return self._open[shard]
