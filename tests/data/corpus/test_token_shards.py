"""Many token files as one array: whatever the borders, the way of reading and the number of open files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from workbench.config.schema import MixtureSegment, StreamConfig, StreamSource
from workbench.data.corpus.token_shards import READINGS, TokenShards
from workbench.data.stream import Stream

SIZES = (100, 1, 0, 37, 250, 0)


def write_shards(folder: Path, dtype=np.uint16, sizes=SIZES) -> tuple[list[Path], np.ndarray]:
    whole = np.random.default_rng(0).integers(0, 60_000, sum(sizes)).astype(dtype)
    begin, paths = 0, []
    for i, size in enumerate(sizes):
        paths.append(folder / f"{i:06}.bin")
        whole[begin : begin + size].tofile(paths[-1])
        begin += size
    return paths, whole


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_slices_and_windows_are_those_of_the_whole(tmp_path, reading, dtype):
    paths, whole = write_shards(tmp_path, dtype)
    shards = TokenShards(paths, dtype, SIZES, reading=reading, most_open=2)
    assert len(shards) == len(whole)
    assert shards.shape == whole.shape
    assert shards.dtype == dtype
    for begin in range(0, len(whole), 7):
        for end in (begin, begin + 1, begin + 60, begin + 300, None):
            assert (shards[begin:end] == whole[begin:end]).all()
            assert shards[begin:end].dtype == dtype
    for length in (1, 5, 130, len(whole)):
        starts = np.random.default_rng(1).integers(0, len(whole) - length + 1, 40)
        expected = whole[starts[:, None] + np.arange(length)]
        assert (shards.windows(starts, length) == expected).all()
    assert shards.windows(np.empty(0, np.int64), 3).shape == (0, 3)
    for start, length in ((-1, 2), (len(whole) - 1, 2)):
        with pytest.raises(IndexError, match="leave 388 tokens"):
            shards.windows(np.array([start]), length)


@pytest.mark.parametrize("reading", READINGS)
def test_few_files_are_open_at_a_time(tmp_path, reading):
    paths, whole = write_shards(tmp_path, sizes=(10,) * 50)
    shards = TokenShards(paths, np.uint16, reading=reading, most_open=3)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert (shards.windows(np.arange(0, 490, 10), 10) == whole[:490].reshape(49, 10)).all()
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 3
    assert len(shards._open) == 3


def test_files_that_are_not_as_expected_are_named(tmp_path):
    paths, _ = write_shards(tmp_path)
    with pytest.raises(ValueError, match=r"000003.bin has 37 tokens instead of 38"):
        TokenShards(paths, np.uint16, [100, 1, 0, 38, 250, 0])
    with pytest.raises(ValueError, match=r"000001.bin has 2 bytes of tokens, which is no multiple of 4"):
        TokenShards(paths, np.uint32)
    with pytest.raises(ValueError, match="reading='mmap': choose from memory_map, positioned"):
        TokenShards(paths, np.uint16, reading="mmap")
    for reading in READINGS:
        shards = TokenShards(paths, np.uint16, reading=reading)
        kept = paths[4].read_bytes()
        paths[4].write_bytes(kept[:100])
        with pytest.raises(ValueError, match=r"000004.bin"):
            shards[150:388]
        paths[4].write_bytes(kept)
    paths[4].unlink()
    with pytest.raises(ValueError, match=r"000004.bin cannot be read \(No such file or directory\)"):
        TokenShards(paths, np.uint16)


def test_documents_are_found_by_their_tokens(tmp_path):
    paths, _ = write_shards(tmp_path)
    shards = TokenShards(paths, np.uint16)
    np.save(tmp_path / "000000.offsets.npy", np.array([0, 30, 99, 100]))
    np.save(tmp_path / "000004.offsets.npy", np.array([0, 250]))
    files, documents = shards.documents(np.array([0, 29, 30, 99, 138, 387]))
    assert files.tolist() == [0, 0, 0, 0, 4, 4]
    assert documents.tolist() == [0, 0, 1, 2, 0, 0]
    with pytest.raises(ValueError, match=r"000003.offsets.npy is not the offsets of 000003.bin"):
        shards.documents(np.array([110]))
    np.save(tmp_path / "000003.offsets.npy", np.array([0, 36]))
    with pytest.raises(ValueError, match=r"000003.offsets.npy does not divide the 37 tokens"):
        shards.documents(np.array([110]))


def test_positions_beyond_32_bits(tmp_path):
    tokens = 3 * 2**31
    paths = [tmp_path / f"{i}.bin" for i in range(2)]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(2 * tokens)  # a hole, which takes no room
    with paths[1].open("r+b") as file:
        file.seek(2 * (tokens - 3))
        file.write(np.array([7, 8, 9], np.uint16).tobytes())
    for reading in READINGS:
        shards = TokenShards(paths, np.uint16, reading=reading)
        assert shards[2 * tokens - 4 :].tolist() == [0, 7, 8, 9]
        assert shards.windows(np.array([2 * tokens - 2, tokens - 1]), 2).tolist() == [[8, 9], [0, 0]]


@pytest.mark.parametrize("reading", READINGS)
def test_a_stream_of_files_is_that_of_an_array(tmp_path, reading):
    paths, whole = write_shards(tmp_path, sizes=(3000, 40, 7000))

    class Store:
        fingerprint = "f" * 16

        def __init__(self, tokens):
            self.sources = {"a": tokens, "b": tokens}

    sources = {"a": StreamSource(None, None), "b": StreamSource(None, None)}
    config = StreamConfig("f" * 16, 16, 0, sources, [MixtureSegment(0, {"a": 7, "b": 3})])
    expected = Stream(Store(whole), config).batch(3, 500)
    found = Stream(Store(TokenShards(paths, np.uint16, reading=reading)), config).batch(3, 500)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours == theirs).all()
