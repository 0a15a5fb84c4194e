"""Odd files of the kinds that public bug reports describe: each gives the right tokens or one line that says where."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from workbench.config.schema import DataConfig, SourceConfig, TokenizerConfig
from workbench.data.store import prepare
from workbench.study.layout import Layout

Make = Callable[[Path], Path | str | tuple[Path | str, str]]
"""Writes files into a folder and gives the source's path, or that and its `text_field`."""

TEXTS = ["first document\nwith two lines", "second: naïve 東京 🙂", "third one"]
SKIPPABLE = bytes.fromhex("502a4d1805000000") + b"hello"


def jsonl(*texts: str, end: bytes = b"\n") -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + end for text in texts)


def utf8_jsonl(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def zst(data: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def file(name: str, content: bytes) -> Make:
    """One file that is the source's path."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def folder(**files: bytes) -> Make:
    """A folder that is the source's path; `__` in a name is a dot."""

    def make(place: Path) -> Path:
        for name, content in files.items():
            path = place / name.replace("__", ".").replace("_in_", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        return place

    return make


def table(columns: dict[str, object], field: str = "text", cut: int | None = None, **options: object) -> Make:
    """A parquet file, or its first bytes."""

    def make(place: Path) -> tuple[Path, str]:
        path = place / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
        path.write_bytes(path.read_bytes()[:cut])
        return path, field

    return make


def in_field(field: str, make: Make) -> Make:
    return lambda place: (make(place), field)  # type: ignore[return-value]


def at(pattern: str, make: Make) -> Make:
    """Files of `make`, reached by a path relative to their folder."""

    def made(place: Path) -> str:
        make(place)
        return f"{place}/{pattern}"

    return made


def damaged_page(place: Path) -> Path:
    path = place / "a.parquet"
    texts = [f"{i:03} a text that is not like the others" for i in range(100)]
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts}), path, compression="zstd", use_dictionary=False, write_page_checksum=True
    )
    raw = bytearray(path.read_bytes())
    raw[40:300] = bytes(260)
    path.write_bytes(raw)
    return path


def flipped_bit(place: Path) -> Path:
    """A page that can be read as it is: its checksum alone tells."""
    path = place / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"text": TEXTS}), path, compression="none", use_dictionary=False, write_page_checksum=True
    )
    path.write_bytes(path.read_bytes().replace(b"second:", b"sfcond:"))
    return path


def bad_utf8_column(place: Path) -> Path:
    offsets, values = pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pyarrow.py_buffer(b"ok\xff\xfe")
    column = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, offsets, values])
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), place / "a.parquet")
    return place / "a.parquet"


def linked_folder(place: Path) -> Path:
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "a.jsonl").write_bytes(jsonl(*TEXTS))
    (place / "data").mkdir()
    (place / "data" / "link").symlink_to(place / "elsewhere")
    (place / "elsewhere" / "back").symlink_to(place / "data")
    return place / "data"


ZST = zst(jsonl(*TEXTS))
STRUCT = pyarrow.array([{"text": t, "url": "u"} for t in TEXTS])

