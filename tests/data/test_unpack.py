from __future__ import annotations

import gzip
import io
import random
from pathlib import Path

import pytest
import zstandard

from workbench.data.unpack import read_lines, read_text_lines

LINES = [b"line %d\n" % i for i in range(12)]
SKIPPABLE = bytes.fromhex("5f2a4d1803000000") + b"abc"


def compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def test_a_cut_at_any_byte_is_noticed_but_between_frames(tmp_path: Path):
    path = tmp_path / "a.zst"
    parts = [compress(b"".join(LINES[:5])), SKIPPABLE, compress(b""), compress(b"".join(LINES[5:]))]
    whole = b"".join(parts)
    ends = {sum(map(len, parts[: i + 1])) for i in range(len(parts))}
    for size in range(1, len(whole) + 1):
        path.write_bytes(whole[:size])
        if size in ends:
            assert list(read_lines(path)) == LINES[: 12 if size == len(whole) else 5]
        else:
            with pytest.raises(ValueError, match=r"a\.zst is truncated after line \d+$"):
                list(read_lines(path))


def test_a_cut_gzip_file_is_noticed_at_any_byte(tmp_path: Path):
    path = tmp_path / "a.gz"
    whole = gzip.compress(b"".join(LINES))
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a\.gz is truncated after line \d+$"):
            list(read_lines(path))


def test_the_line_is_the_last_whole_one_that_could_be_unpacked(tmp_path: Path):
    path = tmp_path / "a.zst"
    lines = [random.Random(i).randbytes(30_000).replace(b"\n", b"x") + b"\n" for i in range(40)]
    packed = compress(b"".join(lines))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"after line (1[5-9]|20)$"):
        list(read_lines(path))


def test_a_repetitive_file_is_unpacked_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.zst"
    path.write_bytes(compress((b"x" * 999 + b"\n") * 20_000) * 20)
    assert path.stat().st_size < 100_000
    largest = 0
    frames = zstandard.ZstdDecompressor

    class Watched:
        def __init__(self, **options):
            self.inner = frames(**options)

        def decompressobj(self):
            return WatchedFrame(self.inner.decompressobj())

    class WatchedFrame:
        def __init__(self, inner):
            self.inner = inner

        def decompress(self, data):
            nonlocal largest
            found = self.inner.decompress(data)
            largest = max(largest, len(found))
            return found

        eof = property(lambda self: self.inner.eof)
        unused_data = property(lambda self: self.inner.unused_data)

    monkeypatch.setattr(zstandard, "ZstdDecompressor", Watched)
    assert sum(1 for _ in read_lines(path)) == 400_000
    assert largest <= 20_000_000  # one frame, not all twenty


def test_lines_end_with_newlines_alone(tmp_path: Path):
    path = tmp_path / "a.txt"
    text = "a\fb\x1cc\u2028d\u0085e\vf\rg\r\nh\n"
    path.write_bytes(text.encode())
    assert list(read_text_lines(path)) == ["a\fb\x1cc\u2028d\u0085e\vf\rg\r\n", "h\n"]


def test_an_error_of_the_disk_names_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Failing(io.BytesIO):
        def readinto(self, buffer):
            raise OSError(5, "Input/output error")

        def readable(self):
            return True

        def peek(self, size):
            return b"abc"

        def __iter__(self):
            yield b"abc\n"
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", lambda *_: Failing())
    with pytest.raises(ValueError, match=r"a\.txt cannot be read after line 1: .*Input/output error"):
        list(read_lines(tmp_path / "a.txt"))
