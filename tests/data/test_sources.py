from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
import zstandard

import workbench
from workbench.config.schema import DataConfig, SourceConfig, TokenizerConfig, from_dict, to_dict
from workbench.data.fingerprint import describe_source
from workbench.data.sources import group_sources, normalise, read_items

TEXTS = ["first document\nwith two lines", "second: naïve 东京 🙂", "third\r\nwith a carriage return", "{}"]


def as_jsonl(texts: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({field: t, "id": i}) + "\n" for i, t in enumerate(texts)).encode()


def make(kind: str, folder: Path) -> SourceConfig:
    folder.mkdir(exist_ok=True)
    if kind == "jsonl":
        (folder / "a.jsonl").write_bytes(as_jsonl(TEXTS[:2]))
        (folder / "b.jsonl").write_bytes(as_jsonl(TEXTS[2:]))
    elif kind == "jsonl.zst":
        frames = [zstandard.ZstdCompressor().compress(as_jsonl(part)) for part in (TEXTS[:1], TEXTS[1:])]
        (folder / "a.jsonl.zst").write_bytes(b"".join(frames))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"id": range(4), "text": TEXTS}), folder / "a.parquet")
    elif kind == "text":
        for i, text in enumerate(TEXTS):
            (folder / f"{i}.txt").write_bytes(text.encode())
    return SourceConfig(kind.partition(".")[0], path=str(folder))


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.zst", "parquet", "text"])
def test_every_reader_gives_the_same_documents(kind, tmp_path):
    expected = [t.replace("\r\n", "\n") if kind == "text" else t for t in TEXTS]
    items = list(read_items(make(kind, tmp_path / "data")))
    assert [item.payload for item in items] == expected
    assert [item.key for item in items] == [hashlib.sha256(t.encode()).hexdigest() for t in expected]


def test_a_hugging_face_data_set_is_streamed(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(as_jsonl(TEXTS, "content"))
    source = SourceConfig("huggingface", path=str(tmp_path / "set"), text_field="content")
    assert [item.payload for item in read_items(source)] == TEXTS


def test_a_glob_a_file_and_a_folder_are_paths(tmp_path):
    source = make("jsonl", tmp_path / "data")
    one = dataclasses.replace(source, path=str(tmp_path / "data" / "b.jsonl"))
    some = dataclasses.replace(source, path=str(tmp_path / "*" / "a*"))
    assert [i.payload for i in read_items(one)] == TEXTS[2:]
    assert [i.payload for i in read_items(some)] == TEXTS[:2]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "text"])
def test_a_missing_path_is_quoted(kind, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        list(read_items(SourceConfig(kind, path=str(tmp_path / "nowhere"))))


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.zst", "parquet"])
def test_a_missing_field_is_named_with_those_there(kind, tmp_path):
    source = dataclasses.replace(make(kind, tmp_path / "data"), text_field="body")
    with pytest.raises(ValueError, match=r"'body' \(there: .*text"):
        list(read_items(source))


def test_damaged_files_are_named_with_the_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl(TEXTS) + b'{"text": "cut o')
    with pytest.raises(ValueError, match=r"a\.jsonl is truncated after line 4"):
        list(read_items(SourceConfig("jsonl", path=str(path))))
    packed = tmp_path / "b.jsonl.zst"
    packed.write_bytes(gzip.compress(as_jsonl(TEXTS)))
    with pytest.raises(ValueError, match=r"b\.jsonl\.zst"):
        list(read_items(SourceConfig("jsonl", path=str(packed))))
    table = tmp_path / "c.parquet"
    table.write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"c\.parquet"):
        list(read_items(SourceConfig("parquet", path=str(table))))


def test_the_description_follows_content_and_not_place(tmp_path):
    first, second = make("jsonl", tmp_path / "one"), make("jsonl", tmp_path / "two")
    assert describe_source(first) == describe_source(second)
    (tmp_path / "two" / "b.jsonl").write_bytes(as_jsonl(TEXTS[3:]))
    assert describe_source(first) != describe_source(second)


def test_a_revision_is_part_of_the_description():
    source = SourceConfig("huggingface", path="some/set", revision="a" * 40)
    assert describe_source(source) != describe_source(dataclasses.replace(source, revision="b" * 40))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc\n\r\n", "a\nb\nc"),
        ("a\fb\x1cc\x1dd\x1ee\vf\u2028g\u2029h\u0085i", "a\fb\x1cc\x1dd\x1ee\vf\u2028g\u2029h\u0085i"),
        ("\n\n  a \n b\f\n", "  a \n b\f"),
        ("a\r\r\nb", "a\n\nb"),
    ],
)
def test_only_crlf_and_cr_become_newlines(text, expected):
    assert normalise(text) == expected


def test_python_sources_are_read_together_and_once():
    prose, code = SourceConfig("python_prose"), SourceConfig("python_code")
    groups = group_sources(DataConfig("x", {"p": prose, "j": SourceConfig("jsonl", path="x"), "c": code}))
    assert [group.names for group in groups] == [("p", "c"), ("j",)]
    with pytest.raises(ValueError, match="same kind 'python_prose'"):
        group_sources(DataConfig("x", {"p": prose, "q": prose}))


@pytest.mark.parametrize("group", ["data", "tokenizer"])
def test_config_files_hold_known_fields(group):
    folder = Path(workbench.__file__).parents[1] / "conf" / group
    files = sorted(folder.glob("*.yaml"))
    assert len(files) >= 3
    for path in files:
        text = path.read_text()
        assert text.startswith("# workbench ")
        values = yaml.safe_load(text.replace("???", "somewhere"))
        assert values.pop("defaults") == [f"base_{group}", "_self_"]
        built = from_dict(DataConfig if group == "data" else TokenizerConfig, values)
        assert to_dict(built)


@pytest.mark.parametrize("setting", [{"split": "validation"}, {"subset": "en"}, {"revision": "main"}])
def test_what_only_the_hubs_data_sets_have_is_refused_elsewhere(setting):
    with pytest.raises(ValueError, match=r"is for sources of kind 'huggingface', not 'jsonl': leave it out"):
        from_dict(SourceConfig, {"kind": "jsonl", "path": "a.jsonl", **setting}, as_written=True)
