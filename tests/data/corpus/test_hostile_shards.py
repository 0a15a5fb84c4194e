"""Damaged, changing and odd inputs of a corpus: said with file and place, or read as documented, never silently wrong."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from tests.data.corpus.conftest import make_texts
from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig, TokenizerConfig
from workbench.data.corpus import shard_reading
from workbench.data.corpus.shard_reading import Read, read_shard
from workbench.data.corpus.shards import plan_shards
from workbench.data.store import prepare
from workbench.study.layout import Layout

DRAW = random.Random(1)
LINES = [json.dumps({"text": f"text {i} {DRAW.randbytes(30).hex()}"}) + "\n" for i in range(2000)]
WHOLE = "".join(LINES).encode()


def lines_of(*records: dict) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def read(place: Path, kind: str = "jsonl", shard_bytes: int = 10**6, **settings) -> list[Read]:
    source = SourceConfig(kind, path=str(place), **settings)
    data = DataConfig("x", {"a": source}, corpus=CorpusConfig(shard_bytes))
    return [each for shard in plan_shards(data) for batch in read_shard(shard, source) for each in batch]


def in_the_middle(packed: bytes, damage: bytes) -> bytes:
    middle = len(packed) // 2
    return packed[:middle] + damage + packed[middle + len(damage) :]


GZIP, ZSTANDARD = gzip.compress(WHOLE, mtime=0), zstandard.compress(WHOLE)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl.gz", GZIP[: len(GZIP) // 2], r"is truncated after line \d{3,4}$"),
        ("a.jsonl.gz", in_the_middle(GZIP, bytes(50)), r", line \d{3,4} is not |cannot be read after line \d{3,4}: "),
        ("a.jsonl.gz", GZIP[:-8] + b"abcd" + GZIP[-4:], r"cannot be read after line 2000: CRC check failed"),
        ("a.jsonl.gz", GZIP + b"garbage", r"cannot be read after line 2000: Not a gzipped file"),
        ("a.jsonl.gz", GZIP + GZIP[:100], r"is truncated after line 2000$"),
        ("a.jsonl.zst", ZSTANDARD[: len(ZSTANDARD) // 2], r"is truncated after line \d+$"),
        ("a.jsonl.zst", in_the_middle(ZSTANDARD, b"\xff" * 50), r"after line \d+: zstd .*corruption"),
        ("a.jsonl.zst", ZSTANDARD + b"garbage", r"after line 2000: zstd decompressor error"),
        ("a.jsonl", lines_of({"text": "a"}) + bytes(4096) + lines_of({"text": "b"}), r", line 2 is not JSON"),
        ("a.jsonl", lines_of({"text": "a"}) + b'{"text": "a\0b"}\n', r", line 2 is not JSON: Invalid control char"),
        ("a.jsonl", lines_of({"text": "a"}) + b'{"text": "a \\ud800"}\n', r", line 2: .* lone surrogate"),
        ("a.jsonl", lines_of({"text": "a"}).decode().encode("utf-16"), r", line 1 is UTF-16, not UTF-8"),
        ("a.jsonl", lines_of({"text": "a"}) + b'{"text": "a", "n": ' + b"9" * 5000 + b"}", r"line 2 is not JSON: Exceeds"),
    ],
)  # fmt: skip
def test_damage_is_named_with_its_place(tmp_path: Path, name: str, content: bytes, said: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        read(tmp_path)
    assert f"{tmp_path / name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def write_rows(path: Path, rows: list[dict], **settings) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **settings)


ROWS = [{"text": f"text {i} {DRAW.randbytes(30).hex()}", "n": i} for i in range(3000)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw[: len(raw) // 2], r"is truncated: it begins as a parquet file and has no end"),
        (lambda raw: in_the_middle(raw, bytes(40)), r"cannot be read after row 1000: could not verify page integrity"),
        (lambda raw: raw[:-100] + bytes(40) + raw[-60:], r"cannot be read after row 0: "),
    ],
)
def test_damaged_parquet_is_named(tmp_path: Path, change: Callable[[bytes], bytes], said: str):
    path = tmp_path / "a.parquet"
    write_rows(path, ROWS, row_group_size=500, write_page_checksum=True)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"a\.parquet {said}[^\n]*$"):
        read(tmp_path, "parquet")


@pytest.mark.parametrize("name", ["b.jsonl", "b.parquet"])
def test_a_file_without_a_record_among_others_is_named(tmp_path: Path, name: str):
    """Also a parquet file with one row group of no row, as engines write them."""
    if name.endswith("jsonl"):
        (tmp_path / "a.jsonl").write_bytes(WHOLE)
        (tmp_path / name).touch()
    else:
        write_rows(tmp_path / "a.parquet", ROWS[:10])
        empty = pyarrow.table({"text": pyarrow.array([], pyarrow.string())})
        pyarrow.parquet.write_table(empty, tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} is empty"):
        read(tmp_path, name.partition(".")[2])


def test_two_columns_of_one_name_are_refused(tmp_path: Path):
    columns = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet has 2 columns 'text': which one is meant"):
        read(tmp_path, "parquet")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_field_whose_type_changes_between_files_is_named(tmp_path: Path, suffix: str):
    for name, value in (("a", 3), ("b", "4")):
        row = {"text": "some text", "n": value}
        if suffix == "parquet":
            write_rows(tmp_path / f"{name}.parquet", [row])
        else:
            (tmp_path / f"{name}.jsonl").write_bytes(lines_of(row))
    with pytest.raises(ValueError, match=rf"b\.{suffix}, (line|row) 1: field n is text '4' and cannot be compared"):
        read(tmp_path, suffix, where="n >= 2")


WITHOUT_TEXT = [{"text": "some text", "lang": "en"}, {"text": None, "lang": "de"}, {"text": "more text", "lang": "en"}]


def write_records(path: Path, rows: list[dict]) -> str:
    """Write records in the format of a file's name, and give the kind of source."""
    if path.suffix == ".parquet":
        write_rows(path, rows)
    elif path.suffix == ".arrow":
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    else:
        path.write_bytes(gzip.compress(lines_of(*rows)) if path.suffix == ".gz" else lines_of(*rows))
    return path.name.split(".")[1]


