"""Token files that others made, read as they are: Megatron's indexed data sets, arrays of numpy, and flat files.

| format | known by | tokens |
|---|---|---|
| `megatron` | an index `<name>.idx` beside `<name>.bin`, `MMIDIDX`, version 1 | of the index's type; documents known |
| `npy` | numpy's magic bytes | one dimension of integers |
| `header` | 256 int32, of which the first is 20240520 (uint16 follow) or 20240801 (uint32) | as many as the third says |
| `flat` | nothing: `token_dtype` must say it | the whole file; OLMo's files, `.npy` by name, are of this kind |

References
----------
NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py (the index's layout and type codes); karpathy/llm.c,
dev/data/data_common.py (the header); allenai/OLMo, olmo/data/memmap_dataset.py (flat files).
"""

from __future__ import annotations

import glob
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.config.schema import SourceConfig
from workbench.data.corpus.megatron_index import read_index
from workbench.data.corpus.token_shards import TokenShards
from workbench.data.inputs import find_inputs

NPY_MAGIC = b"\x93NUMPY"
HEADERS = {20240520: (1, "uint16"), 20240801: (7, "uint32")}
"""Version and type of the tokens by magic number."""
HEADER_BYTES = 1024
FLAT_DTYPES = ("uint16", "uint32")
_READ = 1 << 22
_SAMPLES, _SAMPLE = 64, 4096


@dataclass(frozen=True)
class TokenFile:
    """What a token file says of itself."""

    path: Path
    """The file with the tokens."""
    format: str
    """`megatron`, `npy`, `header` or `flat`."""
    dtype: str
    """Of every token."""
    tokens: int
    """How many there are."""
    offset_bytes: int
    """Where they begin."""
    documents: int | None
    """How many there are; None where the format does not say."""


def describe(path: Path, token_dtype: str | None = None) -> TokenFile:
    """Facts of a token file, by its content.

    Parameters
    ----------
    path
        The file; of Megatron's, `.bin` or `.idx`.
    token_dtype
        `uint16` or `uint32`: needed for a flat file, and checked where the file itself says it.

    Raises
    ------
    ValueError
        The file is missing, is cut, contradicts itself or `token_dtype`, holds no integers, or is flat without a dtype.
    """
    if token_dtype is not None and token_dtype not in FLAT_DTYPES:
        raise ValueError(f"token_dtype={token_dtype!r}: choose from {', '.join(FLAT_DTYPES)}")
    index = path.with_suffix(".idx")
    if path.suffix in (".bin", ".idx") and index.is_file():
        facts = _megatron(index)
    elif not path.is_file():
        raise ValueError(f"token file {str(path)!r} is not there")
    else:
        facts = _by_first_bytes(path, token_dtype)
    if token_dtype is not None and np.dtype(token_dtype) != facts.dtype:
        raise ValueError(f"{path} has tokens of {facts.dtype}, not of token_dtype={token_dtype!r}: leave it out")
    if np.dtype(facts.dtype).kind not in "ui":
        raise ValueError(f"{path} has numbers of {facts.dtype}, and tokens are integers")
    if not facts.tokens:
        raise ValueError(f"{path} has no tokens")
    return facts


def find_token_files(path: str) -> list[Path]:
    """Files of a path, sorted by name: itself, all token files in a folder, or what a glob finds.

    Raises
    ------
    ValueError
        There are none.
    """
    place = Path(path)
    if place.is_file() or (place.suffix == ".bin" and place.with_suffix(".idx").is_file()):
        return [place]
    found = place.rglob("*") if place.is_dir() else map(Path, glob.glob(path, recursive=True))  # noqa: PTH207  (a whole path)
    files = sorted(f for f in found if f.is_file() and f.suffix in (".bin", ".npy") and not _is_offsets(f))
    if not files:
        raise ValueError(f"path={path!r}: no token files there (.bin, .npy, or .bin with .idx)")
    return files


def identifying_files(source: SourceConfig) -> list[Path]:
    """Files whose contents make the tokens of a source: its token files, and Megatron's index behind each of its.

    Raises
    ------
    ValueError
        There are none.
    """
    files: list[Path] = []
    for path in _source_files(source):
        index = path.with_suffix(".idx")
        files += [path, index] if path.suffix == ".bin" and index.is_file() else [path]
    return files


def given_heldout(source: SourceConfig) -> Path:
    """File of a source's `heldout_path`.

    Raises
    ------
    ValueError
        It is not there.
    """
    assert source.heldout_path is not None
    path = Path(source.heldout_path).expanduser()
    if not path.is_file():
        raise ValueError(f"data source heldout_path={source.heldout_path!r} is not there")
    return path


def describe_source_files(source: SourceConfig) -> list[TokenFile]:
    """Facts of all token files of a source, in the order in which they are read.

    Raises
    ------
    ValueError
        As `describe`; there are none, or two have tokens of different types.
    """
    files = [describe(path, source.token_dtype) for path in _source_files(source)]
    _refuse_mixed(files)
    return files


