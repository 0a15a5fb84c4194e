"""Disks that are full, whatever is being written: said in a line, nothing is lost, and the same command goes on."""

from __future__ import annotations

import errno
import os
import pkgutil
import shutil
from pathlib import Path

import pytest

from workbench.data.corpus import corpus_speeds, full_disk, task_loop
from workbench.data.corpus.corpus_plan import open_corpus
from workbench.data.corpus.full_disk import NoSpaceError
from workbench.data.corpus.pipeline import building_folder
from workbench.data.store import Prepared, prepare
from workbench.study.layout import Layout


@pytest.fixture
def store(corpus_data, small_tokenizer, tmp_path) -> Prepared:
    return prepare(corpus_data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)


def test_a_full_disk_is_said_and_loses_nothing(corpus_data, small_tokenizer, tmp_path, store, hash_store, monkeypatch):
    layout = Layout(tmp_path / "full")
    root = building_folder(layout.data(store.fingerprint))

    def free_until_half(folder: Path) -> int:
        records = folder / "records" / "tokens"
        return 123_000 if records.is_dir() and len(list(records.iterdir())) == 4 else 10**12

    with monkeypatch.context() as patched:
        patched.setattr(task_loop, "free_bytes", free_until_half)
        with pytest.raises(
            NoSpaceError, match=r"no room for tokens/000004 .* needs about 1\.0 MB, and 0\.1 MB are free .* goes on"
        ):
            prepare(corpus_data, small_tokenizer, layout, workers=1)
    assert len(list((root / "records" / "tokens").iterdir())) == 4
    done = {
        path.relative_to(root / "records").with_suffix("").as_posix() for path in (root / "records").rglob("*.json")
    }
    again: list[str] = []
    do = task_loop._do
    monkeypatch.setattr(task_loop, "_do", lambda c, phase, task, owner: again.append(task) or do(c, phase, task, owner))
    full = prepare(corpus_data, small_tokenizer, layout, workers=1)
    assert len(done) > 10
    tokens = {f"tokens/{shard.name}" for shard in open_corpus(full.directory).shards}
    assert set(again) == {*tokens, "summary/all"} - done
    assert hash_store(full.directory) == hash_store(store.directory)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("workbench.data.corpus.task_claims.Claims.take", "heldout/all"),
        ("pathlib.Path.mkdir", "heldout/all"),
        ("workbench.data.corpus.pipeline.write_manifest", "the manifest"),
    ],
)
def test_a_disk_that_is_full_between_tasks_is_said(
    corpus_data, small_tokenizer, tmp_path, store, hash_store, monkeypatch, name: str, what: str, number: int
):
    layout = Layout(tmp_path / "full")
    root = building_folder(layout.data(store.fingerprint))
    whole = pkgutil.resolve_name(name)

    def fill(*arguments, **named):
        is_meant = name != "pathlib.Path.mkdir" or arguments[0].parent.name == "scratch"
        if is_meant and (what == "the manifest" or len(list((root / "records").glob("read/*.json"))) == len(shards)):
            raise OSError(number, os.strerror(number), "a file")
        return whole(*arguments, **named)

    shards = open_corpus(store.directory).shards
    with monkeypatch.context() as patched:
        patched.setattr(name, fill)
        with pytest.raises(
            NoSpaceError, match=rf"no room for {what} of data \w+: .* MB are free in .*building .* goes on"
        ):
            prepare(corpus_data, small_tokenizer, layout, workers=1)
    assert not list((root / "claims").iterdir())
    assert hash_store(prepare(corpus_data, small_tokenizer, layout, workers=1).directory) == hash_store(store.directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_disk_that_is_full_while_it_is_written(
    corpus_data, small_tokenizer, tmp_path, store, hash_store, monkeypatch
):
    place = tmp_path / "small"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=320k tmpfs {place} 2>/dev/null"):
        pytest.skip("no file system can be mounted here")
    try:
        with monkeypatch.context() as patched:
            patched.setattr(task_loop, "free_bytes", lambda folder: 10**12)
            with pytest.raises(NoSpaceError, match=r"no room for \w+/\w+ .* the same command goes on"):
                prepare(corpus_data, small_tokenizer, Layout(place / "outputs"), workers=1)
        root = building_folder(Layout(place / "outputs").data(store.fingerprint))
        before = len(list((root / "records").rglob("*.json")))
        assert before
        assert not list((root / "scratch").iterdir())
        assert not os.system(f"mount -o remount,size=64m {place}")
        full = prepare(corpus_data, small_tokenizer, Layout(place / "outputs"), workers=1)
        assert hash_store(full.directory) == hash_store(store.directory)
    finally:
        os.system(f"umount {place}")


def fill(place: Path) -> Path:
    """Fill a file system to its last page."""
    filler = place / "filler"
    filler.write_bytes(b"x" * shutil.disk_usage(place).free)
    assert not shutil.disk_usage(place).free
    return filler


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_disk_that_is_full_before_anything_is_written(corpus_data, small_tokenizer, tmp_path, store, hash_store):
    place = tmp_path / "small"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=64m tmpfs {place} 2>/dev/null"):
        pytest.skip("no file system can be mounted here")
    try:
        filler = fill(place)
        with pytest.raises(
            NoSpaceError,
            match=r"^no room for plan\.json of data \w+: it needs about 4\.1 kB, and 0\.0 kB are free in \S+\.building .* goes on$",
        ):
            prepare(corpus_data, small_tokenizer, Layout(place / "outputs"), workers=1)
        filler.unlink()
        full = prepare(corpus_data, small_tokenizer, Layout(place / "outputs"), workers=1)
        assert hash_store(full.directory) == hash_store(store.directory)
    finally:
        os.system(f"umount {place}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_disk_that_is_full_when_all_is_done(corpus_data, small_tokenizer, tmp_path, store, hash_store, monkeypatch):
    """Neither the manifest nor how fast it was can be written."""
    place = tmp_path / "small"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=64m tmpfs {place} 2>/dev/null"):
        pytest.skip("no file system can be mounted here")
    fillers: list[Path] = []
    remember = corpus_speeds.remember

    def remember_on_a_full_disk(outputs: Path, corpus) -> None:
        fillers.append(fill(place))
        remember(outputs, corpus)

    try:
        with monkeypatch.context() as patched:
            patched.setattr("workbench.data.store.remember", remember_on_a_full_disk)
            with pytest.raises(
                NoSpaceError, match=r"^no room for manifest\.json .* needs about \d+\.\d kB, and 0\.0 kB"
            ):
                prepare(corpus_data, small_tokenizer, Layout(place / "outputs"), workers=2)
        fillers[0].unlink()
        full = prepare(corpus_data, small_tokenizer, Layout(place / "outputs"), workers=1)
        assert hash_store(full.directory) == hash_store(store.directory)
    finally:
        os.system(f"umount {place}")


@pytest.mark.parametrize("name", ["pathlib.Path.mkdir", "workbench.data.corpus.pipeline.locked"])
def test_no_room_for_the_folder_or_the_lock_is_said(corpus_data, small_tokenizer, tmp_path, monkeypatch, name: str):
    def fill_up(*arguments, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file")

    with monkeypatch.context() as patched:
        patched.setattr(name, fill_up)
        with pytest.raises(
            NoSpaceError, match=r"^no room for (the folder|\w+\.lock) of data \w+: it needs about 4\.1 kB"
        ):
            prepare(corpus_data, small_tokenizer, Layout(tmp_path / "full"), workers=1)
    assert prepare(corpus_data, small_tokenizer, Layout(tmp_path / "full"), workers=1)


def test_a_full_disk_is_known_by_number_or_by_words(tmp_path):
    assert full_disk.is_full(OSError(errno.EDQUOT, "quota"))
    assert full_disk.is_full(OSError("arrow: No space left on device"))
    assert not full_disk.is_full(OSError(errno.EIO, "broken"))
    assert full_disk.free_bytes(tmp_path / "not" / "there") > 0
    with pytest.raises(OSError, match="broken"), full_disk.naming_full_disk(tmp_path, "f", "x"):
        raise OSError(errno.EIO, "broken")
