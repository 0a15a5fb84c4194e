"""Files that several processes share."""

import os
import shutil
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from workbench.study.files import exclusive, is_held, write_atomically


@contextmanager
def colleague():
    """Somebody who may read what this process made, and nothing more."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared_folder():
    """A folder that everybody may read: pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_reader_may_ask_whether_a_lock_is_held(shared_folder):
    lock = shared_folder / "lock"
    with exclusive(lock):
        lock.chmod(0o444)
        with colleague():
            assert is_held(lock)
    with colleague():
        assert not is_held(lock)
        assert not is_held(shared_folder / "none")


def test_asking_changes_nothing(tmp_path):
    lock = tmp_path / "lock"
    assert not is_held(lock)
    assert not lock.exists()
    with exclusive(lock):
        assert is_held(lock)
    assert not is_held(lock)


def test_threads_that_write_one_file_leave_one_of_their_texts(tmp_path):
    path, texts = tmp_path / "file", [str(i) * 100_000 for i in range(4)]
    threads = [threading.Thread(target=write_atomically, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud83d")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
