"""The next checkpoint's files are compared meanwhile, and a file that changes after that is still found out."""

import hashlib
import os
import threading
import time

import pytest

from workbench.evaluate import checked_ahead
from workbench.evaluate.checked_ahead import CheckedAhead
from workbench.study import files as study_files

MISMATCH = "b does not match its checksum"


@pytest.fixture
def checkpoint(tmp_path):
    """A folder of two files, and what is recorded of them."""
    contents = {"a": b"first", "b": b"second"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    recorded = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in contents.items()}
    return tmp_path, recorded


@pytest.fixture
def compared(monkeypatch):
    """Names of the threads that compared a checkpoint's files."""
    threads = []

    def first_mismatch(folder, files):
        threads.append(threading.current_thread().name)
        return study_files.first_mismatch(folder, files)

    monkeypatch.setattr(checked_ahead, "first_mismatch", first_mismatch)
    monkeypatch.setattr(checked_ahead, "LEAST_BYTES", 1)
    return threads


def damage(path):
    """Change a byte and nothing that a file's size or time of modification would tell."""
    status = path.stat()
    time.sleep(0.02)  # so that the time of the change is another
    path.write_bytes(b"sEcond")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_what_was_begun_is_compared_once_and_in_a_thread(checkpoint, compared):
    checks = CheckedAhead()
    checks.begin(*checkpoint)
    checks.begin(*checkpoint)
    assert checks.first_mismatch(*checkpoint) is None
    assert checks.first_mismatch(*checkpoint) is None  # for another suite
    assert compared == ["next checkpoint"]


def test_without_a_word_in_advance_it_is_compared_when_asked_for(checkpoint, compared):
    assert CheckedAhead().first_mismatch(*checkpoint) is None
    assert compared == ["MainThread"]


def test_a_small_one_is_not_worth_a_thread(checkpoint, compared, monkeypatch):
    monkeypatch.setattr(checked_ahead, "LEAST_BYTES", 12)
    checks = CheckedAhead()
    checks.begin(*checkpoint)
    assert checks.first_mismatch(*checkpoint) is None
    assert compared == ["MainThread"]


def test_damage_is_found_before_and_after_it_was_begun(checkpoint, compared):
    folder, recorded = checkpoint
    before = CheckedAhead()
    after, again = CheckedAhead(), CheckedAhead()
    after.begin(folder, recorded)
    after._begun[folder].mismatch.result()
    assert again.first_mismatch(folder, recorded) is None
    damage(folder / "b")
    before.begin(folder, recorded)
    for checks in (before, after, again):
        assert checks.first_mismatch(folder, recorded) == MISMATCH
        assert checks.first_mismatch(folder, recorded) == MISMATCH


def test_a_file_that_is_missing_is_named(checkpoint, compared):
    folder, recorded = checkpoint
    begun, late = CheckedAhead(), CheckedAhead()
    late.begin(folder, recorded)
    late._begun[folder].mismatch.result()
    (folder / "a").unlink()
    begun.begin(folder, recorded)
    for checks in (begun, late):
        assert checks.first_mismatch(folder, recorded) == "a is missing"


def test_what_cannot_be_read_in_a_thread_is_read_again_when_its_turn_comes(checkpoint, compared, monkeypatch):
    calls = []

    def fails_once(folder, files):
        calls.append(folder)
        if len(calls) == 1:
            raise OSError("the server does not answer")
        return

    monkeypatch.setattr(checked_ahead, "first_mismatch", fails_once)
    checks = CheckedAhead()
    checks.begin(*checkpoint)
    assert checks.first_mismatch(*checkpoint) is None
    assert len(calls) == 2


@pytest.mark.timeout(30)
def test_whatever_goes_wrong_in_a_thread_holds_nobody_up(checkpoint, compared):
    folder, recorded = checkpoint
    del recorded["a"]["sha256"]
    checks = CheckedAhead()
    checks.begin(folder, recorded)
    with pytest.raises(KeyError, match="sha256"):
        checks.first_mismatch(folder, recorded)
