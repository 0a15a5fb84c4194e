"""Damaged files of the kinds that public bug reports describe: each is refused in one line that says where."""

from __future__ import annotations

import gzip

import pyarrow
import pyarrow.parquet
import pytest

from tests.data.odd_files import (
    SKIPPABLE,
    TEXTS,
    ZST,
    Make,
    at,
    bad_utf8_column,
    damaged_page,
    file,
    flipped_bit,
    folder,
    in_field,
    jsonl,
    one_source,
    source_of,
    table,
    utf8_jsonl,
    zst,
)
from workbench.data.store import prepare
from workbench.study.layout import Layout

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


@pytest.mark.parametrize("case", REFUSED)
def test_odd_files_are_refused_in_one_line_and_nothing_is_written(case, alphabet, tmp_path):
    kind, make, message = REFUSED[case]
    data = one_source(source_of(kind, make, tmp_path / "data"))
    with pytest.raises(ValueError, match=message) as caught:
        prepare(data, alphabet, Layout(tmp_path / "outputs"), workers=1)
    assert str(caught.value).isprintable()
    assert not [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
