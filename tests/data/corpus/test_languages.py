"""Languages of what a corpus keeps: by a field in every format, or detected in a sample that no shard and no order changes."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from tests.data.corpus.conftest import make_texts
from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig
from workbench.data.corpus import languages
from workbench.data.data_record import make_record
from workbench.data.fingerprint import data_fingerprint, heldout_fingerprint
from workbench.data.store import Prepared, prepare
from workbench.study.layout import Layout

FIELD = "meta.lang"


def make_rows() -> list[dict]:
    rows = [{"text": text, "meta": {"lang": "en" if i % 3 else "de"}} for i, text in enumerate(make_texts(60, 7))]
    rows[5]["meta"] = None
    rows[6]["meta"]["lang"] = None
    rows[20:20] = [dict(rows[0]), dict(rows[1])]
    return rows


def make_data(path: Path, rows: list[dict], shard_bytes: int = 9_000, **changes) -> DataConfig:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=25)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = SourceConfig(path.suffix[1:], path=str(path), heldout_bytes=1000, **changes)
    return DataConfig("languages", {"a": source}, corpus=CorpusConfig(shard_bytes))


def languages_of(store: Prepared) -> tuple[dict, dict]:
    facts = store.manifest["sources"]["a"]
    return facts["languages"], facts["languages_by"]


@pytest.fixture(name="with_detector")
def fixture_with_detector(monkeypatch: pytest.MonkeyPatch):
    """Put a library in the detector's place that takes a text's length for its language."""

    def classify(text: str) -> tuple[str, float]:
        return "xx" if len(text) % 2 else "yy", 0.5

    monkeypatch.setitem(sys.modules, languages.DETECTOR, SimpleNamespace(classify=classify))
    monkeypatch.setattr(languages, "version", lambda name: "1.0")
    languages._identifier.cache_clear()
    yield classify
    languages._identifier.cache_clear()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_documents_that_stay_are_counted_by_the_field(tmp_path: Path, small_tokenizer, suffix: str):
    rows = make_rows()
    data = make_data(tmp_path / f"a.{suffix}", rows, language=FIELD)
    store = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    held = {json.loads(line)["text"] for line in store.heldout_path("a").read_text().splitlines()}
    first = {row["text"]: (row["meta"] or {}).get("lang") or "not stated" for row in rows}
    expected = Counter(language for text, language in first.items() if text not in held)
    counts, by = languages_of(store)
    assert counts == expected
    assert counts["not stated"] == 2
    assert by == {"field": FIELD, "documents": store.manifest["sources"]["a"]["kept"]}
    assert make_record(store.directory)["sources"]["a"]["languages"] == counts


def test_a_column_that_is_not_there_is_stated_of_no_document(tmp_path: Path, small_tokenizer):
    data = make_data(tmp_path / "a.parquet", make_rows(), language="meta.language")
    counts, by = languages_of(prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1))
    assert counts == {"not stated": by["documents"]}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(("value", "what"), [(["en", "de"], "a list"), (7, "a number"), ("x" * 61, "61 characters")])
def test_what_is_no_language_is_said_with_its_place(tmp_path: Path, small_tokenizer, suffix: str, value, what: str):
    rows = [{"text": text, "lang": None} for text in make_texts(40, 3)]
    rows[30]["lang"] = value
    data = make_data(tmp_path / f"a.{suffix}", rows, language="lang")
    place = "line" if suffix == "jsonl" else "row"
    with pytest.raises(ValueError, match=rf"a\.{suffix}, {place} 31: field 'lang' (is|has) {what}[^\n]*language$"):
        prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)


def test_text_that_is_taken_for_a_language_is_refused(tmp_path: Path, small_tokenizer, monkeypatch):
    monkeypatch.setattr(languages, "_MOST_LANGUAGES", 10)
    rows = [{"text": text, "lang": str(i)} for i, text in enumerate(make_texts(40, 3))]
    data = make_data(tmp_path / "a.jsonl", rows, language="lang", shard_bytes=10**6)
    with pytest.raises(ValueError, match="more than 10 different values in one shard, such as '10'"):
        prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)


def test_a_sample_depends_neither_on_shards_nor_on_their_order(tmp_path: Path, small_tokenizer, with_detector):
    found = []
    rows = make_rows()
    for shard_bytes in (5_000, 10**6):
        data = make_data(tmp_path / "a.jsonl", rows, shard_bytes)
        data = dataclasses.replace(data, corpus=dataclasses.replace(data.corpus, language_sample=20))
        layout = Layout(tmp_path / f"outputs{shard_bytes}")
        store = prepare(data, small_tokenizer, layout, workers=1)
        found.append(languages_of(store))
        assert len(store.manifest["sources"]["a"]["shards"]) == (1 if shard_bytes == 10**6 else 10)
    assert found[0] == found[1]
    counts, by = found[0]
    assert sum(counts.values()) == 20
    assert by == {"detector": f"{languages.DETECTOR} 1.0", "documents": 20}


def test_a_sample_larger_than_the_source_is_all_of_it(tmp_path: Path, small_tokenizer, with_detector):
    data = make_data(tmp_path / "a.jsonl", make_rows())
    data = dataclasses.replace(data, corpus=dataclasses.replace(data.corpus, language_sample=1000))
    store = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    held = {json.loads(line)["text"] for line in store.heldout_path("a").read_text().splitlines()}
    texts = {row["text"] for row in make_rows()} - held
    counts, by = languages_of(store)
    assert counts == Counter(with_detector(text[:2000])[0] for text in texts)
    assert by["documents"] == store.manifest["sources"]["a"]["kept"]


def test_a_field_goes_before_the_detector(tmp_path: Path, small_tokenizer):
    data = make_data(tmp_path / "a.jsonl", make_rows(), language=FIELD)
    data = dataclasses.replace(data, corpus=dataclasses.replace(data.corpus, language_sample=5))
    assert languages_of(prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1))[1]["field"] == FIELD


def test_a_detector_that_is_missing_is_said_before_anything_is_read(tmp_path: Path, small_tokenizer, monkeypatch):
    def is_missing(name: str) -> str:
        raise languages.PackageNotFoundError(name)

    monkeypatch.setattr(languages, "version", is_missing)
    data = make_data(tmp_path / "a.jsonl", make_rows())
    data = dataclasses.replace(data, corpus=dataclasses.replace(data.corpus, language_sample=5))
    with pytest.raises(ValueError, match=r"^data\.corpus\.language_sample needs the library py3langid: `pip install"):
        prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert not list((tmp_path / "outputs" / "data").glob("*/records"))


def test_where_nothing_is_set_nothing_is_counted(tmp_path: Path, small_tokenizer):
    data = make_data(tmp_path / "a.jsonl", make_rows())
    store = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert not [name for name in store.manifest["sources"]["a"] if name.startswith("languages")]


def test_fingerprints_have_languages_only_where_they_are_counted(tmp_path: Path, small_tokenizer):
    plain = make_data(tmp_path / "a.jsonl", make_rows())
    field = make_data(tmp_path / "a.jsonl", make_rows(), language=FIELD)
    sample = dataclasses.replace(plain, corpus=dataclasses.replace(plain.corpus, language_sample=5))
    assert len({data_fingerprint(data, small_tokenizer) for data in (plain, field, sample)}) == 3
    assert len({heldout_fingerprint(data, small_tokenizer) for data in (plain, field, sample)}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "text"}, r"language='lang': documents of kind 'text' have no fields"),
        ({"kind": "tokens"}, r"language='lang' is about texts"),
        ({"language": " "}, r"language=' ' is no field"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SourceConfig(**{"kind": "jsonl", "path": "a", "language": "lang", **changes})


def test_a_field_of_languages_needs_a_corpus():
    with pytest.raises(ValueError, match=r"^data\.sources\.a\.language='lang' needs data\.corpus[^\n]*$"):
        DataConfig("x", {"a": SourceConfig("jsonl", path="a", language="lang")})
    with pytest.raises(ValueError, match=r"language_sample=0"):
        CorpusConfig(language_sample=0)


def test_the_detector_that_is_named_knows_languages():
    pytest.importorskip(languages.DETECTOR)
    found = {languages.detect(text) for text in ("Der schnelle braune Fuchs springt.", "这是一个测试文档。")}
    assert found == {"de", "zh"}
