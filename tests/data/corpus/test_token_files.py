"""Files of other projects' formats, written here byte by byte as their sources say, and read back."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from workbench.data.corpus.megatron_index import MEGATRON_DTYPES, open_documents
from workbench.data.corpus.token_files import (
    check_ids,
    describe,
    find_token_files,
    open_token_files,
)

DOCUMENTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]


def write_megatron(path: Path, documents, code=8, version=1, modes=False) -> None:
    dtype = np.dtype(MEGATRON_DTYPES[code])
    lengths = [len(d) for d in documents]
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * dtype.itemsize
    path.with_suffix(".bin").write_bytes(np.concatenate(documents).astype(dtype).tobytes())
    path.with_suffix(".idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", version, code, len(documents), len(documents) + 1)
        + np.array(lengths, "<i4").tobytes()
        + np.array(begins, "<i8").tobytes()
        + np.arange(len(documents) + 1, dtype="<i8").tobytes()
        + (b"\x00" * len(documents) if modes else b"")
    )


def write_header(path: Path, tokens, magic=20240520, version=1, dtype=np.uint16) -> None:
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(tokens)
    path.write_bytes(header.tobytes() + np.array(tokens, dtype).tobytes())


@pytest.mark.parametrize(("code", "modes"), [(8, False), (4, True), (5, False), (1, True)])
def test_megatrons_indexed_data_sets(tmp_path, code, modes):
    write_megatron(tmp_path / "a.bin", DOCUMENTS, code, modes=modes)
    for name in ("a.bin", "a.idx"):
        facts = describe(tmp_path / name)
        assert (facts.format, facts.dtype, facts.tokens, facts.documents) == ("megatron", MEGATRON_DTYPES[code], 9, 3)
    assert open_token_files(str(tmp_path / "a.bin"))[:].tolist() == [
        token for document in DOCUMENTS for token in document
    ]
    documents = open_documents(tmp_path / "a.bin")
    assert documents.begins(0, 4).tolist() == [0, 3, 4, 9]
    assert [documents.count_before(token) for token in range(11)] == [0, 1, 1, 1, 2, 3, 3, 3, 3, 3, 4]


def test_arrays_headers_and_flat_files(tmp_path):
    tokens = list(range(100, 400))
    np.save(tmp_path / "array.npy", np.array(tokens, np.uint16))
    write_header(tmp_path / "header.bin", tokens)
    write_header(tmp_path / "wide.bin", tokens, 20240801, 7, np.uint32)
    np.array(tokens, np.uint16).tofile(tmp_path / "flat.npy")  # as OLMo names them
    np.array(tokens, np.uint32).tofile(tmp_path / "flat.bin")
    for name, dtype, form, kind in (
        ("array.npy", None, "npy", "uint16"),
        ("header.bin", None, "header", "uint16"),
        ("wide.bin", None, "header", "uint32"),
        ("flat.npy", "uint16", "flat", "uint16"),
        ("flat.bin", "uint32", "flat", "uint32"),
    ):
        facts = describe(tmp_path / name, dtype)
        assert (facts.format, facts.dtype, facts.tokens, facts.documents) == (form, kind, 300, None)
        for reading in ("memory_map", "positioned"):
            opened = open_token_files(str(tmp_path / name), dtype, reading=reading)
            assert opened[:].tolist() == tokens
            assert opened.windows(np.array([7, 0]), 3).tolist() == [[107, 108, 109], [100, 101, 102]]


def test_a_folder_or_a_glob_is_one_array_in_the_order_of_names(tmp_path):
    write_header(tmp_path / "b.bin", [3, 4])
    write_header(tmp_path / "a.bin", [1, 2])
    np.save(tmp_path / "a.offsets.npy", np.array([0, 2]))
    for path in (str(tmp_path), str(tmp_path / "*.bin")):
        assert open_token_files(path)[:].tolist() == [1, 2, 3, 4]
    assert [file.name for file in find_token_files(str(tmp_path))] == ["a.bin", "b.bin"]
    write_header(tmp_path / "c.bin", [5], 20240801, 7, np.uint32)
    with pytest.raises(ValueError, match=r"c.bin has tokens of uint32, a.bin of uint16"):
        open_token_files(str(tmp_path))
    with pytest.raises(ValueError, match=r"no token files there"):
        open_token_files(str(tmp_path / "*.gone"))


def test_what_cannot_be_read_is_said_in_one_line_that_names_the_file(tmp_path):
    def refused(match, dtype=None, name="x.bin"):
        with pytest.raises(ValueError, match=match) as caught:
            describe(tmp_path / name, dtype)
        assert "\n" not in str(caught.value)

    refused("x.bin' is not there")
    (tmp_path / "x.bin").write_bytes(b"abc")
    refused("token_dtype=.uint8.: choose from uint16, uint32", "uint8")
    refused(r"x.bin is neither .* say what its tokens are by token_dtype \(uint16 or uint32\)")
    refused("x.bin has 3 bytes, no multiple of 2", "uint16")
    (tmp_path / "x.bin").write_bytes(b"")
    refused("x.bin has no tokens", "uint16")
    write_header(tmp_path / "x.bin", [1, 2, 3])
    refused("x.bin has tokens of uint16, not of token_dtype='uint32'", "uint32")
    (tmp_path / "x.bin").write_bytes((tmp_path / "x.bin").read_bytes()[:-2])
    refused("x.bin should have 3 tokens by its header, and has room for 2")
    write_header(tmp_path / "x.bin", [1, 2, 3], version=3)
    refused("header 20240520 of version 3; version 1 is known")
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.uint16))
    refused(r"an array \(2, 3\) of uint16", name="x.npy")
    np.save(tmp_path / "x.npy", np.zeros(3))
    refused("numbers of float64, and tokens are integers", name="x.npy")
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-5])
    refused("x.npy is no whole array", name="x.npy")


def test_damaged_indices_of_megatrons_are_refused(tmp_path):
    path = tmp_path / "m.bin"

    def refused(match):
        with pytest.raises(ValueError, match=match):
            describe(path)

    write_megatron(path, DOCUMENTS)
    index = path.with_suffix(".idx").read_bytes()
    path.with_suffix(".idx").write_bytes(index[:-9])
    refused(r"m.idx has \d+ bytes instead of \d+")
    path.with_suffix(".idx").write_bytes(b"GARBAGE" + index[7:])
    refused("does not begin with MMIDIDX")
    write_megatron(path, DOCUMENTS, version=2)
    refused("version 2 and type 8; version 1")
    write_megatron(path, DOCUMENTS)
    path.write_bytes(path.read_bytes()[:-2])
    refused("m.bin has 16 bytes and its index ends at 18")
    path.unlink()
    refused("m.idx has no m.bin")
    write_megatron(path, DOCUMENTS)
    broken = bytearray(path.with_suffix(".idx").read_bytes())
    broken[34 + 12 + 8] += 2  # where the second sequence begins
    path.with_suffix(".idx").write_bytes(broken)
    with pytest.raises(ValueError, match=r"sequences leave gaps or overlap in m.bin"):
        open_documents(path)


def test_an_index_stays_on_the_disk(tmp_path):
    """Of 100 million documents it has 2 GB."""
    count = 1_500_000
    lengths = np.full(count, 3, "<i4")
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, count, count + 1)
    with (tmp_path / "a.idx").open("wb") as file:
        file.write(head + lengths.tobytes())
        np.arange(0, 6 * count, 6, dtype="<i8").tofile(file)
        np.arange(count + 1, dtype="<i8").tofile(file)
    tracemalloc.start()
    try:
        documents = open_documents(tmp_path / "a.bin")
        assert documents.count_before(3_000_001) == 1_000_001
        assert documents.begins(1_000_000, 1_000_002).tolist() == [3_000_000, 3_000_003]
        assert tracemalloc.get_traced_memory()[1] < 20_000_000 < 8 * count * 2
    finally:
        tracemalloc.stop()
    assert documents.begins(count, count + 1).tolist() == [3 * count]


@pytest.mark.parametrize("bounds", [[0, 2, 1, 3], [1, 2, 2, 3], [0, 1, 2, 2]])
def test_documents_that_do_not_divide_the_sequences_are_refused(tmp_path, bounds):
    write_megatron(tmp_path / "m.bin", DOCUMENTS)
    path = tmp_path / "m.idx"
    path.write_bytes(path.read_bytes()[: -8 * 4] + np.array(bounds, "<i8").tobytes())
    with pytest.raises(ValueError, match=r"m\.idx: documents do not divide its 3 sequences"):
        open_documents(tmp_path / "m.bin")


@pytest.mark.parametrize("whole", [True, False])
def test_ids_beyond_the_vocabulary_are_named(tmp_path, whole):
    for name, count in (("a", 5000), ("b", 600_000)):
        np.full(count, 31_999, np.uint16).tofile(tmp_path / f"{name}.bin")
    tokens = open_token_files(str(tmp_path), "uint16")
    check_ids(tokens, 32_000, whole=whole)
    with pytest.raises(ValueError, match=r"a.bin has id 31999 at token 0, and the tokenizer has 31999"):
        check_ids(tokens, 31_999, whole=whole)
    changed = np.memmap(tmp_path / "b.bin", np.uint16, "r+")
    changed[-1] = 40_000  # the last block is among the samples
    with pytest.raises(ValueError, match=r"b.bin has id 40000 at token 599999"):
        check_ids(tokens, 32_000, whole=whole)
    changed[-1], changed[12_345] = 0, 40_000
    if whole:
        with pytest.raises(ValueError, match=r"b.bin has id 40000 at token 12345"):
            check_ids(tokens, 32_000, whole=True)


def test_signed_ids_below_zero_are_refused(tmp_path):
    write_megatron(tmp_path / "a.bin", [[1, -2, 3]], code=4)
    with pytest.raises(ValueError, match=r"id -2 at token 1"):
        check_ids(open_token_files(str(tmp_path / "a.bin")), 10, whole=True)
