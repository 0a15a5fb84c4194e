"""Claims: one owner a task, taken over where the owner is dead, and from nobody else."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from workbench.data.corpus import task_claims
from workbench.data.corpus.task_claims import Claims, Owner
from workbench.data.corpus.task_folder import TaskFolder


def rewrite(claims: Claims, task: str, **changes) -> Owner:
    """Make a claim somebody else's."""
    owner = claims.owner(task)
    assert owner is not None
    changed = dataclasses.replace(owner, **changes)
    (claims.folder / task.replace("/", "@")).write_text(json.dumps(vars(changed)))
    return changed


def test_a_task_has_one_owner(tmp_path: Path):
    claims = Claims(tmp_path)
    owner = claims.take("read/000001")
    assert owner is not None
    assert claims.take("read/000001") is None
    assert claims.take("read/000002") is not None
    assert claims.all()["read/000001"] == owner
    claims.release("read/000001", dataclasses.replace(owner, token="other"))
    assert claims.take("read/000001") is None
    claims.release("read/000001", owner)
    assert claims.take("read/000001") is not None
    assert len(list(tmp_path.iterdir())) == 2


def test_of_many_processes_one_gets_it(tmp_path: Path):
    """Threads stand for processes: the file system knows no difference."""
    found: list[Owner | None] = []
    start = threading.Barrier(16)

    def take() -> None:
        start.wait()
        found.extend(Claims(tmp_path).take(f"read/{i}") for i in range(50))

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(owner is not None for owner in found) == 50


def test_the_claim_of_a_living_process_stays(tmp_path: Path):
    claims = Claims(tmp_path)
    claims.take("read/1")
    assert claims.take_away("read/1") is None
    assert claims.take_away("read/2") is None


def test_a_process_that_ended_owns_nothing(tmp_path: Path):
    code = "import sys; from pathlib import Path; from workbench.data.corpus.task_claims import Claims\n"
    code += "assert Claims(Path(sys.argv[1])).take('read/1')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, env=environment)
    claims = Claims(tmp_path)
    assert claims.take("read/1") is None
    dead = claims.take_away("read/1")
    assert dead is not None
    assert dead.is_gone()
    assert claims.take("read/1") is not None


def test_a_process_id_that_is_used_again_is_another_process(tmp_path: Path):
    claims = Claims(tmp_path)
    claims.take("read/1")
    rewrite(claims, "read/1", started="1")
    assert claims.take_away("read/1") is not None


def test_a_dead_process_that_its_parent_has_not_collected_is_dead(tmp_path: Path):
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    process.start()
    os.waitid(os.P_PID, process.pid or 0, os.WEXITED | os.WNOWAIT)
    assert task_claims._started(process.pid or 0) is None
    process.join()


def test_of_another_host_only_time_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    claims = Claims(tmp_path)
    clock = [1000.0]
    monkeypatch.setattr(task_claims.time, "monotonic", lambda: clock[0])
    claims.take("read/1")
    away = rewrite(claims, "read/1", place="elsewhere", pid=1)
    path = tmp_path / "read@1"
    for touched in range(5):
        os.utime(path, ns=(touched, touched))  # whatever that host's clock says
        clock[0] += task_claims.STALE_SECONDS - 1
        assert claims.take_away("read/1") is None
    clock[0] += task_claims.STALE_SECONDS + 1
    assert claims.take_away("read/1") == away
    assert claims.take("read/1") is not None


def test_a_claim_is_touched_while_its_task_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(task_claims, "TOUCH_SECONDS", 0.01)
    claims = Claims(tmp_path)
    owner = claims.take("read/1")
    assert owner is not None
    path = tmp_path / "read@1"
    os.utime(path, ns=(1, 1))
    touched = threading.Event()
    with claims.kept("read/1", owner):
        for _ in range(500):
            if path.stat().st_mtime_ns > 1:
                touched.set()
                break
            threading.Event().wait(0.01)
    assert touched.is_set()


def test_a_claim_that_finds_no_room_leaves_nothing(tmp_path: Path, monkeypatch):
    def fill(path: Path, *arguments, **named) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(OSError, match="No space left"):
        Claims(tmp_path).take("read/1")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_gives_no_claim(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        Claims(tmp_path / "gone").take("read/1")


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b'{"place": "x"}', b"[1]", b"\xff\xfe"])
def test_of_a_claim_that_a_crash_left_unreadable_only_time_tells(tmp_path: Path, monkeypatch, content: bytes):
    clock = [1000.0]
    monkeypatch.setattr(task_claims.time, "monotonic", lambda: clock[0])
    claims = Claims(tmp_path)
    (tmp_path / "read@1").write_bytes(content)
    assert [owner.is_gone() for owner in claims.all().values()] == [False]
    assert claims.take("read/1") is None
    assert claims.take_away("read/1") is None
    clock[0] += task_claims.STALE_SECONDS + 1
    assert claims.take_away("read/1") is not None
    assert claims.take("read/1") is not None


def test_an_unknown_owner_has_no_folder_that_is_deleted(tmp_path: Path, monkeypatch):
    folder = TaskFolder(tmp_path)
    folder.claims.folder.mkdir()
    living = folder.claims.take("read/2")
    assert living is not None
    folder.scratch(living).mkdir(parents=True)
    (folder.claims.folder / "read@1").touch()
    monkeypatch.setattr(task_claims, "STALE_SECONDS", -1.0)
    unknown = folder.claims.take_away("read/1")
    assert unknown is not None
    folder.discard(unknown)
    assert folder.scratch(living).is_dir()
