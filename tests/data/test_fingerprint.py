from __future__ import annotations

import hashlib
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig, TokenizerConfig
from workbench.config.schema.contamination_config import Contamination
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.data import fingerprint
from workbench.data.fingerprint import data_fingerprint, describe_source, hash_file, heldout_fingerprint


def test_stores_made_by_other_rules_have_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What became of a text under rules 3, which took form feeds for newlines, is never opened as today's."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    data = DataConfig("x", {"a": SourceConfig("jsonl", path=str(tmp_path / "a.jsonl"))})
    now = data_fingerprint(data, TokenizerConfig()), heldout_fingerprint(data, TokenizerConfig())
    assert fingerprint.RULES > 3
    monkeypatch.setattr(fingerprint, "RULES", 3)
    assert not {data_fingerprint(data, TokenizerConfig()), heldout_fingerprint(data, TokenizerConfig())} & set(now)


def test_fingerprints_are_those_of_before_held_out_documents_could_be_longer(tmp_path: Path):
    """Of a store and of its held-out documents, as computed before the setting was there."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    data = DataConfig("x", {"a": SourceConfig("jsonl", path=str(tmp_path / "a.jsonl"))})
    before = "45f0ba95edecb609", "d1b87cda2a0ec864"
    for cut, same in ((1500, True), (1501, False)):
        now = replace(data, heldout_document_bytes=cut)
        prints = data_fingerprint(now, TokenizerConfig()), heldout_fingerprint(now, TokenizerConfig())
        assert [ours == theirs for ours, theirs in zip(prints, before, strict=True)] == [same] * 2


def test_conditions_and_shards_are_in_fingerprints_where_they_are_set(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    source = SourceConfig("jsonl", path=str(tmp_path / "a.jsonl"))
    plain = DataConfig("x", {"a": source})
    corpus = replace(plain, corpus=CorpusConfig())
    some, other = (replace(corpus, sources={"a": replace(source, where=where)}) for where in ("a > 1", "a > 2"))
    assert "where" not in describe_source(source)
    every = (plain, corpus, replace(plain, corpus=CorpusConfig(1000)), some, other)
    assert len({data_fingerprint(data, TokenizerConfig()) for data in every}) == 5
    assert heldout_fingerprint(corpus, TokenizerConfig()) == heldout_fingerprint(every[2], TokenizerConfig()), (
        "shards move no held-out document"
    )
    assert len({heldout_fingerprint(data, TokenizerConfig()) for data in every}) == 4


def test_settings_without_effect_name_no_corpus(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    plain = DataConfig("x", {"a": SourceConfig("jsonl", path=str(tmp_path / "a.jsonl"))})

    def prints(percent: float, near: NearDuplicates | None, corpus: bool = True) -> tuple[str, str]:
        settings = CorpusConfig(near_duplicates=near) if corpus else None
        data = replace(plain, heldout_percent=percent, corpus=settings)
        return data_fingerprint(data, TokenizerConfig()), heldout_fingerprint(data, TokenizerConfig())

    assert prints(1, None) == prints(2, None), "a corpus holds out an amount"
    assert not set(prints(1, None, corpus=False)) & set(prints(2, None, corpus=False))
    free, other = (NearDuplicates(least_similarity=least) for least in (0.7, 0.8))
    assert prints(1, free) == prints(1, other), "no similarity is computed"
    assert prints(1, replace(free, verify=True))[0] != prints(1, replace(other, verify=True))[0]
    assert len({prints(1, near)[0] for near in (None, free, replace(free, bands=15), replace(free, verify=True))}) == 4


def test_settings_of_a_cut_name_no_corpus_where_nothing_is_cut(tmp_path: Path):
    """Corpora that were made with their defaults are found as before: the names are those of then."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    texts = tmp_path / "quiz.jsonl"
    texts.write_text('{"task": "quiz", "text": "what is it"}\n')
    plain = DataConfig("x", {"a": SourceConfig("jsonl", path=str(tmp_path / "a.jsonl"))})

    def name(**settings) -> str:
        corpus = CorpusConfig(contamination=Contamination(str(texts), **settings))
        return data_fingerprint(replace(plain, corpus=corpus), TokenizerConfig())

    before = {"cut": "6dad448008df57f2", "remove": "71a2224fd34cf45c", "mark": "74c6c3bb90e0636b"}
    others = {"context_characters": 100, "shortest_piece_characters": 50, "most_pieces": 3}
    for action, known in before.items():
        assert name(action=action) == known
        for setting, value in others.items():
            assert (name(action=action, **{setting: value}) == known) == (action != "cut")
        assert name(action=action, ignore_above=None) != known


