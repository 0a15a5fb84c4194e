"""Lines of a file, unpacked and decoded, where every error says the file and the line."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from workbench.config.secret_urls import hide_secrets
from workbench.data.inputs import show

_CHUNK_BYTES = 16_384
"""Read of a packed file at a time, so that a repetitive one does not fill the memory when it is unpacked."""
_WINDOW_BYTES = 2**31
"""Largest window of a Zstandard frame: what `zstd --long=31` writes. Memory is taken as a frame asks for it."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_GZIP, _ZSTANDARD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_FORMATS = {
    _GZIP: "gzip",
    _ZSTANDARD: "Zstandard",
    _PARQUET: "parquet",
    b"\xfd7zXZ\x00": "xz",
    b"BZh91AY&SY": "bzip2",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x04\x22\x4d\x18": "lz4",
}


def one_line(error: BaseException) -> str:
    """Text of an error without line ends and without passwords and signatures of URLs, or its name where it has none."""
    return hide_secrets(" ".join(str(error).split())) or type(error).__name__


def read_text_lines(path: Path) -> Iterator[str]:
    r"""Yield a file's lines with their ends; a line ends with `\n`. A UTF-8 byte order mark is left out.

    Raises
    ------
    ValueError
        The file is empty, cut short, damaged, packed in another way than its name says, or not UTF-8.
    """
    for number, raw in enumerate(read_lines(path), 1):
        yield decode_line(path, number, without_mark(path, raw) if number == 1 else raw)


def decode_line(path: Path, number: int, line: bytes) -> str:
    """Decode a line, whose number counts from 1.

    Raises
    ------
    ValueError
        It is not UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} at place {error.start + 1}"
        if error.reason == "unexpected end of data":
            raise ValueError(
                f"{show(path)} is truncated after line {number - 1}: line {number} ends inside a character "
                f"({byte}), or is not UTF-8"
            ) from error
        raise ValueError(
            f"{show(path)}, line {number} is not UTF-8 ({byte}): convert it, as with `iconv -f LATIN1 -t UTF-8`"
        ) from error


def without_mark(path: Path, line: bytes) -> bytes:
    """Leave out a UTF-8 byte order mark at the beginning of a file; another one is an error."""
    found = next((name for mark, name in _MARKS if line.startswith(mark)), None)
    if found is None and b"\0" in line[:4]:
        found = "UTF-16 or UTF-32"
    if found:
        raise ValueError(f"{show(path)}, line 1 is {found}, not UTF-8: convert it, as with `iconv -f UTF-16 -t UTF-8`")
    return line.removeprefix(codecs.BOM_UTF8)


def read_lines(path: Path) -> Iterator[bytes]:
    r"""Yield the lines of a file, unpacked where its name ends in `.gz` or `.zst`; a line ends with `\n`."""
    number = 0
    try:
        with path.open("rb") as file:
            for line in _unpack(path, file):
                yield line
                number += 1
    except EOFError as error:
        raise ValueError(f"{show(path)} is truncated after line {number}") from error
    except (OSError, zlib.error) as error:
        raise ValueError(f"{show(path)} cannot be read after line {number}: {one_line(error)}") from error


def _unpack(path: Path, file: io.BufferedReader) -> Any:
    wanted = {".gz": _GZIP, ".zst": _ZSTANDARD}.get(path.suffix.lower())
    head = file.peek(16)[:16]
    if not head:
        raise ValueError(f"{show(path)} is empty")
    if wanted is None:
        refuse_packed(path, head)
        return file
    if len(head) < len(wanted) and wanted.startswith(head):
        raise EOFError("cut inside the first bytes")
    if not (head.startswith(wanted) or _is_skippable(head, wanted)):
        raise ValueError(f"{show(path)} is no {_FORMATS[wanted]} file, as its name says: it begins with {head[:8]!r}")
    return gzip.GzipFile(fileobj=file) if wanted == _GZIP else io.BufferedReader(_Frames(file))


def refuse_packed(path: Path, head: bytes) -> None:
    """Refuse a file that its first bytes show to be packed, though its name does not say so."""
    found = next((name for magic, name in _FORMATS.items() if head.startswith(magic)), None)
    if found == "parquet":
        raise ValueError(f"{show(path)} is a parquet file: set the source's kind to 'parquet'")
    if found:
        raise ValueError(
            f"{show(path)} is packed by {found}: unpack it, or name it by what it is (.gz and .zst are read)"
        )


def _is_skippable(head: bytes, wanted: bytes) -> bool:
    """Whether a Zstandard file begins with a frame that holds no data, as parallel packers write them."""
    return wanted == _ZSTANDARD and 0x50 <= head[0] <= 0x5F and b"\x2a\x4d\x18".startswith(head[1:4])


class _Frames(io.RawIOBase):
    """Unpacked content of Zstandard frames in a row; unlike the library's own reader it misses the end of a cut one."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._file, self._error = file, zstandard.ZstdError
        self._library = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
        self._frame: Any = None
        self._packed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._ready:
            self._packed = self._packed or self._file.read(_CHUNK_BYTES)
            if not self._packed and self._frame:
                raise EOFError("a frame is cut short")
            if not self._packed:
                return 0
            self._frame = self._frame or self._library.decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(self._packed))
            except self._error as error:
                raise OSError(str(error)) from error
            self._packed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count
