from __future__ import annotations

import dataclasses
import logging
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from workbench.config.schema import DataConfig, SourceConfig, TokenizerConfig
from workbench.data import hub
from workbench.data.fingerprint import data_fingerprint, describe_source, heldout_fingerprint
from workbench.data.sources import read_items
from workbench.data.store import prepare
from workbench.study.layout import Layout

SET = SourceConfig("huggingface", path="some/set", heldout_bytes=4000)
COMMITS = {None: "a" * 40, "main": "a" * 40, "v1": "b" * 40}


class Hub:
    """Stands in for the hub's API: it knows some revisions, and can be out of reach."""

    def __init__(self) -> None:
        self.commits: dict[str | None, str] = dict(COMMITS)
        self.error: Exception | None = None
        self.asked = 0

    def dataset_info(self, path: str, revision: str | None = None, timeout: float | None = None) -> SimpleNamespace:
        self.asked += 1
        if self.error:
            raise self.error
        return SimpleNamespace(sha=self.commits[revision])


def answer(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("no\n\nsuch thing", response=response)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def api(tmp_path, monkeypatch):
    """A hub that answers, and a cache folder of its own."""
    made = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hub.resolve_revision.cache_clear()
    yield made
    hub.resolve_revision.cache_clear()


def test_no_revision_is_the_commit_that_the_hub_names(api):
    assert hub.resolve_revision("some/set", None) == "a" * 40
    assert hub.resolve_revision("some/set", "v1") == "b" * 40
    assert describe_source(SET)["revision"] == "a" * 40
    assert api.asked == 2  # once per process and revision


def test_a_commit_needs_no_hub(api):
    api.error = ConnectionError("no network")
    assert hub.resolve_revision("some/set", "c" * 40) == "c" * 40
    assert api.asked == 0


def test_changed_data_have_another_fingerprint_and_the_same_commit_the_same(api):
    data, tokenizer = DataConfig("x", {"s": SET}), TokenizerConfig()
    first = data_fingerprint(data, tokenizer), heldout_fingerprint(data, tokenizer)
    pinned = hub.pin_revisions(data)
    assert pinned.sources["s"].revision == "a" * 40
    api.commits[None] = "d" * 40
    hub.resolve_revision.cache_clear()
    assert data_fingerprint(data, tokenizer) != first[0]
    assert heldout_fingerprint(data, tokenizer) != first[1]
    assert (data_fingerprint(pinned, tokenizer), heldout_fingerprint(pinned, tokenizer)) == first


def test_without_the_hub_its_last_answer_counts_and_is_named(api, caplog):
    assert hub.resolve_revision("some/set", "main") == "a" * 40
    hub.resolve_revision.cache_clear()
    for error in (ConnectionError("no network"), answer(HfHubHTTPError, 503)):
        api.error = error
        with caplog.at_level(logging.WARNING):
            assert hub.resolve_revision("some/set", "main") == "a" * 40
        assert f"some/set is taken at commit {'a' * 40}, its revision=main of 20" in caplog.text
        hub.resolve_revision.cache_clear()
        caplog.clear()


def test_without_the_hub_and_an_answer_a_commit_is_asked_for(api):
    api.error = ConnectionError("no network\nat all")
    with pytest.raises(
        ValueError, match=r"'some/set': the hub does not answer .*\(no network at all\): set the source's"
    ) as caught:
        describe_source(SET)
    assert str(caught.value).isprintable()


def test_what_the_hub_does_not_have_is_named_and_no_old_answer_taken(api):
    hub.resolve_revision("some/set", None)
    hub.resolve_revision.cache_clear()
    api.error = answer(RepositoryNotFoundError, 404)
    with pytest.raises(ValueError, match=r"the hub gives no data set 'some/set' with revision=None: no such thing"):
        hub.resolve_revision("some/set", None)


def test_records_are_read_at_that_commit_and_the_store_records_it(
    api, monkeypatch, tmp_path, make_documents, small_tokenizer
):
    import datasets

    asked = []

    def load(path, subset, *, split, revision, streaming):
        asked.append((path, subset, split, revision, streaming))
        return iter({"meta": {"text": text}} for text in make_documents(200, seed=1))

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = dataclasses.replace(SET, text_field="meta.text", subset="en")
    data = DataConfig("x", {"s": source}, heldout_percent=5.0)
    prepared = prepare(data, small_tokenizer, Layout(tmp_path), workers=1)
    assert set(asked) == {("some/set", "en", "train", "a" * 40, True)}
    assert prepared.manifest["config"]["data"]["sources"]["s"]["revision"] == "a" * 40
    api.commits[None] = "d" * 40
    hub.resolve_revision.cache_clear()
    assert prepare(data, small_tokenizer, Layout(tmp_path), workers=1).fingerprint != prepared.fingerprint
    assert asked[-1][3] == "d" * 40


def test_errors_of_a_data_set_name_the_row(monkeypatch):
    import datasets

    def rows(*_, **__):
        yield {"text": "fine"}
        yield {"text": None}

    monkeypatch.setattr(datasets, "load_dataset", rows)
    with pytest.raises(ValueError, match=r"^some/set, row 2: field 'text' is null"):
        list(read_items(SET))

    def script(*_, **__):  # `datasets` has no class of its own for it
        raise RuntimeError("Dataset scripts are no longer supported, but found set.py")

    monkeypatch.setattr(datasets, "load_dataset", script)
    with pytest.raises(
        ValueError, match=r"^data set some/set cannot be read after row 0: Dataset scripts are no longer"
    ):
        list(read_items(SET))

    def broken(*_, **__):
        yield {"text": "fine"}
        raise OSError("connection\nlost")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(ValueError, match=r"^data set some/set cannot be read after row 1: connection lost"):
        list(read_items(SET))

    def silent(*_, **__):
        yield {"text": "fine"}
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", silent)
    with pytest.raises(
        hub.HubOutOfReachError, match=r"^data set some/set cannot be read after row 1: no route; see whether"
    ):
        list(read_items(SET))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: iter([]))
    with pytest.raises(ValueError, match="data set some/set is empty: split 'train' has no row"):
        list(read_items(SET))


def test_a_folder_is_described_by_its_files(tmp_path, api):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"text": "a"}\n')
    source = dataclasses.replace(SET, path=str(tmp_path / "set"))
    first = describe_source(source)
    (tmp_path / "set" / "train.jsonl").write_text('{"text": "b"}\n')
    assert describe_source(source) != first
    (tmp_path / "set" / "train.jsonl").write_text('{"text": "a"}\n')
    assert describe_source(source) == first
    (tmp_path / "set" / "train.jsonl").rename(tmp_path / "set" / "test.jsonl")
    assert describe_source(source) != first
    assert api.asked == 0
