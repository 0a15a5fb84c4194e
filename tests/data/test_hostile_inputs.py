"""Odd files of the kinds that public bug reports describe, each of which gives the right tokens."""

from __future__ import annotations

import gzip
import json
import os

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from tokenizers import Tokenizer

from tests.data.odd_files import (
    SKIPPABLE,
    STRUCT,
    TEXTS,
    ZST,
    Make,
    at,
    file,
    folder,
    in_field,
    jsonl,
    linked_folder,
    one_source,
    source_of,
    table,
    utf8_jsonl,
    zst,
)
from workbench.data.store import prepare
from workbench.study.layout import Layout

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
