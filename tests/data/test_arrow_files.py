"""Arrow files in both formats: every row and place, and damage in one line."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow
import pytest

from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig
from workbench.data.arrow_files import read_arrow
from workbench.data.corpus.shard_reading import read_shard
from workbench.data.corpus.shards import plan_shards
from workbench.data.inputs import find_inputs
from workbench.data.sources import read_items

ROWS = [{"meta": {"text": f"text {i}"}, "n": i, "wide": "w"} for i in range(2500)]


def write(path: Path, *, indexed: bool = False, compression: str | None = None, rows=ROWS) -> Path:
    table = pyarrow.Table.from_pylist(rows)
    make = pyarrow.ipc.new_file if indexed else pyarrow.ipc.new_stream
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.OSFile(str(path), "wb") as file, make(file, table.schema, options=options) as writer:
        writer.write_table(table, 1100)
    return path


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_every_row_is_read_with_its_number(tmp_path: Path, indexed: bool, compression: str | None):
    path = write(tmp_path / "x.arrow", indexed=indexed, compression=compression)
    found = list(read_arrow(path))
    assert [row for _, rows in found for row in rows] == ROWS
    assert [first for first, _ in found] == [1, 1001, 1101, 2101, 2201]
    [(_, rows), *_] = read_arrow(path, ["meta.text", "n", "missing"])
    assert rows[0] == {"meta": {"text": "text 0"}, "n": 0}


def test_what_datasets_saves_is_a_source(tmp_path: Path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "set", num_shards=2)
    source = SourceConfig("arrow", path=str(tmp_path / "set"), text_field="meta.text")
    assert len(find_inputs(source).paths) == 2
    assert [item.payload for item in read_items(source)] == [row["meta"]["text"] for row in ROWS]
    corpus = SourceConfig("arrow", path=str(tmp_path / "set"), text_field="meta.text", where="n < 10")
    data = DataConfig("x", {"s": corpus}, corpus=CorpusConfig(1000))
    shards = plan_shards(data)
    assert len(shards) == 2
    reads = [read for shard in shards for batch in read_shard(shard, corpus, ["n"]) for read in batch]
    assert [read.record["n"] for read in reads if read.cause is None] == list(range(10))
    assert len(reads) == len(ROWS)


def test_a_missing_field_is_named_with_those_that_are_there(tmp_path: Path):
    source = SourceConfig("arrow", path=str(write(tmp_path / "x.arrow")))
    with pytest.raises(ValueError, match=r"x\.arrow, row 1: no field 'text' \(there: meta\.text, n, wide\)"):
        list(read_items(source))


@pytest.mark.parametrize("indexed", [False, True])
def test_damage_is_said(tmp_path: Path, indexed: bool):
    content = write(tmp_path / "x.arrow", indexed=indexed).read_bytes()
    cuts = [7, 100, len(content) // 2, len(content) - 9, len(content) - 8, len(content) - 1]
    for cut in cuts:
        (tmp_path / "x.arrow").write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"x\.arrow is (no Arrow file, or is )?truncated") as caught:
            list(read_arrow(tmp_path / "x.arrow"))
        assert str(caught.value).isprintable()


def test_other_files_and_empty_ones_are_said(tmp_path: Path):
    path = tmp_path / "x.arrow"
    for content, said in [
        (b"", "is empty$"),
        (b'{"text": "a"}\n' * 3, "is no Arrow file"),
        (b"PAR1" * 9, "is no Arrow file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            list(read_arrow(path))
    table = pyarrow.table({"text": pyarrow.array([], pyarrow.string())})
    stream = io.BytesIO()
    with pyarrow.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    path.write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match=r"is empty: it has no row"):
        list(read_arrow(path))


def test_text_that_is_not_utf8_is_said(tmp_path: Path):
    broken = pyarrow.array([b"good", b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
    table = pyarrow.table({"text": broken})
    with pyarrow.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match=r"x\.arrow, behind row 0, is not UTF-8"):
        list(read_arrow(tmp_path / "x.arrow"))