FORMATS = pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.arrow"])


@FORMATS
@pytest.mark.parametrize("where", ["text != null", 'lang == "en"', 'has(text) and lang == "en"'])
@pytest.mark.parametrize("language", [None, "lang"])
def test_a_record_that_its_fields_drop_needs_no_text(tmp_path: Path, name: str, where: str, language: str | None):
    kind = write_records(tmp_path / name, WITHOUT_TEXT)
    found = read(tmp_path / name, kind, where=where, language=language)
    assert [(each.text, each.cause) for each in found] == [
        ("some text", None),
        ("", "field_filter"),
        ("more text", None),
    ]


@FORMATS
def test_a_record_that_its_fields_keep_needs_a_text(tmp_path: Path, name: str):
    kind = write_records(tmp_path / name, WITHOUT_TEXT)
    with pytest.raises(ValueError, match=rf"{name}, (line|row) 2: field 'text' is null"):
        read(tmp_path / name, kind, where='lang != "fr"')


def test_a_record_without_the_field_of_the_text_is_the_same(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(lines_of({"text": "some text", "lang": "en"}, {"lang": "de"}))
    found = read(tmp_path / "a.jsonl", where="has(text)")
    assert [(each.text, each.cause) for each in found] == [("some text", None), ("", "field_filter")]
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: no field 'text'"):
        read(tmp_path / "a.jsonl", where='has(lang) or lang == "de"')


@pytest.mark.parametrize("text", [3, ["a"], {"a": "b"}])
def test_a_text_of_another_type_is_an_error_whatever_the_fields_say(tmp_path: Path, text: object):
    (tmp_path / "a.jsonl").write_bytes(lines_of({"text": "some text", "lang": "en"}, {"text": text, "lang": "de"}))
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: field 'text' is .*, not text"):
        read(tmp_path / "a.jsonl", where='lang == "en"')


def test_what_is_odd_and_whole_is_read(tmp_path: Path):
    long = "x " * 25_000_000
    parts = [b"\xef\xbb\xbf" + lines_of({"text": "mark"}), b"\xef\xbb\xbf" + lines_of({"text": "a\0b"})]
    parts += [lines_of({"text": long}), b'{"text": "\\ud83d\\ude00", "text": "last one of two"}']
    (tmp_path / "a.jsonl").write_bytes(b"".join(parts))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines_of({"text": "zeros behind"})) + bytes(100))
    found = [each.text for each in read(tmp_path)]
    assert found == ["mark", "a\0b", long, "last one of two", "zeros behind"]


