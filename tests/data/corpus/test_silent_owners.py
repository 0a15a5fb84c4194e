"""Tasks whose owners are stopped or hang: said with the owner, since when and what to do, and taken over after a while."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.data.corpus import silent_owners, task_claims
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.corpus_progress import ProgressWatch
from workbench.data.corpus.pipeline import begin_corpus
from workbench.data.corpus.silent_owners import SilenceWatch, describe_silence_now, describe_silent
from workbench.data.corpus.task_claims import BUSY_SECONDS, STALE_SECONDS, Claims
from workbench.data.corpus.task_counts import count_begun
from workbench.data.fingerprint import data_fingerprint
from workbench.study.layout import Layout

TAKE = """
import sys, time
from pathlib import Path
from workbench.data.corpus.task_claims import Claims
Claims(Path(sys.argv[1])).take(sys.argv[2])
print("taken", flush=True)
time.sleep(600)
"""


@pytest.fixture(name="clock")
def fixture_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time as this process sees it."""
    clock = [1000.0]
    monkeypatch.setattr(task_claims.time, "monotonic", lambda: clock[0])
    return clock


@pytest.fixture(name="other")
def fixture_other(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Start a process of this host that has the task `read/1` in `tmp_path`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", TAKE, tmp_path, "read/1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    yield process
    process.kill()
    process.communicate()


def stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


def test_a_stopped_process_keeps_its_task_for_a_while(tmp_path: Path, clock, other):
    claims = Claims(tmp_path)
    stop(other)
    for seconds, taken in ((0, False), (STALE_SECONDS - 1, False), (2, True)):
        clock[0] += seconds
        assert (claims.take_away("read/1") is not None) == taken
    assert claims.take("read/1") is not None


def test_a_process_that_only_touches_nothing_keeps_its_task_longer(tmp_path: Path, clock, other):
    claims = Claims(tmp_path)
    for seconds, taken in ((0, False), (STALE_SECONDS + 1, False), (BUSY_SECONDS, True)):
        clock[0] += seconds
        assert (claims.take_away("read/1") is not None) == taken


def test_who_is_waited_for_is_said_once_it_was_silent(tmp_path: Path, clock, other):
    watch = SilenceWatch(Claims(tmp_path))
    assert watch.describe() == ""
    clock[0] += silent_owners.NOTICE_SECONDS + 1
    host = re.escape(os.uname().nodename)
    busy = rf"^read/1 waits for process {other.pid} on {host}, last heard of at \d\d:\d\d:\d\d: a worker takes the task after "
    assert re.search(
        busy + rf"600 s of silence, or at once when it is ended \(`kill -KILL {other.pid}`\)$", watch.describe()
    )
    stop(other)
    clock[0] += 5
    said = watch.describe()
    assert said.endswith(
        f": it is stopped; `kill -CONT {other.pid}` wakes it, and a worker takes the task after 60 s of silence"
    )
    clock[0] += 5
    assert watch.describe() == said, "the same line is not said again"
    os.utime(tmp_path / "read@1")
    clock[0] += 5
    assert watch.describe() == ""


def test_the_one_that_was_silent_longest_is_named(tmp_path: Path):
    claims = Claims(tmp_path)
    owner = claims.take("read/1")
    assert owner is not None
    away = dataclasses.replace(owner, place="node7 boot", pid=12)
    said = describe_silent({"read/1": (owner, 2e9), "read/3": (away, 1e9), "read/2": (owner, 1.5e9)})
    assert re.fullmatch(
        r"read/3 waits for process 12 on node7, last heard of at 2001-09-\d\d \d\d:\d\d: a worker takes the task after 60 s "
        r"of silence \(and 2 more tasks wait so\)",
        said,
    )
    unknown = describe_silent({"read/1": (task_claims._UNKNOWN, 1e9)})
    assert unknown.startswith("read/1 waits for a claim that a crash left unreadable, last heard of")
    assert describe_silent({}) == ""


def test_one_look_goes_by_the_time_of_the_claims(tmp_path: Path, other):
    claims = Claims(tmp_path)
    assert describe_silence_now(claims) == ""
    old = time.time() - STALE_SECONDS - 5
    os.utime(tmp_path / "read@1", (old, old))
    assert f"process {other.pid} on" in describe_silence_now(claims)
    os.utime(tmp_path / "read@1")
    other.kill()
    other.wait()
    assert "it has ended, and the next worker takes the task at once" in describe_silence_now(claims)


@pytest.fixture(name="corpus")
def fixture_corpus(corpus_data, small_tokenizer, tmp_path: Path) -> Corpus:
    directory = Layout(tmp_path / "waited").data(data_fingerprint(corpus_data, small_tokenizer))
    begun = begin_corpus(directory, corpus_data, small_tokenizer)
    assert begun is not None
    return begun


def test_progress_and_status_say_who_is_waited_for(corpus, clock):
    said: list[str] = []
    watch = ProgressWatch(corpus, lambda text, *_: said.append(text))
    claims = corpus.folder.claims
    owner = claims.take("read/000001")
    assert owner is not None
    away = dataclasses.replace(owner, place="node7 boot", pid=12)
    (claims.folder / "read@000001").write_text(json.dumps(vars(away)))
    watch.look()
    clock[0] += silent_owners.NOTICE_SECONDS + 1
    watch.look()
    assert "waits for" not in said[0]
    assert "; read/000001 waits for process 12 on node7, last heard of at " in said[1]
    counts = count_begun(corpus.folder.root)
    assert counts is not None
    assert counts.waits == ""
    os.utime(claims.folder / "read@000001", (1e9, 1e9))
    counts = count_begun(corpus.folder.root)
    assert counts is not None
    assert counts.waits.startswith("read/000001 waits for process 12 on node7, last heard of at 2001-")


def test_a_process_whose_corpus_was_finished_meanwhile_makes_no_folder_again(corpus, tmp_path: Path):
    folder = corpus.folder
    owner = folder.claims.take("read/000000")
    assert owner is not None
    scratch = folder.scratch(owner)
    (scratch / "read").mkdir(parents=True)
    folder._make_folder(folder.root / "read" / "deep" / "er")
    assert (folder.root / "read" / "deep" / "er").is_dir()
    folder.root.replace(tmp_path / "finished")
    with pytest.raises(FileNotFoundError):
        folder._make_folder(folder.root / "read" / "deep")
    assert not folder.root.exists()