# name of the case: (kind, what writes it, texts that it holds)
READ: dict[str, tuple[str, Make, list[str]]] = {
    "zst: frames in a row": ("jsonl", file("a.jsonl.zst", zst(jsonl(*TEXTS[:2])) + zst(jsonl(TEXTS[2]))), TEXTS),
    "zst: a line over two frames": (
        "jsonl",
        file("a.jsonl.zst", zst(jsonl(*TEXTS)[:40]) + zst(jsonl(*TEXTS)[40:])),
        TEXTS,
    ),
    "zst: skippable frames": ("jsonl", file("a.jsonl.zst", SKIPPABLE + ZST + SKIPPABLE), TEXTS),
    "zst: an empty frame first": ("jsonl", file("a.jsonl.zst", zst(b"") + ZST), TEXTS),
    "zst: no size in the frame": ("jsonl", file("a.jsonl.zst", zst(jsonl(*TEXTS), write_content_size=False)), TEXTS),
    "zst: a large window": (
        "jsonl",
        file(
            "a.jsonl.zst",
            (lambda c: c.compress(jsonl(*TEXTS)) + c.flush())(
                zstandard.ZstdCompressor(
                    compression_params=zstandard.ZstdCompressionParameters(window_log=28, write_content_size=False)
                ).compressobj()
            ),
        ),
        TEXTS,
    ),
    "gz: members in a row": (
        "jsonl",
        file("a.jsonl.gz", gzip.compress(jsonl(*TEXTS[:1])) + gzip.compress(jsonl(*TEXTS[1:]))),
        TEXTS,
    ),
    "json.gz beside jsonl": (
        "jsonl",
        folder(a__jsonl=jsonl(TEXTS[0]), b__json__gz=gzip.compress(jsonl(*TEXTS[1:]))),
        TEXTS,
    ),
    "json: lines under that name": ("jsonl", file("a.json", jsonl(*TEXTS)), TEXTS),
    "json: one list": ("jsonl", file("a.json", json.dumps([{"text": t} for t in TEXTS], indent=1).encode()), TEXTS),
    "json: one record over lines": (
        "jsonl",
        file("a.json", json.dumps({"text": TEXTS[1]}, indent=1).encode()),
        [TEXTS[1]],
    ),
    "json.zst: one list": ("jsonl", file("a.json.zst", zst(json.dumps([{"text": t} for t in TEXTS]).encode())), TEXTS),
    "ndjson in capitals": ("jsonl", folder(A__NDJSON=jsonl(*TEXTS)), TEXTS),
    "jsonl: a byte order mark": ("jsonl", file("a.jsonl", b"\xef\xbb\xbf" + jsonl(*TEXTS)), TEXTS),
    "jsonl: two files with marks in a row": (
        "jsonl",
        file("a.jsonl", (b"\xef\xbb\xbf" + jsonl(*TEXTS[:1])) + b"\xef\xbb\xbf" + jsonl(*TEXTS[1:])),
        TEXTS,
    ),
    "jsonl: CRLF": ("jsonl", file("a.jsonl", jsonl(*TEXTS, end=b"\r\n")), TEXTS),
    "jsonl: no newline at the end": ("jsonl", file("a.jsonl", jsonl(*TEXTS)[:-1]), TEXTS),
    "jsonl: blank lines": ("jsonl", file("a.jsonl", b"\n  \n" + jsonl(*TEXTS, end=b"\n\n")), TEXTS),
    "jsonl: U+2028 and U+0085 inside a line": (
        "jsonl",
        file("a.jsonl", utf8_jsonl("a\u2028b\u0085c", TEXTS[0])),
        ["a\u2028b\u0085c", TEXTS[0]],
    ),
    "jsonl: both halves of a pair": ("jsonl", file("a.jsonl", b'{"text": "\\ud83d\\ude42"}\n'), ["🙂"]),
    "jsonl: form feed, \\x1c to \\x1e, vertical tab": (
        "jsonl",
        file("a.jsonl", jsonl("a\fb\x1cc\x1dd\x1ee\vf")),
        ["a\fb\x1cc\x1dd\x1ee\vf"],
    ),
    "jsonl: CR and CRLF in a text": ("jsonl", file("a.jsonl", jsonl("a\rb\r\nc\r\r\nd\n")), ["a\nb\nc\n\nd"]),
    "jsonl: NUL in a text": ("jsonl", file("a.jsonl", jsonl("a\0b")), ["a\0b"]),
    "jsonl: a half pair in another field": ("jsonl", file("a.jsonl", b'{"id": "\\ud83d", "text": "fine"}\n'), ["fine"]),
    "jsonl: a special token in a text": ("jsonl", file("a.jsonl", jsonl("a<s>b")), ["a<s>b"]),
    "field in an object": (
        "jsonl",
        in_field("meta.text", file("a.jsonl", b'{"meta": {"text": "inner"}}\n')),
        ["inner"],
    ),
    "field in two objects": ("jsonl", in_field("a.b.c", file("a.jsonl", b'{"a": {"b": {"c": "deep"}}}\n')), ["deep"]),
    "field with a dot in its name": (
        "jsonl",
        in_field("meta.text", file("a.jsonl", b'{"meta": {"text": "inner"}, "meta.text": "outer"}\n')),
        ["outer"],
    ),
    "parquet: column in a struct": ("parquet", table({"meta": STRUCT}, "meta.text"), TEXTS),
    "parquet: column with a dot in its name": (
        "parquet",
        table({"meta": STRUCT, "meta.text": ["outer"] * 3, "n": [1, 2, 3]}, "meta.text"),
        ["outer"],
    ),
    "parquet: dictionary and large strings": (
        "parquet",
        table({"text": pyarrow.array(TEXTS, pyarrow.large_string()).dictionary_encode()}),
        TEXTS,
    ),
    "parquet: row groups": ("parquet", table({"text": TEXTS}, row_group_size=1), TEXTS),
    "text: a byte order mark and CRLF": ("text", file("a.txt", b"\xef\xbb\xbfa\r\nb"), ["a\nb"]),
    "text: form feeds": ("text", file("a.txt", b"page one\f\npage two"), ["page one\f\npage two"]),
    "text: packed": (
        "text",
        folder(a__txt__gz=gzip.compress(b"packed once"), b__md__zst=zst(b"packed again")),
        ["packed once", "packed again"],
    ),
    "text: an empty file among others": ("text", folder(a__txt=b"", b__txt=b"full", c__py=b" \n"), ["full"]),
    "path: brackets": ("jsonl", file("a[1].jsonl", jsonl(*TEXTS)), TEXTS),
    "path: a folder with brackets and a glob": (
        "jsonl",
        at("v[2] x/*.jsonl", folder(**{"v[2] x/a__jsonl": jsonl(*TEXTS)})),
        TEXTS,
    ),
    "path: a question mark and a star": ("jsonl", file("what?*.jsonl", jsonl(*TEXTS)), TEXTS),
    "path: a glob with a set": (
        "jsonl",
        at("[ab].jsonl", folder(a__jsonl=jsonl(*TEXTS[:1]), b__jsonl=jsonl(*TEXTS[1:]), c__jsonl=b"")),
        TEXTS,
    ),
    "path: a name that is no UTF-8": ("jsonl", file(os.fsdecode(b"caf\xe9.jsonl"), jsonl(*TEXTS)), TEXTS),
    "path: a line end in the name": ("jsonl", file("a\nb.jsonl", jsonl(*TEXTS)), TEXTS),
    "path: other, hidden and linked files beside": (
        "jsonl",
        folder(a__jsonl=jsonl(*TEXTS), __b__jsonl=b"{", README__md=b"x", __git_in_c__jsonl=b"{", notes__csv=b""),
        TEXTS,
    ),
    "path: a link to a folder that links back": ("jsonl", linked_folder, TEXTS),
}

