"""The documents of a shard on disk, between the steps: texts as Arrow, packed, and facts about them as arrays.

read/<shard>/documents.arrow    columns `text` and `key` (SHA-256 of the text with white space folded), in batches
read/<shard>/hashes.npy         uint64 (documents, 2): the first 16 bytes of each key, big endian
read/<shard>/bytes.npy          int64 (documents,): UTF-8 bytes of each text
read/<shard>/batches.npy        int64 (batches + 1,): first row of each batch
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
"""(documents, 2)."""


def make_key(text: str) -> bytes:
    """SHA-256 of a text with white space folded: equal for documents that are equal but for white space."""
    return hashlib.sha256(" ".join(text.split()).encode()).digest()


def hashes_of(keys: Sequence[bytes]) -> Hashes:
    """Give the first 128 bits of keys, as two numbers each, which are ordered as the keys are."""
    raw = np.frombuffer(b"".join(key[:16] for key in keys), ">u8")
    return raw.astype(np.uint64).reshape(-1, 2)


class DocumentWriter:
    """Writes the documents of a shard, batch by batch."""

    def __init__(self, folder: Path) -> None:
        """Begin in a folder, which is made."""
        import pyarrow
        import pyarrow.ipc

        folder.mkdir(parents=True)
        self._folder = folder
        self._schema = pyarrow.schema([("text", pyarrow.large_string()), ("key", pyarrow.binary(32))])
        options = pyarrow.ipc.IpcWriteOptions(compression=pyarrow.Codec("zstd", 1), use_threads=False)
        self._file: Any = pyarrow.OSFile(str(folder / "documents.arrow"), "wb")
        self._writer: Any = pyarrow.ipc.new_file(self._file, self._schema, options=options)
        self._keys: list[Hashes] = []
        self._bytes: list[NDArray[np.int64]] = []
        self._batches = [0]

    def write(self, texts: list[str], keys: list[bytes]) -> NDArray[np.int64]:
        """Write a batch and give the bytes of its texts, (texts,)."""
        import pyarrow

        if not texts:
            return np.empty(0, np.int64)
        column = pyarrow.array(texts, pyarrow.large_string())
        self._writer.write_batch(
            pyarrow.record_batch([column, pyarrow.array(keys, pyarrow.binary(32))], schema=self._schema)
        )
        sizes = np.diff(np.frombuffer(column.buffers()[1], np.int64, len(texts) + 1))  # where each text begins
        self._keys.append(hashes_of(keys))
        self._bytes.append(sizes)
        self._batches.append(self._batches[-1] + len(texts))
        return sizes

    def close(self) -> None:
        """End the files."""
        self._writer.close()
        self._file.close()
        np.save(self._folder / "hashes.npy", np.concatenate([np.empty((0, 2), np.uint64), *self._keys]))
        np.save(self._folder / "bytes.npy", np.concatenate([np.empty(0, np.int64), *self._bytes]))
        np.save(self._folder / "batches.npy", np.array(self._batches, np.int64))


def read_batches(folder: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the first row and the texts of every batch of a shard."""
    import pyarrow
    import pyarrow.ipc

    first = 0
    with pyarrow.memory_map(str(folder / "documents.arrow")) as file:
        options = pyarrow.ipc.IpcReadOptions(use_threads=False, included_fields=[0])
        reader = pyarrow.ipc.open_file(file, options=options)
        for i in range(reader.num_record_batches):
            texts = reader.get_batch(i).column(0).to_pylist()
            yield first, texts
            first += len(texts)


def read_rows(folder: Path, rows: Sequence[int]) -> dict[int, tuple[bytes, str]]:
    """Keys and texts of a few rows of a shard; only their batches are read."""
    import pyarrow
    import pyarrow.ipc

    batches = np.load(folder / "batches.npy")
    found: dict[int, tuple[bytes, str]] = {}
    places = np.searchsorted(batches, np.array(rows, np.int64), "right") - 1
    with pyarrow.memory_map(str(folder / "documents.arrow")) as file:
        reader = pyarrow.ipc.open_file(file, options=pyarrow.ipc.IpcReadOptions(use_threads=False))
        for place in np.unique(places).tolist():
            batch = reader.get_batch(place)
            for row in (r for r, p in zip(rows, places.tolist(), strict=True) if p == place):
                i = row - int(batches[place])
                found[row] = batch.column(1)[i].as_py(), batch.column(0)[i].as_py()
    return found
