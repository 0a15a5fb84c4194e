"""Shards: every document once and in order, whatever the cuts; every error with file and place."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig
from workbench.data import header_texts, python_texts
from workbench.data.corpus import shard_reading
from workbench.data.corpus.shard_reading import read_shard
from workbench.data.corpus.shards import digest_own_files, plan_shards
from workbench.data.sources import read_items


def make_corpus(sources: dict[str, SourceConfig], shard_bytes: int) -> DataConfig:
    return DataConfig("x", sources, corpus=CorpusConfig(shard_bytes))


def read_all(data: DataConfig, fields=()) -> dict[str, list]:
    found: dict[str, list] = {name: [] for name in data.sources}
    for shard in plan_shards(data):
        for batch in read_shard(shard, data.sources[shard.source], fields):
            found[shard.source] += batch
    return found


def odd_texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    letters = ["a", "é", "東", "🙂", "\n", "\r\n", "\t", '"', "\\", "\u2028", "\x85", " "]
    return ["".join(draw.choices(letters, k=draw.randint(0, 60))) + f" {i}" for i in range(count)]


@pytest.mark.parametrize("shard_bytes", [1, 7, 100, 1000, 10**9])
@pytest.mark.parametrize("block", [5, 64, 10**6])
def test_every_line_is_read_once_whatever_the_cuts(tmp_path: Path, monkeypatch, shard_bytes: int, block: int):
    monkeypatch.setattr(shard_reading, "_BLOCK_BYTES", block)
    for number in range(3):
        lines = [json.dumps({"text": t}, ensure_ascii=bool(number)) for t in odd_texts(20, number)]
        end = "" if number == 1 else "\n\n"
        (tmp_path / f"{number}.jsonl").write_bytes(("\n".join(lines) + end).encode())
    source = SourceConfig("jsonl", path=str(tmp_path))
    expected = [shard_reading.normalise(item.payload) for item in read_items(source)]
    assert len(expected) == 60
    data = make_corpus({"a": source}, shard_bytes)
    assert [read.text for read in read_all(data)["a"]] == expected
    assert all(shard.bytes <= shard_bytes for shard in plan_shards(data))


def test_all_kinds_of_files_give_what_they_give_in_one_pass(tmp_path: Path):
    texts = odd_texts(50, 1)
    rows = [{"meta": {"text": t}, "n": i} for i, t in enumerate(texts)]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet", row_group_size=7)
    (tmp_path / "e.txt").write_text("a text\r\nof two lines")
    sources = {
        name: SourceConfig(kind, path=str(tmp_path / file), text_field="meta.text")
        for name, kind, file in [
            ("a", "jsonl", "a.jsonl.gz"),
            ("b", "jsonl", "b.json"),
            ("c", "jsonl", "c.jsonl"),
            ("d", "parquet", "d.parquet"),
            ("e", "text", "e.txt"),
        ]
    }
    data = make_corpus(sources, 300)
    found = read_all(data, fields=["n"])
    for name, source in sources.items():
        assert [read.text for read in found[name]] == [shard_reading.normalise(i.payload) for i in read_items(source)]
    for name in "abcd":
        assert [read.record["n"] for read in found[name]] == list(range(50))
    assert sum(shard.source == "d" for shard in plan_shards(data)) > 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"text": 3}', r"a\.jsonl, line 31: field 'text' is a number, not text"),
        (b'{"text": "\\ud800"}', r"a\.jsonl, line 31: field 'text' holds the lone surrogate"),
        (b'{"other": "x"}', r"a\.jsonl, line 31: no field 'text' \(there: other\)"),
        (b'{"text": "x"', r"a\.jsonl, line 31 is not JSON"),
        (b'{"text": "\xff"}', r"a\.jsonl, line 31 is not UTF-8 \(byte 0xff at place 11\)"),
        (b"[1]", r"a\.jsonl, line 31: a list, not an object"),
    ],
)
@pytest.mark.parametrize("shard_bytes", [40, 10**6])
def test_an_error_names_the_line_of_the_file(tmp_path: Path, line: bytes, said: str, shard_bytes: int):
    good = b'{"text": "some text"}\n'
    (tmp_path / "a.jsonl").write_bytes(good * 30 + line + b"\n" + good * 5)
    with pytest.raises(ValueError, match=said):
        read_all(make_corpus({"a": SourceConfig("jsonl", path=str(tmp_path / "a.jsonl"))}, shard_bytes))


def test_what_is_empty_or_cut_short_is_said(tmp_path: Path):
    for content, said in [
        (b"", "is empty"),
        (b"\n \n", "has no record"),
        (b'{"text": "a', "is truncated after line 0"),
    ]:
        (tmp_path / "a.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=said):
            read_all(make_corpus({"a": SourceConfig("jsonl", path=str(tmp_path / "a.jsonl"))}, 10**6))


@pytest.mark.parametrize("shard_bytes", [1, 7, 100, 10**6])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file_of_blank_lines_is_refused_whatever_the_cuts(tmp_path: Path, monkeypatch, shard_bytes: int, mark: str):
    monkeypatch.setattr(shard_reading, "_BLOCK_BYTES", 5)
    blank = f"{mark}\n \n\t\n" + "\n\u3000 \r\n" * 10
    (tmp_path / "a.jsonl").write_bytes(blank.encode())
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "a"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl is empty: it has no record"):
        read_all(make_corpus({"a": SourceConfig("jsonl", path=str(tmp_path))}, shard_bytes))
    (tmp_path / "a.jsonl").write_bytes(f'{blank}{{"text": "b"}}\n\n'.encode())
    found = read_all(make_corpus({"a": SourceConfig("jsonl", path=str(tmp_path))}, shard_bytes))
    assert [read.text for read in found["a"]] == ["b", "a"]


def test_a_file_that_grew_since_it_was_planned_is_refused(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    data = make_corpus({"a": SourceConfig("jsonl", path=str(path))}, 100)
    (shard,) = plan_shards(data)
    path.write_text('{"text": "a"}\n' * 2)
    with pytest.raises(ValueError, match="has 28 bytes and had 14 when it was planned"):
        list(read_shard(shard, data.sources["a"]))


@pytest.mark.parametrize(("kind", "module"), [("python_code", python_texts), ("python_headers", header_texts)])
def test_a_host_with_other_packages_reads_nothing(monkeypatch, kind: str, module):
    name = "list_files" if kind == "python_code" else "list_headers"
    files = getattr(module, name)()[:40]
    monkeypatch.setattr(module, name, lambda: files)
    data = make_corpus({"a": SourceConfig(kind)}, 20_000)
    first, *_ = plan_shards(data)
    assert list(read_shard(first, data.sources["a"]))
    elsewhere = [(digest, f"/elsewhere/{Path(path).name}") for digest, path in files]
    for others, are_the_same in ((elsewhere, True), (files[1:], False), ([*files, ("f" * 64, "/a.py")], False)):
        monkeypatch.setattr(module, name, lambda others=others: others)
        if are_the_same:  # only their place is another
            assert digest_own_files(others) == first.parts[0].files
        else:
            with pytest.raises(
                ValueError, match=f"source of kind '{kind}' .* on host .* are not those .* planned with"
            ):
                list(read_shard(first, data.sources["a"]))
