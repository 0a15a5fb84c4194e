"""Sources of this environment's texts that read some packages alone."""

from __future__ import annotations

import pytest

from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig
from workbench.data import header_texts, python_texts
from workbench.data.corpus.shard_reading import read_shard
from workbench.data.corpus.shards import plan_shards
from workbench.data.fingerprint import describe_source
from workbench.data.sources import group_sources


def test_files_of_the_packages_that_are_named_are_read_alone():
    listed = python_texts.list_files("rich", "click")
    assert {path.split("site-packages/")[1].split("/")[0].split("-")[0] for _, path in listed} == {"rich", "click"}
    assert set(listed) < set(python_texts.list_files())
    assert [key for key, _ in listed] == sorted({key for key, _ in listed})
    assert 0 < len(header_texts.list_headers("numpy")) < len(header_texts.list_headers())


def test_a_corpus_reads_them_and_a_group_of_sources_too():
    source = SourceConfig("python_prose", packages=["click"], heldout_bytes=1000)
    data = DataConfig("mine", {"prose": source}, corpus=CorpusConfig())
    [shard] = plan_shards(data)
    assert shard.parts[0].end == len(python_texts.list_files("click"))
    assert any("command" in found.text for batch in read_shard(shard, source) for found in batch)
    code = SourceConfig("python_code", packages=["click"])
    [both] = group_sources(DataConfig("mine", {"prose": source, "code": code}))
    assert len(list(both.items())) == shard.parts[0].end
    apart = group_sources(DataConfig("mine", {"prose": source, "code": SourceConfig("python_code")}))
    assert [group.names for group in apart] == [("prose",), ("code",)]


def test_they_name_the_data_without_the_other_packages_and_the_library():
    described = describe_source(SourceConfig("python_prose", packages=["Click"]))
    assert [row[0] for row in described["corpus"]] == ["python", "click"]
    assert described["packages"] == ["Click"]
    everything = describe_source(SourceConfig("python_prose"))
    assert "packages" not in everything
    assert everything["corpus"] == python_texts.describe_corpus()
    assert {"abc.py", "rich"} < {row[0] for row in everything["corpus"]}


@pytest.mark.parametrize(
    ("kind", "packages", "said"),
    [
        ("jsonl", ["click"], r"source packages=\['click'\] is for sources of the kinds python_\*, not 'jsonl'"),
        ("python_code", [], r"source packages=\[\]: name packages"),
        ("python_code", ["click", "click"], "each once"),
    ],
)
def test_packages_that_mean_nothing_are_refused(kind, packages, said):
    with pytest.raises(ValueError, match=said):
        SourceConfig(kind, path="x", packages=packages)


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"source packages: 'clic' is no installed package of requirements\.lock"):
        python_texts.list_files("rich", "clic")
