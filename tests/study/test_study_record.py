"""`study.json` with several writers."""

import threading
import time

import pytest

from workbench.study import files
from workbench.study.layout import Layout
from workbench.study.study_record import change_record, read_record


@pytest.fixture
def eager(monkeypatch):
    """Writers that wait for the lock look again at once."""
    sleep = time.sleep
    monkeypatch.setattr(files.time, "sleep", lambda seconds: sleep(0.001))


@pytest.mark.usefixtures("eager")
def test_no_write_of_several_is_lost(tmp_path):
    layout = Layout(tmp_path)

    def add(name):
        for key in (f"{name}{i}" for i in range(5)):
            change_record(layout, "mine", lambda record, key=key: {**record, key: 1})

    threads = [threading.Thread(target=add, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_record(layout, "mine") == {f"{name}{i}": 1 for name in "abcd" for i in range(5)}


def test_a_change_that_fails_leaves_the_record(tmp_path):
    layout = Layout(tmp_path)
    change_record(layout, "mine", lambda record: {"a": 1})
    with pytest.raises(KeyError):
        change_record(layout, "mine", lambda record: {"b": record["none"]})
    assert read_record(layout, "mine") == {"a": 1}


def test_a_damaged_record_is_not_overwritten(tmp_path):
    layout = Layout(tmp_path)
    change_record(layout, "mine", lambda record: {"a": 1})
    layout.study_file("mine").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        change_record(layout, "mine", lambda record: {"b": 1})
    assert layout.study_file("mine").read_text() == "{"