# name of the case: (kind, what writes it, pattern of the message)
REFUSED: dict[str, tuple[str, Make, str]] = {
    "zst: cut inside a frame": ("jsonl", file("a.jsonl.zst", ZST[:-9]), r"a\.jsonl\.zst is truncated after line \d"),
    "zst: cut inside the second frame": (
        "jsonl",
        file("a.jsonl.zst", ZST + zst(jsonl(*TEXTS))[:-9]),
        r"a\.jsonl\.zst is truncated after line [3-5]",
    ),
    "zst: cut inside a header": (
        "jsonl",
        file("a.jsonl.zst", ZST + ZST[:3]),
        r"a\.jsonl\.zst is truncated after line 3",
    ),
    "zst: cut inside a skippable frame": (
        "jsonl",
        file("a.jsonl.zst", ZST + SKIPPABLE[:-2]),
        r"a\.jsonl\.zst is truncated after line 3",
    ),
    "zst: two bytes": ("jsonl", file("a.jsonl.zst", ZST[:2]), r"a\.jsonl\.zst is truncated after line 0"),
    "zst: something behind it": (
        "jsonl",
        file("a.jsonl.zst", ZST + b"something"),
        r"a\.jsonl\.zst cannot be read after line 3: .*[Uu]nknown frame",
    ),
    "zst: a flipped bit": (
        "jsonl",
        file("a.jsonl.zst", (lambda z: z[:-1] + bytes([z[-1] ^ 1]))(zst(jsonl(*TEXTS), write_checksum=True))),
        r"a\.jsonl\.zst cannot be read after line 0: .*checksum",
    ),
    "zst: empty": ("jsonl", file("a.jsonl.zst", b""), r"a\.jsonl\.zst is empty"),
    "zst: an empty frame": ("jsonl", file("a.jsonl.zst", zst(b"")), r"a\.jsonl\.zst is empty"),
    "zst: no such thing": ("jsonl", file("a.jsonl.zst", jsonl(*TEXTS)), r"a\.jsonl\.zst is no Zstandard file"),
    "gz: cut short": (
        "jsonl",
        file("a.jsonl.gz", gzip.compress(jsonl(*TEXTS))[:-6]),
        r"a\.jsonl\.gz is truncated after line \d",
    ),
    "gz: cut inside the second member": (
        "jsonl",
        file("a.jsonl.gz", gzip.compress(jsonl(*TEXTS)) + gzip.compress(jsonl(*TEXTS))[:30]),
        r"a\.jsonl\.gz is truncated after line [3-5]",
    ),
    "gz: empty": ("jsonl", file("a.jsonl.gz", b""), r"a\.jsonl\.gz is empty"),
    "gz: nothing in it": ("jsonl", file("a.jsonl.gz", gzip.compress(b"")), r"a\.jsonl\.gz is empty"),
    "gz: a wrong checksum": (
        "jsonl",
        file("a.jsonl.gz", gzip.compress(jsonl(*TEXTS))[:-8] + bytes(8)),
        r"a\.jsonl\.gz cannot be read after line \d: CRC",
    ),
    "packed under a plain name": (
        "jsonl",
        file("a.jsonl", gzip.compress(jsonl(*TEXTS))),
        r"a\.jsonl is packed by gzip",
    ),
    "packed in another way": ("jsonl", file("a.jsonl.xz", b"\xfd7zXZ\x00 and so on"), r"a\.jsonl\.xz is packed by xz"),
    "parquet read as jsonl": (
        "jsonl",
        file("a.jsonl", b"PAR1 and so on"),
        r"a\.jsonl is a parquet file: set the source's kind",
    ),
    "jsonl: empty": ("jsonl", file("a.jsonl", b""), r"a\.jsonl is empty"),
    "jsonl: blank lines alone": ("jsonl", file("a.jsonl", b"\n \n"), r"a\.jsonl is empty"),
    "jsonl: the last line cut": ("jsonl", file("a.jsonl", jsonl(*TEXTS)[:-9]), r"a\.jsonl is truncated after line 2"),
    "jsonl: cut inside a character": (
        "jsonl",
        file("a.jsonl", utf8_jsonl("one", "🙂")[:-5]),
        r"a\.jsonl is truncated after line 1",
    ),
    "jsonl: a line cut in the middle": (
        "jsonl",
        file("a.jsonl", b'{"text": "a\n' + jsonl("b")),
        r"a\.jsonl, line 1 is not JSON",
    ),
    "jsonl: Latin-1": (
        "jsonl",
        file("a.jsonl", jsonl("fine") + b'{"text": "caf\xe9"}\n'),
        r"a\.jsonl, line 2 is not UTF-8 \(byte 0xe9 at place 14\)",
    ),
    "jsonl: UTF-16": (
        "jsonl",
        file("a.jsonl", jsonl(*TEXTS).decode().encode("utf-16")),
        r"a\.jsonl, line 1 is UTF-16, not UTF-8",
    ),
    "jsonl: UTF-16 without a mark": (
        "jsonl",
        file("a.jsonl", jsonl(*TEXTS).decode().encode("utf-16-le")),
        r"a\.jsonl, line 1 is UTF-16 or UTF-32, not UTF-8",
    ),
    "jsonl: UTF-32": (
        "jsonl",
        file("a.jsonl", jsonl(*TEXTS).decode().encode("utf-32")),
        r"a\.jsonl, line 1 is UTF-32, not UTF-8",
    ),
    "jsonl: half a pair": (
        "jsonl",
        file("a.jsonl", jsonl("fine") + b'{"text": "ab\\ud83d"}\n'),
        r"a\.jsonl, line 2: field 'text' holds the lone surrogate \\ud83d at character 3",
    ),
    "jsonl: null": (
        "jsonl",
        file("a.jsonl", jsonl("fine") + b'{"text": null}\n'),
        r"a\.jsonl, line 2: field 'text' is null",
    ),
    "jsonl: a number": (
        "jsonl",
        file("a.jsonl", jsonl("fine") + b'{"text": 3}\n'),
        r"a\.jsonl, line 2: field 'text' is a number, not text",
    ),
    "jsonl: a list of texts": (
        "jsonl",
        file("a.jsonl", b'{"text": ["a", "b"]}\n'),
        r"a\.jsonl, line 1: field 'text' is a list, not text",
    ),
    "jsonl: another field": (
        "jsonl",
        file("a.jsonl", jsonl("fine") + b'{"body": "x", "meta": {"url": "u"}}\n'),
        r"a\.jsonl, line 2: no field 'text' \(there: body, meta\.url\)",
    ),
    "jsonl: a string": (
        "jsonl",
        file("a.jsonl", jsonl("fine") + b'"x"\n'),
        r"a\.jsonl, line 2: a string, not an object with the field 'text'",
    ),
    "jsonl: a number too long": (
        "jsonl",
        file("a.jsonl", b'{"text": "a", "n": ' + b"1" * 5000 + b"}\n"),
        r"a\.jsonl, line 1 is not JSON: Exceeds the limit",
    ),
    "jsonl: too deep": (
        "jsonl",
        file("a.jsonl", b"[" * 100_000 + b"\n"),
        r"a\.jsonl, line 1 is not JSON: maximum recursion",
    ),
    "jsonl: the second file": (
        "jsonl",
        folder(a__jsonl=jsonl("fine"), b__jsonl__gz=gzip.compress(b"{}\n")),
        r"b\.jsonl\.gz, line 1: no field 'text'",
    ),
    "jsonl: null inside an object": (
        "jsonl",
        in_field("meta.text", file("a.jsonl", b'{"meta": null}\n')),
        r"a\.jsonl, line 1: field 'meta\.text' is null",
    ),
    "jsonl: no object to look into": (
        "jsonl",
        in_field("meta.text", file("a.jsonl", b'{"meta": "x"}\n')),
        r"a\.jsonl, line 1: no field 'meta\.text' \(there: meta\)",
    ),
    "json: a list cut short": (
        "jsonl",
        file("a.json", b'[\n{"text": "a"},\n{"text": "b'),
        r"a\.json is truncated after line 2",
    ),
    "json: an empty list": ("jsonl", file("a.json", b"[]"), r"a\.json is empty"),
    "json: a bad record in a list": (
        "jsonl",
        file("a.json", b'[{"text": "a"}, {"text": 1}]'),
        r"a\.json, record 2: field 'text' is a number",
    ),
    "json: a bad line in a list": (
        "jsonl",
        file("a.json", b'\n[{"text": "a"},\n{"text" "b"}]'),
        r"a\.json, line 3 is not JSON",
    ),
    "parquet: cut short": ("parquet", table({"text": TEXTS}, cut=200), r"a\.parquet is truncated"),
    "parquet: the beginning alone": ("parquet", table({"text": TEXTS}, cut=4), r"a\.parquet is truncated"),
    "parquet: empty": ("parquet", file("a.parquet", b""), r"a\.parquet is empty"),
    "parquet: no row": (
        "parquet",
        table({"text": pyarrow.array([], pyarrow.string())}),
        r"a\.parquet is empty: it has no row",
    ),
    "parquet: no such thing": (
        "parquet",
        file("a.parquet", jsonl(*TEXTS)),
        r"a\.parquet is no parquet file: it begins with b'\{",
    ),
    "parquet: a damaged page": ("parquet", damaged_page, r"a\.parquet cannot be read after row \d+"),
    "parquet: a flipped bit": ("parquet", flipped_bit, r"a\.parquet cannot be read after row 0: .*CRC"),
    "parquet: null": ("parquet", table({"text": ["a", None, "c"]}), r"a\.parquet, row 2: field 'text' is null"),
    "parquet: null struct": (
        "parquet",
        table({"meta": pyarrow.array([{"text": "a"}, None])}, "meta.text"),
        r"a\.parquet, row 2: field 'meta\.text' is null",
    ),
    "parquet: numbers": ("parquet", table({"text": [1, 2]}), r"a\.parquet, row 1: field 'text' is a number, not text"),
    "parquet: bytes": ("parquet", table({"text": [b"a"]}), r"a\.parquet, row 1: field 'text' is bytes, not text"),
    "parquet: another column": (
        "parquet",
        table({"body": ["a"], "meta": pyarrow.array([{"url": "u"}])}),
        r"a\.parquet: no field 'text' \(there: body, meta\.url\)",
    ),
    "parquet: not UTF-8": ("parquet", bad_utf8_column, r"a\.parquet, row 2 is not UTF-8"),
    "text: records": (
        "text",
        file("a.jsonl.gz", gzip.compress(jsonl(*TEXTS))),
        r"a\.jsonl\.gz holds records, not one text",
    ),
    "text: empty": ("text", file("a.txt", b""), r"a\.txt is empty"),
    "text: cut inside a character": (
        "text",
        file("a.txt", "one\ntwo 東".encode()[:-1]),
        r"a\.txt is truncated after line 1",
    ),
    "text: Latin-1": (
        "text",
        file("a.txt", b"one\ncaf\xe9\nthree"),
        r"a\.txt, line 2 is not UTF-8 \(byte 0xe9 at place 4\)",
    ),
    "text: UTF-16": ("text", file("a.txt", "one".encode("utf-16")), r"a\.txt, line 1 is UTF-16, not UTF-8"),
    "text: UTF-16 without a mark": (
        "text",
        file("a.txt", "one".encode("utf-16-be")),
        r"a\.txt, line 1 is UTF-16 or UTF-32, not UTF-8",
    ),
    "text: a packed file cut short": (
        "text",
        file("a.txt.gz", gzip.compress(b"one\ntwo\n" * 100)[:-6]),
        r"a\.txt\.gz is truncated after line \d+",
    ),
    "path: nothing of this kind": (
        "jsonl",
        folder(README__md=b"x", a__csv=b"x"),
        r"no \.jsonl or .* file there \(there: README\.md, a\.csv\)",
    ),
    "path: a glob of folders": (
        "jsonl",
        at("*", folder(sub_in_a__jsonl=b"")),
        r"nothing in \S+ matches '\*' \(there: sub/\)",
    ),
    "path: nobody's home": (
        "jsonl",
        lambda _: "~no-such-user-here/a.jsonl",
        r"path='~no-such-user-here/a\.jsonl': \S+/~no-such-user-here/a\.jsonl is not there",
    ),
}


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory: pytest.TempPathFactory) -> TokenizerConfig:
    """A tokenizer of single bytes: every text has its own tokens, and nothing is trained."""
    ids = {"<s>": 0, **{piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<s>"])
    path = tmp_path_factory.mktemp("alphabet") / "tokenizer.json"
    tokenizer.save(str(path))
    return TokenizerConfig("file", 257, str(path), bos="<s>")


def source_of(kind: str, make: Make, place: Path) -> SourceConfig:
    place.mkdir()
    made = make(place)
    path, field = made if isinstance(made, tuple) else (made, "text")
    return SourceConfig(kind, path=str(path), text_field=field, heldout_bytes=0)


def one_source(source: SourceConfig) -> DataConfig:
    return DataConfig("odd", {"odd": source}, heldout_percent=1e-4, min_document_bytes=1)


@pytest.mark.parametrize("case", READ)
def test_odd_files_give_the_right_tokens(case, alphabet, tmp_path):
    kind, make, expected = READ[case]
    data = one_source(source_of(kind, make, tmp_path / "data"))
    prepared = prepare(data, alphabet, Layout(tmp_path / "outputs"), workers=1)
    tokenizer = Tokenizer.from_file(str(alphabet.path))
    tokenizer.encode_special_tokens = True
    tokens = [i for text in expected for i in (0, *tokenizer.encode(text, add_special_tokens=False).ids)]
    assert prepared.sources["odd"].tolist() == tokens
    assert tokenizer.decode(tokens) == "".join(expected)


@pytest.mark.parametrize("case", REFUSED)
def test_odd_files_are_refused_in_one_line_and_nothing_is_written(case, alphabet, tmp_path):
    kind, make, message = REFUSED[case]
    data = one_source(source_of(kind, make, tmp_path / "data"))
    with pytest.raises(ValueError, match=message) as caught:
        prepare(data, alphabet, Layout(tmp_path / "outputs"), workers=1)
    assert str(caught.value).isprintable()
    assert not [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
