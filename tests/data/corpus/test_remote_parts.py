"""Parquet files that are cut by bytes: whatever the borders, each row is in exactly one part."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig
from workbench.data.corpus import remote_parts
from workbench.data.corpus.remote_parts import find_row_groups
from workbench.data.corpus.shard_reading import read_shard
from workbench.data.corpus.shards import Part, plan_shards
from workbench.data.object_store import forget_lists


@pytest.fixture
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    """fsspec's file system in memory, empty before and after."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    forget_lists()
    yield system
    system.store.clear()
    forget_lists()


def write_table(path: Path, sizes: Sequence[int], draw: random.Random) -> list[str]:
    """Write row groups of some sizes, of columns with and without dictionaries; give the texts."""
    texts: list[str] = []
    schema = pyarrow.schema({"n": pyarrow.int64(), "text": pyarrow.string(), "set": pyarrow.string()})
    compression = draw.choice(["none", "zstd", "snappy"])
    settings = {"use_dictionary": draw.choice([True, False, ["set"]]), "compression": compression}
    with pyarrow.parquet.ParquetWriter(path, schema, **settings) as file:
        for size in sizes:
            new = [f"text {len(texts) + i} " + "x" * draw.randint(0, 300) for i in range(size)]
            columns = {"n": range(size), "text": new, "set": draw.choices("abc", k=size)}
            file.write_table(pyarrow.table(columns, schema), row_group_size=max(size, 1))
            texts += new
    return texts


def cut(size: int, borders: Sequence[int]) -> list[Part]:
    places = [0, *sorted(set(borders) - {0, size}), size]
    return [Part("x", begin, end, end - begin, size) for begin, end in itertools.pairwise(places)]


def groups_of(path: Path, borders: Sequence[int]) -> list[int]:
    """Row groups in all parts, in order."""
    found = (find_row_groups(path, part) for part in cut(path.stat().st_size, borders))
    return [group for part in found for group in range(part.begin, part.end)]


@pytest.mark.parametrize("seed", range(8))
def test_each_row_group_is_in_one_part_whatever_the_borders(tmp_path: Path, seed: int):
    draw, path = random.Random(seed), tmp_path / "x.parquet"
    write_table(path, [draw.choice([0, 1, 2, 9, 30]) for _ in range(draw.randint(1, 12))] + [3], draw)
    size = path.stat().st_size
    with pyarrow.parquet.ParquetFile(path) as file:
        wanted = list(range(file.num_row_groups))
        begins = [remote_parts._first_byte(file.metadata.row_group(i)) for i in wanted]
    near = [place + off for place in begins for off in (-1, 0, 1) if 0 < place + off < size]
    for borders in ([], near, begins, *(draw.sample(range(1, size), draw.randint(1, 40)) for _ in range(20))):
        assert groups_of(path, borders) == wanted, borders


@pytest.mark.parametrize("begins", [[100, 4, 200], [4, 4, 4], [300, 200, 100], [-7, 0, 10**9], [10**9, 5, 6]])
def test_places_that_are_not_in_order_or_in_the_file_lose_and_double_nothing(tmp_path: Path, monkeypatch, begins):
    """The format does not ask for an order, and some writers leave places out."""
    path = tmp_path / "x.parquet"
    write_table(path, [5, 5, 5], random.Random(0))
    places = itertools.cycle(begins)
    monkeypatch.setattr(remote_parts, "_first_byte", lambda _: next(places))
    size = path.stat().st_size
    for borders in ([], [50], [50, 150, 250], list(range(1, size, 7))):
        assert groups_of(path, borders) == [0, 1, 2], borders


@pytest.mark.parametrize("seed", range(3))
def test_rows_at_a_url_are_those_of_the_file_whatever_the_cuts(bucket, tmp_path: Path, seed: int):
    draw, path = random.Random(seed), tmp_path / "x.parquet"
    texts = write_table(path, [draw.choice([1, 4, 20]) for _ in range(10)], draw)
    bucket.pipe("/bucket/x.parquet", path.read_bytes())
    source = SourceConfig("parquet", path="memory:///bucket/x.parquet")
    for shard_bytes in (97, *draw.sample(range(100, path.stat().st_size), 6)):
        shards = plan_shards(DataConfig("x", {"s": source}, corpus=CorpusConfig(shard_bytes)))
        assert [read.text for shard in shards for batch in read_shard(shard, source) for read in batch] == texts


@pytest.mark.parametrize("sizes", [[], [0], [0, 0]])
def test_a_file_of_no_row_is_refused_as_on_this_machine(bucket, tmp_path: Path, sizes: list[int]):
    path = tmp_path / "x.parquet"
    write_table(path, sizes, random.Random(0))
    bucket.pipe("/bucket/x.parquet", path.read_bytes())
    data = DataConfig("x", {"s": SourceConfig("parquet", path=str(path))}, corpus=CorpusConfig())
    with pytest.raises(ValueError, match="is empty: it has no row"):
        plan_shards(data)
    source = SourceConfig("parquet", path="memory:///bucket/x.parquet")
    for shard in plan_shards(DataConfig("x", {"s": source}, corpus=CorpusConfig())):
        with pytest.raises(ValueError, match=r"^memory:///bucket/x\.parquet is empty: it has no row"):
            list(read_shard(shard, source))
