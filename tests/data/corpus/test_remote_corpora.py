"""Corpora of files that are not here: the same store as of the same files on this machine, fetched by the tasks that read them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import fsspec
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from tests.data.conftest import forget_answers
from tests.data.corpus.conftest import make_texts
from tests.data.hub_server import DataSet, HubServer
from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig, TokenizerConfig
from workbench.data.corpus import task_loop
from workbench.data.corpus.corpus_trial import try_corpus
from workbench.data.corpus.pipeline import begin_corpus, build_corpus, building_folder
from workbench.data.corpus.remote_parts import find_row_groups
from workbench.data.corpus.shards import Part, plan_shards
from workbench.data.fingerprint import data_fingerprint
from workbench.data.hub import HubOutOfReachError, pin_revisions
from workbench.data.object_store import forget_lists
from workbench.data.store import Prepared, prepare, verify
from workbench.study.layout import Layout

TOKENIZER = TokenizerConfig(vocab_size=300, train_bytes=20_000)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """Three files of records, each in a format of its own, by their names in a data set."""
    parts = [make_texts(60, seed) for seed in (1, 2, 3)]
    lines = ["".join(json.dumps({"text": text}) + "\n" for text in texts).encode() for texts in parts]
    pyarrow.parquet.write_table(pyarrow.table({"text": parts[2]}), tmp_path / "x.parquet", row_group_size=7)
    return {
        "plain/train/0.jsonl": lines[0],
        "packed/train/0.jsonl.zst": zstandard.compress(lines[1]),
        "packed/train/1.jsonl.zst": zstandard.compress(lines[1][: lines[1].index(b"\n") + 1]),
        "table/0.parquet": (tmp_path / "x.parquet").read_bytes(),
        "README.md": b"what it is",
    }


@pytest.fixture
def texts(hub: HubServer, files: dict[str, bytes]) -> DataSet:
    """Data set `some/texts` with these files."""
    hub.sets["some/texts"] = DataSet()
    hub.sets["some/texts"].commit(files)
    return hub.sets["some/texts"]


PATTERNS = {"a": ["plain/**"], "b": ["packed/*/*.zst"], "c": ["table/*.parquet"]}


def hub_data(shard_bytes: int = 9000) -> DataConfig:
    sources = {
        name: SourceConfig("huggingface", path="some/texts", files=patterns, heldout_bytes=3000)
        for name, patterns in PATTERNS.items()
    }
    return DataConfig("remote", sources, corpus=CorpusConfig(shard_bytes))


def local_data(files: dict[str, bytes], folder: Path, shard_bytes: int = 9000) -> DataConfig:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    sources = {
        name: SourceConfig(kind, path=str(folder / place), heldout_bytes=3000)
        for name, kind, place in (("a", "jsonl", "plain"), ("b", "jsonl", "packed"), ("c", "parquet", "table"))
    }
    return DataConfig("remote", sources, corpus=CorpusConfig(shard_bytes))


def all_tokens(prepared: Prepared) -> dict[str, list[int]]:
    manifest = prepared.manifest
    return {
        name: [
            token
            for shard in source["shards"]
            for token in np.fromfile(prepared.directory / shard["file"], manifest["dtype"]).tolist()
        ]
        for name, source in manifest["sources"].items()
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_a_data_set_of_the_hub_is_what_its_files_are_on_this_machine(
    hub: HubServer, texts: DataSet, files, tmp_path: Path, workers: int
):
    data = hub_data()
    assert Counter(shard.source for shard in plan_shards(data)) == {"a": 5, "b": 2, "c": 5}
    assert not hub.fetched()
    prepared = prepare(data, TOKENIZER, Layout(tmp_path / "out"), workers=workers)
    verify(prepared)
    assert sorted(hub.fetched()) == sorted(name for name in files if name != "README.md")  # each once
    local = prepare(local_data(files, tmp_path / "local"), TOKENIZER, Layout(tmp_path / "out"), workers=1)
    assert local.fingerprint != prepared.fingerprint
    assert all_tokens(prepared) == all_tokens(local)
    commit = texts.branches["main"]
    assert {s["revision"] for s in prepared.manifest["config"]["data"]["sources"].values()} == {commit}
    plan = json.loads((prepared.directory / "plan.json").read_text())
    [part] = [p for s in plan["shards"] for p in s["parts"] if p["path"] == "packed/train/0.jsonl.zst"]
    assert part["bytes"] == part["file_bytes"] == len(files["packed/train/0.jsonl.zst"])
    assert part["content"].startswith("sha256:")


def test_a_plan_is_read_at_its_commit_though_main_goes_on(hub: HubServer, texts: DataSet, files, tmp_path: Path):
    data = pin_revisions(hub_data())
    fingerprint = data_fingerprint(data, TOKENIZER)
    directory = Layout(tmp_path / "out").data(fingerprint)
    assert begin_corpus(directory, data, TOKENIZER) is not None
    texts.commit({"plain/train/0.jsonl": b'{"text": "other"}\n', "plain/train/1.jsonl": b'{"text": "more"}\n'})
    forget_answers()
    prepared = prepare(data, TOKENIZER, Layout(tmp_path / "out"), workers=1)
    assert prepared.fingerprint == fingerprint
    local = prepare(local_data(files, tmp_path / "local"), TOKENIZER, Layout(tmp_path / "out"), workers=1)
    assert all_tokens(prepared) == all_tokens(local)
    assert data_fingerprint(pin_revisions(hub_data()), TOKENIZER) != fingerprint  # of what main is now


def test_a_fetch_that_breaks_costs_no_byte(hub: HubServer, texts: DataSet, files, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.break_after["table/0.parquet"] = [5000]
    prepared = prepare(hub_data(), TOKENIZER, Layout(tmp_path / "out"), workers=1)
    assert [line.split(" ")[2] for line in hub.asked if line.endswith("-")] == ["bytes=5000-"]
    verify(prepared)


def test_a_hub_that_ends_half_way_leaves_what_is_done_and_the_same_command_goes_on(
    hub: HubServer, texts: DataSet, files, tmp_path: Path, monkeypatch, caplog
):
    original = huggingface_hub.hf_hub_download
    failures: list[str] = []
    limit = 10**9

    def fail(path, name, **settings):
        if name.startswith("table/") and len(failures) < limit:
            failures.append(name)
            raise ConnectionError("the cable was pulled")
        return original(path, name, **settings)

    monkeypatch.setattr(task_loop, "_PAUSES_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    data = hub_data()
    with pytest.raises(
        HubOutOfReachError, match=r"does not give table/0\.parquet of data set 'some/texts': the cable was pulled; see"
    ):
        prepare(data, TOKENIZER, Layout(tmp_path / "out"), workers=1)
    assert len(failures) == 3
    assert "the cable was pulled; see" in caplog.text
    assert "read/000007 is tried again in 0.02 s" in caplog.text
    [root] = (tmp_path / "out" / "data").glob("*.building")
    assert not [*(root / "claims").iterdir(), *(root / "scratch").iterdir()]
    before = len(hub.fetched())
    assert before == 3
    limit = 5  # two more, and then it answers
    prepared = prepare(data, TOKENIZER, Layout(tmp_path / "out"), workers=1)
    assert len(failures) == 5
    assert hub.fetched()[before:] == ["table/0.parquet"]
    verify(prepared)


def test_a_worker_says_what_is_no_fault_of_the_input(hub: HubServer, texts: DataSet, tmp_path: Path, monkeypatch):
    """What is raised in a worker process is of the same class here, which decides what a study says."""
    data = pin_revisions(hub_data())
    directory = Layout(tmp_path / "out").data(data_fingerprint(data, TOKENIZER))
    assert begin_corpus(directory, data, TOKENIZER) is not None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubOutOfReachError, match="HF_HUB_OFFLINE is set"):
        build_corpus(directory, data, TOKENIZER, 2, lambda *_: None)


def test_without_the_hub_what_was_fetched_is_enough(hub: HubServer, texts: DataSet, files, tmp_path: Path, monkeypatch):
    first = prepare(hub_data(), TOKENIZER, Layout(tmp_path / "one"), workers=1)
    forget_answers()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    second = prepare(hub_data(), TOKENIZER, Layout(tmp_path / "two"), workers=1)
    assert len(hub.asked) == asked
    assert all_tokens(first) == all_tokens(second)


def test_terms_that_were_not_accepted_are_said_before_a_corpus_is_begun(hub: HubServer, texts: DataSet, tmp_path: Path):
    texts.token, texts.gated = "right", True
    with pytest.raises(ValueError, match="it is gated: accept its terms"):
        prepare(hub_data(), TOKENIZER, Layout(tmp_path / "out"), workers=1)
    assert not list((tmp_path / "out").rglob("plan.json"))


def test_a_large_table_is_cut_by_bytes_and_every_row_read_once(hub: HubServer, texts: DataSet, files, tmp_path: Path):
    local = prepare(local_data(files, tmp_path / "local"), TOKENIZER, Layout(tmp_path / "out"), workers=1)
    for shard_bytes in (5000, 30_000):
        prepared = prepare(hub_data(shard_bytes), TOKENIZER, Layout(tmp_path / str(shard_bytes)), workers=1)
        assert all_tokens(prepared) == all_tokens(local)
    shards = [shard for shard in plan_shards(hub_data(5000)) if shard.source == "c"]
    assert len(shards) == -(-len(files["table/0.parquet"]) // 5000)


def test_a_plan_knows_the_listed_sizes_and_fetches_nothing(hub: HubServer, texts: DataSet, files):
    sizes = {name: len(content) for name, content in files.items() if name != "README.md"}
    shards = plan_shards(hub_data(), ask_hub=False)
    assert [(shard.source, shard.bytes) for shard in shards] == [("a", 0), ("b", 0), ("c", 0)]  # nothing is known yet
    assert sum(shard.bytes for shard in plan_shards(hub_data())) == sum(sizes.values())
    hub.status = 503
    pinned = pin_revisions(hub_data())
    assert plan_shards(pinned, ask_hub=False) == plan_shards(hub_data())
    assert not hub.fetched()


def test_a_trial_fetches_nothing(hub: HubServer, texts: DataSet):
    data = hub_data()
    found = try_corpus(data, TOKENIZER, plan_shards(data))
    assert found is not None
    assert found[1] == "this project's source files, for the input is not here"
    assert not hub.fetched()


def test_files_in_a_bucket_are_what_they_are_on_this_machine(files, tmp_path: Path):
    bucket = fsspec.filesystem("memory")
    for name, content in files.items():
        bucket.pipe(f"/bucket/{name}", content)
    forget_lists()
    try:
        local = local_data(files, tmp_path / "local")
        sources = {
            name: dataclasses.replace(source, path=f"memory:///bucket/{Path(source.path).name}")
            for name, source in local.sources.items()
        }
        data = dataclasses.replace(local, sources=sources)
        prepared = prepare(data, TOKENIZER, Layout(tmp_path / "out"), workers=1)
        assert all_tokens(prepared) == all_tokens(prepare(local, TOKENIZER, Layout(tmp_path / "out"), workers=1))
        assert prepared.manifest["config"]["data"]["sources"]["a"]["path"] == "memory:///bucket/plain"

        changed = dataclasses.replace(data, min_document_bytes=201)
        directory = Layout(tmp_path / "out").data(data_fingerprint(changed, TOKENIZER))
        begin_corpus(directory, changed, TOKENIZER)
        bucket.pipe("/bucket/plain/train/0.jsonl", b'{"text": "other"}\n')
        forget_lists()
        with pytest.raises(ValueError, match=r"memory:///bucket/plain/train/0\.jsonl has 18 bytes .* prepare again"):
            build_corpus(directory, changed, TOKENIZER, 1, lambda *_: None)
        assert building_folder(directory).exists()
    finally:
        bucket.store.clear()
        forget_lists()


def test_row_groups_whose_bytes_lie_in_another_order_are_read_once(tmp_path, monkeypatch):
    """As of files that several writers filled: groups are numbered as the footer lists them."""
    path, groups = tmp_path / "table.parquet", 5
    pyarrow.parquet.write_table(pyarrow.table({"text": [str(i) for i in range(groups)]}), path, row_group_size=1)
    for places in ((4, 20, 40, 60, 80), (4, 60, 20, 80, 40), (80, 60, 40, 20, 4)):
        for step in (7, 25, 50, 99, 200):
            read: list[int] = []
            for begin in range(0, 100, step):
                left = iter(places)
                monkeypatch.setattr("workbench.data.corpus.remote_parts._first_byte", lambda _, left=left: next(left))
                part = find_row_groups(path, Part(str(path), begin, min(begin + step, 100), step, 100))
                read += range(part.begin, part.end)
            assert read == list(range(groups)), (places, step)