def test_a_condition_needs_a_corpus():
    source = SourceConfig("jsonl", path="a.jsonl", where="a > 1")
    with pytest.raises(ValueError, match=r"^data\.sources\.a\.where='a > 1' needs data\.corpus[^\n]*$"):
        DataConfig("x", {"a": source})
    with pytest.raises(ValueError, match="where=' ' is no condition"):
        replace(source, where=" ")


def test_a_file_of_the_same_size_and_time_is_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`cp -p`, `rsync -t` and `tar -x` keep times of modification."""
    monkeypatch.setattr(fingerprint, "_BIG_FILE_BYTES", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    path.write_text("one")
    other.write_text("two")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    first = hash_file(path)
    shutil.copy2(other, path)
    assert path.stat().st_mtime_ns == other.stat().st_mtime_ns
    assert hash_file(path) == hash_file(other) != first


def test_hashes_of_big_files_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fingerprint, "_BIG_FILE_BYTES", 1)
    monkeypatch.setattr(fingerprint, "_RECENT_NS", -1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    path.write_text("one")
    first = hash_file(path)
    fingerprint._hashes.clear()
    monkeypatch.setattr(fingerprint, "sha256", lambda _: pytest.fail("hashed again"))
    assert hash_file(path) == first


def test_what_was_changed_a_moment_ago_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where times are counted in seconds, a second change within one would not be seen."""
    monkeypatch.setattr(fingerprint, "_BIG_FILE_BYTES", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "_facts", lambda path: (3, *[path.stat().st_ctime_ns // 10**9 * 10**9] * 2, 7))
    path = tmp_path / "a.jsonl"
    for text in ("one", "two", "six"):
        path.write_text(text)
        assert hash_file(path) == hashlib.sha256(text.encode()).hexdigest()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("seed", range(5))
def test_a_changed_file_is_noticed(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever happens to a file, in this process or before it: of the same size, with another time, replaced, or put back."""
    monkeypatch.setattr(fingerprint, "_BIG_FILE_BYTES", 1)
    monkeypatch.setattr(fingerprint, "_RECENT_NS", -1)  # the times here are counted in nanoseconds
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, random = tmp_path / "a.jsonl", Random(seed)
    path.write_bytes(b"0" * 8)
    for number in range(40):
        before, content = path.stat(), random.randbytes(8)
        change = random.choice(["write", "replace", "keep the time", "touch", "new process", "nothing"])
        if change in ("write", "keep the time"):
            time.sleep(0.012)  # the kernel's clock ticks at least every 10 ms
            path.write_bytes(content)
        if change == "keep the time":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        if change == "replace":
            (tmp_path / "new").write_bytes(content)
            os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
            (tmp_path / "new").replace(path)
        if change == "touch":
            os.utime(path, ns=(number, number))
        if change == "new process":
            fingerprint._hashes.clear()
        assert hash_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.jsonl").write_text("{}")

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(fingerprint, "sha256", refuse)
    with pytest.raises(ValueError, match=r"a\.jsonl cannot be read: Permission denied"):
        describe_source(SourceConfig("jsonl", path=str(tmp_path)))


def test_order_and_field_are_part_of_the_description_and_files_that_are_not_read_are_not(tmp_path: Path):
    def describe(**contents: str) -> dict:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        (tmp_path / "data").mkdir()
        for name, content in contents.items():
            (tmp_path / "data" / name.replace("_", ".")).write_text(content)
        return describe_source(SourceConfig("jsonl", path=str(tmp_path / "data")))

    first = describe(a_jsonl="1", b_jsonl="2")
    assert describe(a_jsonl="2", b_jsonl="1") != first
    assert describe(a_jsonl="1", b_jsonl="2", c_md="3") == first
    assert describe(a_jsonl="1", b_jsonl="2", c_jsonl="3") != first
    source = SourceConfig("jsonl", path=str(tmp_path / "data"), text_field="meta.text")
    assert describe_source(source) != describe_source(SourceConfig("jsonl", path=source.path))