@pytest.mark.parametrize("value", ["\ud800", "en\nde"])
def test_a_language_that_no_page_could_show_is_named(tmp_path: Path, value: str):
    (tmp_path / "a.jsonl").write_bytes(lines_of({"text": "a", "lang": "en"}, {"text": "a", "lang": value}))
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: field 'lang' is '[^\n]*', which is no name of a language"):
        read(tmp_path, language="lang")


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path, monkeypatch):
    """It is whole again when the inputs are compared at the end."""
    monkeypatch.setattr(shard_reading, "_BLOCK_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(WHOLE)
    source = SourceConfig("jsonl", path=str(path))
    (shard,) = plan_shards(DataConfig("x", {"a": source}, corpus=CorpusConfig()))
    monkeypatch.setattr(shard_reading, "_BATCH_DOCUMENTS", 10)
    batches = read_shard(shard, source)
    next(batches)
    path.write_bytes(WHOLE[:20_000])
    with pytest.raises(ValueError, match=r"a\.jsonl ends at byte 20000 and had more when it was planned"):
        list(batches)


def test_a_folder_that_gains_a_file_is_refused_in_the_end(tmp_path: Path, small_tokenizer: TokenizerConfig):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines_of(*({"text": text} for text in make_texts(60, 1))))
    source = SourceConfig("jsonl", path=str(folder), heldout_bytes=2000)
    data = DataConfig("x", {"a": source}, corpus=CorpusConfig(20_000))

    def gain(text: str, done: int, total: int | None) -> None:
        (folder / "b.jsonl").write_bytes(lines_of({"text": "one more"}))

    with pytest.raises(ValueError, match=r"the inputs of data 'x' changed while they were read: prepare again"):
        prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1, progress=gain)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_one_file_by_two_names_counts_once_or_is_refused(tmp_path: Path, link: Callable, write_tokens):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(WHOLE)
    link(folder / "a.jsonl", folder / "b.jsonl")
    source = SourceConfig("jsonl", path=str(folder))
    assert plan_shards(DataConfig("x", {"a": source}, corpus=CorpusConfig())), "exact duplicates are dropped"
    keeps = CorpusConfig(exact_duplicates=False)
    with pytest.raises(ValueError, match=r"'a': \S+b\.jsonl is the same file as \S+a\.jsonl, by a link, .*exact_dup"):
        plan_shards(DataConfig("x", {"a": source}, corpus=keeps))
    one = SourceConfig("jsonl", path=str(folder / "a.jsonl"))
    other = SourceConfig("jsonl", path=str(folder / "b.jsonl"))
    assert plan_shards(DataConfig("x", {"a": one, "b": other}, corpus=keeps)), "two sources may read one file"
    path, settings = write_tokens("header")
    link(path, path.with_name("more.bin"))
    tokens = SourceConfig("tokens", path=str(path.parent / "*.bin"), **settings)
    with pytest.raises(ValueError, match=r"more\.bin is the same file as \S+header\.bin.* count twice: leave one out$"):
        plan_shards(DataConfig("x", {"a": tokens}, corpus=CorpusConfig()))


def test_links_to_folders_are_followed_once(tmp_path: Path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a.jsonl").write_bytes(WHOLE)
    (tmp_path / "again").symlink_to(tmp_path / "some")
    (tmp_path / "some" / "loop").symlink_to(tmp_path)
    assert len(read(tmp_path)) == len(LINES)


def test_a_field_that_is_not_utf8_is_named_though_columns_compare_it(tmp_path: Path):
    raw = pyarrow.array([b"en", b"\xff\xfe"], pyarrow.binary())
    language = pyarrow.Array.from_buffers(pyarrow.string(), 2, raw.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "lang": language}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet, row 2 is not UTF-8"):
        read(tmp_path, "parquet", where='lang == "en"')


def test_rows_are_judged_by_columns_as_records_are(tmp_path: Path):
    rows = [{"text": f"text {i}", "n": i % 7, "meta": {"set": "ab"[i % 2], "lang": None}} for i in range(2500)]
    rows[5]["meta"] = rows[6]["n"] = None
    write_rows(tmp_path / "a.parquet", rows, row_group_size=700)
    (tmp_path / "a.jsonl").write_bytes(lines_of(*rows))
    for where in (
        'meta.set == "a" and n >= 2',
        'meta.set matches "^a"',
        "not has(meta.lang) or n < 3",
        'n != 3 and text != ""',
    ):
        settings = {"where": where, "language": "meta.set"}
        by_columns = read(tmp_path / "a.parquet", "parquet", 5000, **settings)
        assert by_columns == read(tmp_path / "a.jsonl", "jsonl", 5000, **settings)
        assert {each.cause for each in by_columns} >= {None}
        assert len(by_columns) == 2500
