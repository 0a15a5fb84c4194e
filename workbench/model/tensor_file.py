"""Tensors as a safetensors file, hashed as its bytes are written: nothing is read again, and no copy is held.

The file is byte for byte what `safetensors.torch.save_file` writes where `in_library_order` orders the tensors.

References
----------
https://huggingface.co/docs/safetensors/index#format: eight bytes of the header's length (little-endian), a JSON header
with dtype, shape and place of each tensor, padded with spaces to a multiple of eight, and the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK_BYTES = 1 << 20
"""Written from the processor's cache, where hashing has brought them."""

FileFacts = dict[str, Any]
"""`sha256` (64 hex digits) and `bytes` of a file, as a checkpoint's manifest has them."""


class HashedFile:
    """A new file that hashes what is written to it.

    Raises
    ------
    OSError
        From opening, writing and closing, such as for a full disk.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes; a number of them, as files do."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _CHUNK_BYTES):
            chunk = view[start : start + _CHUNK_BYTES]
            self._hash.update(chunk)
            while chunk:  # an unbuffered file may take a part
                chunk = chunk[self._file.write(chunk) :]
        self._bytes += len(view)
        return len(view)

    def write_tensor(self, tensor: Tensor) -> None:
        """Append a tensor's elements in the order of its rows; one on a GPU is copied to the CPU alone."""
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        self.write(flat.view(torch.uint8).numpy().data)

    @property
    def facts(self) -> FileFacts:
        """Of what has been written so far."""
        return {"sha256": self._hash.hexdigest(), "bytes": self._bytes}

    def tell(self) -> int:
        """Bytes written so far."""
        return self._bytes

    def flush(self) -> None:
        """Nothing is held back."""

    def fileno(self) -> int:
        """Descriptor, for `fsync`."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def header(tensors: Iterable[tuple[str, torch.dtype, Sequence[int]]], metadata: Mapping[str, str] | None) -> bytes:
    """Encode the header of a file whose tensors follow in the order given.

    Parameters
    ----------
    tensors
        Name, dtype and shape of each.
    metadata
        The file's own facts; None writes none.
    """
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for name, dtype, shape in tensors:
        end = offset + dtype.itemsize * torch.Size(shape).numel()
        entries[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def in_library_order(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Order tensors as the library does: the widest dtypes first, so that all are aligned, then by name."""
    return sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> FileFacts:
    """Write a safetensors file, one tensor at a time, and give its checksum and size; neither atomic nor synced.

    Parameters
    ----------
    path
        The file; replaced where it exists.
    tensors
        By name; on any device, contiguous or not.
    metadata
        Strings to keep in the header.

    Raises
    ------
    KeyError
        A dtype that no file of this project holds.
    OSError
        As `HashedFile`.
    """
    ordered = in_library_order(tensors)
    with HashedFile(path) as file:
        file.write(header(((name, tensor.dtype, tensor.shape) for name, tensor in ordered), metadata))
        for _, tensor in ordered:
            file.write_tensor(tensor)
        return file.facts
