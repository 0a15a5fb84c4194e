"""Documents of a corpus that go by their fields and by rules of quality: counted, shown, and the same in every format."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.data.corpus.conftest import make_texts
from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig
from workbench.config.schema.quality_thresholds import GopherThresholds, QualitySettings
from workbench.data.fingerprint import data_fingerprint, heldout_fingerprint
from workbench.data.store import prepare
from workbench.data.store_summary import dropped_table
from workbench.study.layout import Layout

WHERE = 'meta.set != "GitHub" and stars >= 2'
QUALITY = QualitySettings(gopher=GopherThresholds(min_words=30, min_stop_words=None, min_alphabetic_words=None))


def make_rows() -> list[dict]:
    rows = [{"text": text, "meta": {"set": "Books"}, "stars": 3} for text in make_texts(60, 7)]
    rows[5]["meta"]["set"] = rows[50]["meta"]["set"] = "GitHub"
    rows[6]["stars"] = 1
    rows[7]["stars"] = None
    rows[8]["text"] = "word " * 20 + "a" * 200
    return rows


def write(path: Path, rows: list[dict]) -> None:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=25)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_data(path: Path, **changes) -> DataConfig:
    source = SourceConfig(path.suffix[1:], path=str(path), heldout_bytes=1000, **changes)
    return DataConfig("filtered", {"a": source}, corpus=CorpusConfig(shard_bytes=9_000))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_what_goes_is_counted_and_shown(tmp_path: Path, small_tokenizer, suffix: str):
    rows, path = make_rows(), tmp_path / f"a.{suffix}"
    write(path, rows)
    data = make_data(path, where=WHERE, quality=QUALITY)
    store = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    facts = store.manifest["sources"]["a"]
    held = facts["heldout_documents"]
    causes = {"field_filter": 3, "missing_field": 1, "gopher_min_words": 1, "heldout_split": held}
    assert facts["dropped"] == causes
    assert facts["read"] == 60 == facts["kept"] + sum(causes.values())
    samples = [json.loads(line) for line in (store.directory / "removed" / "samples.jsonl").read_text().splitlines()]
    shown = {(sample["cause"], sample["text"]) for sample in samples}
    assert shown >= {("field_filter", rows[i]["text"][:2000]) for i in (5, 6, 50)}
    assert ("missing_field", rows[7]["text"]) in shown
    (poor,) = [sample for sample in samples if sample["cause"] == "gopher_min_words"]
    assert (poor["text"], poor["value"], poor["source"]) == (rows[8]["text"], 21, "a")
    head, (row,) = dropped_table(store)
    assert dict(zip(head, row, strict=True))["gopher_min_words"] == "1"
    assert dict(zip(head, row, strict=True))["field filter"] == "3"


def test_a_column_that_is_not_there_is_a_missing_field(tmp_path: Path, small_tokenizer):
    write(tmp_path / "a.parquet", make_rows())
    data = make_data(tmp_path / "a.parquet", where='not language == "de"')
    store = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert "missing_field" not in store.manifest["sources"]["a"]["dropped"]


@pytest.mark.parametrize(("suffix", "place"), [("jsonl", "line 41"), ("parquet", "row 41")])
def test_a_field_of_another_type_is_named_with_its_place(tmp_path: Path, small_tokenizer, suffix: str, place: str):
    rows, path = make_rows(), tmp_path / f"a.{suffix}"
    for i, row in enumerate(rows):
        row["set"] = "x" if suffix == "parquet" or i != 40 else 3
    write(path, rows)
    wrong = {"jsonl": 'set == "x"', "parquet": "set == 3"}[suffix]
    first = {"jsonl": place, "parquet": "row 1"}[suffix]
    with pytest.raises(ValueError, match=rf"a\.{suffix}, {first}: field set is .*cannot be compared"):
        prepare(make_data(path, where=wrong), small_tokenizer, Layout(tmp_path / "outputs"), workers=1)


def test_filters_are_checked_as_they_are_written(tmp_path: Path):
    with pytest.raises(ValueError, match="'=' is no sign"):
        SourceConfig("jsonl", path="a", where="lang = 'en'")
    with pytest.raises(ValueError, match="documents of kind 'text' have no fields"):
        SourceConfig("text", path="a", where="lang == 'en'")
    with pytest.raises(ValueError, match=r"data\.sources\.a\.quality needs data\.corpus"):
        DataConfig("x", {"a": SourceConfig("jsonl", path="a", quality=QualitySettings())})


def test_filters_name_the_data(tmp_path: Path, small_tokenizer):
    write(tmp_path / "a.jsonl", make_rows())
    kinds = [make_data(tmp_path / "a.jsonl", **c) for c in ({}, {"where": WHERE}, {"quality": QUALITY})]
    assert len({data_fingerprint(data, small_tokenizer) for data in kinds}) == 3
    assert len({heldout_fingerprint(data, small_tokenizer) for data in kinds}) == 3