def _source_files(source: SourceConfig) -> list[Path]:
    """Token files at a source's path; an index stands for the file beside it."""
    named = (path for path in find_inputs(source).paths if not _is_offsets(path))
    files = list(dict.fromkeys(path.with_suffix(".bin") if path.suffix == ".idx" else path for path in named))
    if not files:
        raise ValueError(f"data source path={source.path!r}: there are no token files but places of documents")
    return files


def _refuse_mixed(files: list[TokenFile]) -> None:
    for file in files:
        if file.dtype != files[0].dtype:
            raise ValueError(f"{file.path} has tokens of {file.dtype}, {files[0].path.name} of {files[0].dtype}")


def open_token_files(path: str, token_dtype: str | None = None, *, reading: str = "memory_map") -> TokenShards:
    """Open all token files of a path as one array, in the order of their names.

    Raises
    ------
    ValueError
        See `describe`, `find_token_files`, `workbench.data.corpus.token_shards.TokenShards`; or two files have tokens
        of different types.
    """
    files = [describe(file, token_dtype) for file in find_token_files(path)]
    _refuse_mixed(files)
    paths, offsets = [file.path for file in files], [file.offset_bytes for file in files]
    counts = [file.tokens for file in files]
    return TokenShards(paths, np.dtype(files[0].dtype), counts, offset_bytes=offsets, reading=reading)


def check_ids(tokens: TokenShards, vocab_size: int, *, whole: bool, span: tuple[int, int] | None = None) -> None:
    """Refuse ids that a vocabulary does not have.

    Parameters
    ----------
    tokens
        Opened files.
    vocab_size
        Ids are below it.
    whole
        Read everything, in blocks; else 64 blocks of 4,096 tokens, evenly spread, the first and last among them.
    span
        First token to look at, and the end; None looks at all.

    Raises
    ------
    ValueError
        Names the file, the place in it and the id.
    """
    first, count = (0, len(tokens)) if span is None else span
    if whole or count - first <= _SAMPLES * _SAMPLE:
        blocks: Sequence[int] = range(first, count, _READ)
        size = _READ
    else:
        blocks, size = np.linspace(first, count - _SAMPLE, _SAMPLES).astype(np.int64).tolist(), _SAMPLE
    for begin in blocks:
        block = tokens[begin : min(begin + size, count)]
        wrong = (block >= vocab_size) | (block < 0)
        if wrong.any():
            place = begin + int(wrong.argmax())
            file = int(np.searchsorted(tokens.begins, place, "right")) - 1
            raise ValueError(
                f"{tokens.paths[file]} has id {int(block[place - begin])} at token {place - int(tokens.begins[file])}, and "
                f"the tokenizer has {vocab_size}: was it made with another one, or is token_dtype another?"
            )


def _is_offsets(path: Path) -> bool:
    return path.name.endswith(".offsets.npy")


def _by_first_bytes(path: Path, token_dtype: str | None) -> TokenFile:
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(12)
    if first.startswith(NPY_MAGIC):
        return _npy(path, size)
    magic, version, count = struct.unpack("<3i", first) if len(first) == 12 else (0, 0, 0)
    if magic in HEADERS and size >= HEADER_BYTES:
        return _with_header(path, size, magic, version, count)
    if token_dtype is None:
        raise ValueError(
            f"{path} is neither an array of numpy nor has it a header or an .idx: say what its tokens are by "
            f"token_dtype ({' or '.join(FLAT_DTYPES)})"
        )
    width = np.dtype(token_dtype).itemsize
    if size % width:
        raise ValueError(f"{path} has {size} bytes, no multiple of {width}: is it cut, or token_dtype another?")
    return TokenFile(path, "flat", token_dtype, size // width, 0, None)


def _with_header(path: Path, size: int, magic: int, version: int, count: int) -> TokenFile:
    known, dtype = HEADERS[magic]
    if version != known:
        raise ValueError(f"{path} has header {magic} of version {version}; version {known} is known")
    room = (size - HEADER_BYTES) // np.dtype(dtype).itemsize
    if count != room or (size - HEADER_BYTES) % np.dtype(dtype).itemsize:
        raise ValueError(f"{path} should have {count} tokens by its header, and has room for {room}: it is cut")
    return TokenFile(path, "header", dtype, count, HEADER_BYTES, None)


def _npy(path: Path, size: int) -> TokenFile:
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no whole array of numpy: {error}") from error
    if array.ndim != 1 or array.dtype.byteorder == ">":
        raise ValueError(f"{path} is an array {array.shape} of {array.dtype}: one dimension, little endian is needed")
    return TokenFile(path, "npy", array.dtype.name, len(array), size - array.nbytes, None)


def _megatron(index: Path) -> TokenFile:
    dtype, lengths, pointers, documents = read_index(index)
    path = index.with_suffix(".bin")
    if not path.is_file():
        raise ValueError(f"{index} has no {path.name} beside it")
    size = path.stat().st_size
    end = int(pointers[-1]) + int(lengths[-1]) * dtype.itemsize if len(lengths) else 0
    if end != size or (len(pointers) and pointers[0]):
        raise ValueError(f"{path} has {size} bytes and its index ends at {end}: is one of them cut?")
    return TokenFile(path, "megatron", dtype.name, size // dtype.itemsize, 0, len(documents) - 1)
